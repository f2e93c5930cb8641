"""``beamline catalog``: work on the catalogue."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from beamline.cli import options


@click.group(name="catalog")
def command() -> None:
    """Keep the databroker/tiled catalogue in step with the journal."""


@command.command(name="sync")
@options.config
@options.data_dir
@click.option("--rebuild", is_flag=True, help="Delete the catalogue first and make it anew.")
def sync(config_path: Path | None, data_dir: Path | None, *, rebuild: bool) -> None:
    """Bring every recorded run into the catalogue.

    Sessions do this by themselves; it is needed for runs whose session has crashed, for journals
    that were copied from elsewhere, and after an upgrade of tiled (with --rebuild).
    """
    from beamline.catalog import sync_catalog
    from beamline.core.config import load_settings

    settings = load_settings(config_path, data_dir=data_dir)
    terminal = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r{done} of {total} runs", nl=done == total, err=True)

    result = sync_catalog(
        settings.data_dir, uri=settings.catalog_uri, rebuild=rebuild, progress=progress
    )
    parts = [f"{result.added} runs brought in", f"{result.present} were there"]
    if result.incomplete:
        parts.append(f"{len(result.incomplete)} of the new ones were cut off")
    if result.running:
        parts.append(f"{result.running} still running")
    click.echo(", ".join(parts) + ".")
    for uid, reason in result.failed.items():
        click.echo(f"beamline: {uid[:40]} was not brought in: {reason}", err=True)
    if result.failed:
        sys.exit(1)
