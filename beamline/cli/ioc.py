"""``beamline ioc``: the IOC, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from beamline.cli import options


@click.command(name="ioc")
@options.config
@click.option("--server", help="HOST:PORT of the device server.  [default: 127.0.0.1:6064]")
@click.option("--prefix", help="Prefix of all process variables.  [default: BL02:]")
@click.option("--port", "ioc_port", type=int, help="Channel Access port.  [default: 5064]")
@click.option("--list-pvs", is_flag=True, help="Print the names of all PVs and end.")
def command(
    config_path: Path | None,
    server: str | None,
    prefix: str | None,
    ioc_port: int | None,
    list_pvs: bool,
) -> None:
    """Serve a device server over EPICS Channel Access until Ctrl-C.

    Clients on this machine find it with EPICS_CA_ADDR_LIST=127.0.0.1:PORT and
    EPICS_CA_AUTO_ADDR_LIST=NO. When it serves it prints one line, READY prefix=… port=….
    """
    from beamline.core.config import load_settings
    from ioc.__main__ import main

    settings = load_settings(config_path, prefix=prefix, ioc_port=ioc_port)
    arguments = [
        *("--server", server or f"{settings.device_host}:{settings.device_port}"),
        *("--prefix", settings.prefix),
        *("--port", str(settings.ioc_port)),
        *("--log-level", settings.log_level),
    ]
    raise SystemExit(main([*arguments, "--list-pvs"] if list_pvs else arguments))
