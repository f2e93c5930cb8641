"""``beamline replay``: the files of recorded runs, written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.core.config import Settings
    from beamline.documents.journal import Damage, Journal

Documents = Iterable[tuple[str, Mapping[str, Any]]]


class Source(Protocol):
    """One run."""

    label: str

    def documents(self, damaged: Callable[[Damage], object]) -> Documents:
        """Return the documents; what can't be read is told when it has been passed."""


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
    metavar="[nexus|cxi|xpcs|nxsas|MODULE:FACTORY]",
    help="What to write. FACTORY(directory) makes a document consumer; it is called for each run.",
)
@options.between
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
    stop document that says so. The names of the files are printed. With --from catalog, runs are
    looked for in the catalogue (setting catalog_uri: on that server), and no journal is needed.

    Exit status 1 if a run could not be replayed, or a document was refused or lost; the others are
    written.
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
    settings = load_settings(config_path, data_dir=data_dir)
    sources: list[Source]
    if origin == "catalog":
        sources = list(_catalogued(settings, runs, since, until))
    else:
        sources = list(_recorded(Journal(settings.data_dir / "journal"), runs, since, until))
    if not sources:
        click.echo("No run started in that time.", err=True)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write into {directory}: {error.strerror}.") from None
    failed = False
    for source in sources:
        try:
            failed |= _write(source, make(directory), kind)
        except BeamlineError as error:
            if len(sources) == 1:
                raise
            failed = True
            click.echo(f"beamline: run {source.label}: {error}", err=True)
    if failed:
        raise SystemExit(1)


class _Recorded:
    """One run of a journal.

    Parameters
    ----------
    path
        Its file.
    """

    def __init__(self, path: Path) -> None:
        self.label = path.name.removesuffix(".journal")[:8]
        self._path = path

    def documents(self, damaged: Callable[[Damage], object]) -> Documents:
        """Return the documents, exactly."""
        from beamline.documents.journal import read_journal

        return read_journal(self._path, damaged=damaged)


class _Catalogued:
    """One run of the catalogue."""

    def __init__(self, run: Any) -> None:
        self.label = str(run.start["uid"])[:8]
        self._run = run

    def documents(self, damaged: Callable[[Damage], object]) -> Documents:  # noqa: ARG002
        """Return the documents, equal in content to those that were recorded."""
        documents: Documents = self._run.documents()
        return documents


def _recorded(
    journal: Journal, names: Iterable[str], since: float | None, until: float | None
) -> Iterator[Source]:
    from beamline.core.errors import BeamlineError

    chosen = []
    for name in names:
        if name.endswith(".journal") or Path(name).is_file():
            yield _Recorded(Path(name))
        else:
            chosen.append(journal.find(name))
    if since is not None or until is not None:
        first, last = since or float("-inf"), until if until is not None else float("inf")
        chosen += [run for run in journal.runs() if first <= run.time < last]
    for run in chosen:
        if run.exit_status == "running":
            raise BeamlineError(
                f"run {run.uid[:8]} is still being recorded: replay it when it has ended."
            )
        yield _Recorded(run.path)


def _catalogued(
    settings: Settings, names: Iterable[str], since: float | None, until: float | None
) -> Iterator[Source]:
    from beamline.catalog import open_catalog, search_runs
    from beamline.core.errors import MissingError

    catalog = open_catalog(settings.data_dir, uri=settings.catalog_uri)
    for name in names:
        key = int(name) if name.removeprefix("-").isdecimal() else name
        try:
            yield _Catalogued(catalog[key])
        except (KeyError, IndexError):
            raise MissingError(
                f"no run {name!r} in the catalogue, which holds {len(catalog)}: bring in what the "
                "journal has with 'beamline catalog sync'."
            ) from None
    if since is not None or until is not None:
        for run in search_runs(catalog, since=since, until=until).values():
            yield _Catalogued(run)


def _factory(kind: str) -> Callable[[Path], Any]:
    """Return what makes a document consumer that writes into a directory."""
    if kind == "nexus":
        from callbacks.nexus import NeXusWriter

        return NeXusWriter
    if kind == "cxi":
        from callbacks.cxi import CXIWriter

        return CXIWriter
    if kind == "xpcs":
        from functools import partial

        from callbacks.xpcs import XPCSWriter

        return partial(XPCSWriter, every_run=True)
    if kind == "nxsas":
        from callbacks.nxsas import Serializer

        return Serializer
    module, colon, name = kind.partition(":")
    if not (module and colon and name):
        raise click.BadParameter(
            f"{kind!r} is no writer: expected nexus, cxi, xpcs, nxsas or MODULE:FACTORY.",
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
    except Exception as error:  # noqa: BLE001  (it is the user's module, and may do anything)
        raise click.BadParameter(
            f"{kind!r} cannot be imported: {type(error).__name__}: {error}.", param_hint="--to"
        ) from None
    finally:
        sys.path.remove("")
    if not callable(found):
        raise click.BadParameter(
            f"{kind!r} is a {type(found).__name__}, no function.", param_hint="--to"
        )

    def made(directory: Path) -> Any:
        from beamline.core.errors import BeamlineError, ConfigurationError

        try:
            return found(directory)
        except BeamlineError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"{kind} made no consumer for {directory}: {type(error).__name__}: {error}."
            ) from error

    return made


def _write(source: Source, writer: Any, kind: str) -> bool:
    """Replay one run; return whether a document was refused or lost."""
    from beamline.documents.replay import completed, replay

    refused: list[str] = []

    def damaged(damage: Damage) -> None:
        said = f"run {source.label}: {damage}."
        if damage.records is None:  # as it is after a crash
            click.echo(f"beamline: {said}", err=True)
        else:
            refused.append(said)

    try:
        replay(completed(source.documents(damaged)), [writer], refused=refused.append)
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
    if not files and kind in ("nexus", "cxi", "xpcs", "nxsas"):
        click.echo(
            f"Run {source.label} gave no {kind} file: it has nothing that belongs into one.",
            err=True,
        )
    return bool(refused)
