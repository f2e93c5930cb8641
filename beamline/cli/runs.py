"""``beamline runs``: the recorded runs as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.documents.journal import RunSummary


@click.command(name="runs")
@options.config
@options.data_dir
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Show only so many of the latest runs.",
)
@click.option("--scan-id", type=int, help="Only runs with this number.")
@click.option("--sample", help="Only runs of this sample (its name).")
@click.option("--plan", help="Only runs of this plan (its name).")
@options.between
@click.option(
    "--status",
    type=click.Choice(["success", "abort", "fail", "running", "incomplete"]),
    help="Only runs that ended so.",
)
def command(
    config_path: Path | None,
    data_dir: Path | None,
    limit: int,
    scan_id: int | None,
    sample: str | None,
    plan: str | None,
    since: float | None,
    until: float | None,
    status: str | None,
) -> None:
    """List the recorded runs, the latest last.

    The list is read from the journal: no IOC, no server and no catalogue is needed. Of several
    conditions all must hold.
    """
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from beamline.core.config import load_settings
    from beamline.core.errors import ConfigurationError, MissingError
    from beamline.documents.journal import Journal

    settings = load_settings(config_path, data_dir=data_dir)
    journal = Journal(settings.data_dir / "journal")
    if not settings.data_dir.exists():
        raise MissingError(
            f"the data directory {settings.data_dir} does not exist: no run has been recorded "
            "there; name another one with --data-dir."
        )
    for path in (settings.data_dir, journal.directory):
        if path.exists() and not path.is_dir():
            raise ConfigurationError(
                f"{path} is no directory, so no runs are recorded there: name the data directory "
                "with --data-dir."
            )
    wanted = {"scan_id": scan_id, "sample": sample, "plan_name": plan, "exit_status": status}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    selecting = bool(wanted) or since is not None or until is not None

    def selected(run: RunSummary) -> bool:
        return (
            all(getattr(run, name) == value for name, value in wanted.items())
            and (since is None or run.time >= since)
            and (until is None or run.time < until)
        )

    recorded = journal.runs(None if selecting else limit)
    runs = [run for run in recorded if selected(run)][-limit:]
    if not runs:
        asked = f" of {len(recorded)} is like that" if recorded else "s are recorded"
        click.echo(f"No run{asked} in {journal.directory}.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (
        ("scan_id", "right"),
        ("uid", "left"),
        ("plan", "left"),
        ("sample", "left"),
        ("started", "left"),
        ("duration", "right"),
        ("events", "left"),
        ("status", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=heading in ("uid", "started"))  # type: ignore[arg-type]
    for run in runs:
        cells = (
            str(run.scan_id if run.scan_id is not None else ""),
            run.uid[:8],
            run.plan_name or "",
            run.sample or "",
            datetime.fromtimestamp(run.time).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            f"{run.duration:.1f} s" if run.duration is not None else "",
            " ".join(f"{stream}:{count}" for stream, count in run.num_events.items()),
            run.exit_status + (f": {' '.join(run.reason.split())}" if run.reason else ""),
        )
        # Text, not str: a reason or a sample's name with brackets is no markup.
        table.add_row(*(Text(cell) for cell in cells))
    console = Console()
    if not console.is_terminal:
        # A pipe has no width to fit into: nothing may be cut off for the next program.
        console = Console(width=1000, soft_wrap=True)
    console.print(table)
    for run in runs:
        if run.damage:
            click.echo(f"{run.path}: {run.damage}", err=True)
