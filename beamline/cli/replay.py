"""``beamline replay``: the files of recorded runs, written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.documents.journal import Journal

Documents = Iterable[tuple[str, Mapping[str, Any]]]


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone().timestamp()
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no time: expected ISO 8601, as 2026-11-21 or 2026-11-21T14:30."
        ) from None


# A run may be named "-1", which is an index and not an option.
@click.command(name="replay", context_settings={"ignore_unknown_options": True})
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="[RUN|FILE.journal]... DIRECTORY",
    callback=options.no_misspelt_options,
)
@click.option(
    "--to",
    "kind",
    required=True,
    metavar="[nexus|cxi|nxsas|MODULE:FACTORY]",
    help="What to write. FACTORY(directory) makes a document consumer; it is called for each run.",
)
@click.option(
    "--since", callback=_moment, metavar="TIME", help="Runs that started then or later (ISO 8601)."
)
@click.option("--until", callback=_moment, metavar="TIME", help="Runs that started before.")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["journal", "catalog"]),
    default="journal",
    show_default=True,
    help="Where the documents come from; the journal has them exactly.",
)
@options.config
@options.data_dir
def command(
    names: tuple[str, ...],
    kind: str,
    since: float | None,
    until: float | None,
    origin: str,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Write the files of runs into DIRECTORY, from the journal.

    RUN is a scan_id, the beginning of a uid, or -1 for the latest run (-2 for the one before);
    FILE.journal is the journal file of a run, wherever it is; --since and --until choose runs by
    time. The files are the same as those written during the run. A run that was cut off gets a
    stop document that says so. The names of the files are printed.

    Exit status 1 if a run could not be replayed or a document was refused; the others are written.
    """
    from beamline.core.config import load_settings
    from beamline.core.errors import BeamlineError, ConfigurationError
    from beamline.documents.journal import Journal

    *runs, folder = names
    if folder.startswith("-"):
        raise click.NoSuchOption(folder)
    if not runs and since is None and until is None:
        raise click.UsageError("name a RUN and a DIRECTORY, or give --since or --until.")
    make = _factory(kind)
    directory = Path(folder)
    if directory.exists() and not directory.is_dir():
        raise click.UsageError(f"DIRECTORY comes last, but {directory} is a file.")
    data = load_settings(config_path, data_dir=data_dir).data_dir
    sources = list(_sources(Journal(data / "journal"), runs, since, until, origin, data))
    if not sources:
        click.echo("No run started in that time.", err=True)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write into {directory}: {error.strerror}.") from None
    failed = False
    for label, documents in sources:
        try:
            failed |= _write(label, documents(), make(directory), kind)
        except BeamlineError as error:
            if len(sources) == 1:
                raise
            failed = True
            click.echo(f"beamline: run {label}: {error}", err=True)
    if failed:
        raise SystemExit(1)


def _sources(
    journal: Journal,
    runs: Iterable[str],
    since: float | None,
    until: float | None,
    origin: str,
    data: Path,
) -> Iterator[tuple[str, Callable[[], Documents]]]:
    """Yield a label and what gives the documents, for each run that was asked for."""
    from functools import partial

    from beamline.core.errors import BeamlineError
    from beamline.documents.journal import read_journal

    chosen = []
    for name in runs:
        if name.endswith(".journal") or Path(name).is_file():
            yield Path(name).name.removesuffix(".journal")[:8], partial(read_journal, Path(name))
        else:
            chosen.append(journal.find(name))
    if since is not None or until is not None:
        first, last = since or float("-inf"), until if until is not None else float("inf")
        chosen += [run for run in journal.runs() if first <= run.time < last]
    catalog: Any = None
    for run in chosen:
        if run.exit_status == "running":
            raise BeamlineError(
                f"run {run.uid[:8]} is still being recorded: replay it when it has ended."
            )
        if origin == "catalog":
            if catalog is None:
                from beamline.catalog import open_catalog

                catalog = open_catalog(data)
            yield run.uid[:8], partial(_from_catalog, catalog, run.uid)
        else:
            yield run.uid[:8], partial(journal.documents, run)


def _from_catalog(catalog: Any, uid: str) -> Documents:
    from beamline.core.errors import MissingError

    try:
        found = catalog[uid]
    except KeyError:
        raise MissingError(
            f"run {uid[:8]} is not in the catalogue: bring it in with 'beamline catalog sync'."
        ) from None
    documents: Documents = found.documents()
    return documents


def _factory(kind: str) -> Callable[[Path], Any]:
    """Return what makes a document consumer that writes into a directory."""
    if kind == "nexus":
        from callbacks.nexus import NeXusWriter

        return NeXusWriter
    if kind == "cxi":
        from callbacks.cxi import CXIWriter

        return CXIWriter
    if kind == "nxsas":
        from callbacks.nxsas import Serializer

        return Serializer
    module, colon, name = kind.partition(":")
    if not (module and colon and name):
        raise click.BadParameter(
            f"{kind!r} is no writer: expected nexus, cxi, nxsas or MODULE:FACTORY.",
            param_hint="--to",
        )
    import importlib
    import sys

    # As with "python -m": a module of the user lies where the command is called.
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise click.BadParameter(
            f"{kind!r} cannot be imported: {error}.", param_hint="--to"
        ) from None
    finally:
        sys.path.remove("")
    made: Callable[[Path], Any] = found
    return made


def _write(label: str, documents: Documents, writer: Any, kind: str) -> bool:
    """Replay one run; return whether a document was refused."""
    from beamline.documents.replay import completed, replay

    refused: list[str] = []
    try:
        replay(completed(documents), [writer], refused=refused.append)
    finally:
        close = getattr(writer, "close", None)
        if close is not None:
            close()
    for sentence in refused:
        click.echo(f"beamline: {sentence}", err=True)
    files = list(getattr(writer, "files", ()))
    for handed_out in dict(getattr(writer, "artifacts", {})).values():
        files += handed_out
    for path in files:
        click.echo(path)
    if not files and kind in ("nexus", "cxi", "nxsas"):
        click.echo(
            f"Run {label} gave no {kind} file: it has nothing that belongs into one.", err=True
        )
    return bool(refused)
