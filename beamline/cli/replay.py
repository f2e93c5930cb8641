"""``beamline replay``: the files of a recorded run, written again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from beamline.cli import options


def _no_option(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse an option that was misspelt and would be taken for an argument."""
    text = str(value)
    index = param.name == "run" and re.fullmatch(r"-\d+", text)
    if text.startswith("-") and not index:
        raise click.NoSuchOption(text, ctx=ctx)
    return value


# A run may be named "-1", which is an index and not an option.
@click.command(name="replay", context_settings={"ignore_unknown_options": True})
@click.argument("run", callback=_no_option)
@click.option(
    "--to",
    "kind",
    type=click.Choice(["nexus", "cxi"]),
    required=True,
    help="What to write.",
)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), callback=_no_option)
@options.config
@options.data_dir
def command(
    run: str, kind: str, directory: Path, config_path: Path | None, data_dir: Path | None
) -> None:
    """Write the files of RUN into DIRECTORY, from the journal.

    RUN is a scan_id, the beginning of a uid, or -1 for the latest run (-2 for the one before). The
    files are the same as those written during the run. A run that was cut off gets a stop document
    that says so. The names of the files are printed.
    """
    from beamline.core.config import load_settings
    from beamline.core.errors import BeamlineError, ConfigurationError
    from beamline.documents.journal import Journal
    from beamline.documents.replay import completed, replay

    settings = load_settings(config_path, data_dir=data_dir)
    journal = Journal(settings.data_dir / "journal")
    summary = journal.find(run)
    if summary.exit_status == "running":
        raise BeamlineError(
            f"run {summary.uid[:8]} is still being recorded: replay it when it has ended."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write into {directory}: {error.strerror}.") from None
    writer: Any
    if kind == "nexus":
        from callbacks.nexus import NeXusWriter

        writer = NeXusWriter(directory)
    else:
        from callbacks.cxi import CXIWriter

        writer = CXIWriter(directory)
    replay(completed(journal.documents(summary)), [writer])
    for path in writer.files:
        click.echo(path)
    if not writer.files:
        click.echo(
            f"Run {summary.uid[:8]} ({summary.plan_name}) gave no {kind} file: it has nothing "
            "that belongs into one.",
            err=True,
        )
