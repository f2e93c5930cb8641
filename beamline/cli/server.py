"""``beamline server``: the simulated device server, in the foreground."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from beamline.cli import options


@click.command(name="server")
@options.config
@click.option("--host", "device_host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", "device_port", type=int, help="Port; 0 takes a free one.  [default: 6064]")
@click.option("--prefix", help="Prefix of all process variables.  [default: BL02:]")
@options.sample_options
@options.simulation_options
def command(config_path: Path | None, sample: tuple[str, ...], **given: Any) -> None:
    """Run the simulated device server until Ctrl-C.

    It speaks the line protocol of docs/protocol.md; `beamline ioc` serves it over EPICS. When it
    listens it prints one line, READY host=… port=….
    """
    from beamline.cli.foreground import announce, run_in_foreground
    from beamline.core.config import load_settings
    from beamline.simulation import start_server

    settings = load_settings(config_path, sample=sample or None, **given)
    with (
        tempfile.TemporaryDirectory(prefix="beamline-server-") as directory,
        start_server(settings, Path(directory)) as child,
    ):
        announce(child)
        click.echo(
            f"The device server with sample {', '.join(settings.sample)} listens on "
            f"{child.info['host']}:{child.info['port']}. Stop it with Ctrl-C.",
            err=True,
        )
        run_in_foreground(child)
