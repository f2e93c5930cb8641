"""``beamline recover``: files of runs that a crash or a full disk has cut off, completed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.recovery import Recovery


# A run may be named "-1", which is an index and not an option.
@click.command(name="recover", context_settings={"ignore_unknown_options": True})
@click.argument("what", nargs=-1, metavar="[DIR|RUN]...", callback=options.no_misspelt_options)
@click.option("--missing", is_flag=True, help="Make the files of all runs that have none.")
@options.config
@options.data_dir
def command(
    what: tuple[str, ...], missing: bool, config_path: Path | None, data_dir: Path | None
) -> None:
    """Complete journal and files of runs that were cut off (crash, power cut, full disk).

    DIR is a data directory, by default that of the settings. RUN is a scan_id, the beginning of a
    uid, or -1 for the latest run; without one, all runs are looked at. A run that was cut off gets
    a stop document that says so. A journal with damaged records is made anew without them; how many
    are lost is said, and the damaged file is kept as NAME.journal.damaged. Nothing is done twice,
    and what can't be completed stays as it is.

    Exit status 1 if something is lost or could not be recovered.
    """
    from beamline.core.config import load_settings
    from beamline.core.errors import BeamlineError, MissingError
    from beamline.recovery import recover, unknown_leftovers

    folders = named = [Path(name) for name in what if Path(name).is_dir()]
    runs = [name for name in what if not Path(name).is_dir()]
    if not folders:
        folders = [load_settings(config_path, data_dir=data_dir).data_dir]
    done: list[Recovery] = []
    failures = []
    for folder in folders:
        if not folder.is_dir():
            neither = f"{', '.join(runs)} is no directory, and " if runs else ""
            raise MissingError(
                f"{neither}the data directory {folder} does not exist: name another one, or use "
                "--data-dir."
            )
        if named and not (folder / "journal").is_dir() and not unknown_leftovers(folder):
            raise MissingError(
                f"{folder} holds no journal: name a data directory, which has a folder 'journal'."
            )
        try:
            done += recover(folder, runs, missing=missing)
        except BeamlineError as error:
            failures.append(str(error))
    if done:
        _show(done)
    else:
        click.echo("Nothing was to be recovered." if not failures else "Nothing was recovered.")
    for folder in folders:
        for path in unknown_leftovers(folder):
            click.echo(
                f"beamline: {path} is unfinished and the journal has no such run: 'beamline "
                "validate --repair' makes a file of what is in it.",
                err=True,
            )
    for failure in failures:
        click.echo(f"beamline: {failure}", err=True)
    if failures or any(outcome.problem or outcome.lost for outcome in done):
        raise SystemExit(1)


def _show(done: list[Recovery]) -> None:
    from rich.text import Text

    from beamline.cli import tables

    table = tables.table("scan_id", "uid", "plan", "was", "journal", "files", "result")
    for outcome in done:
        run = outcome.run
        cells = (
            str(run.scan_id if run.scan_id is not None else ""),
            run.uid[:8],
            run.plan_name or "",
            run.exit_status,
            _journal(outcome),
            " ".join(path.name for path in outcome.files),
            "not recovered" if outcome.problem else "recovered",
        )
        table.add_row(*(Text(cell) for cell in cells))
    tables.console().print(table)
    for outcome in done:
        for note in [
            *outcome.lost,
            *outcome.notes,
            *([outcome.problem] if outcome.problem else []),
        ]:
            click.echo(f"run {outcome.run.uid[:8]}: {note}", err=True)


def _journal(outcome: Recovery) -> str:
    done = ["stop added"] if outcome.journal else []
    if outcome.lost:
        done.append("records lost")
    return ", ".join(done) or "unchanged"
