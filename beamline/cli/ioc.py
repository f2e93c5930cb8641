"""``beamline ioc``: the IOC, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.core.config import Settings


@click.command(name="ioc")
@options.config
@click.option("--server", help="HOST:PORT of the device server.  [default: 127.0.0.1:6064]")
@click.option("--prefix", help="Prefix of all process variables.  [default: BL02:]")
@click.option("--port", "ioc_port", type=int, help="Channel Access port.  [default: 5064]")
@click.option("--interface", "ioc_interface", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--allow-host",
    "ioc_allow_hosts",
    multiple=True,
    metavar="HOST",
    help="Address, network or name of a machine whose clients may write, others only read; may "
    "be repeated.  [default: localhost]",
)
@click.option(
    "--autosave",
    "ioc_autosave",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that keeps settings over restarts.  [default: ioc/autosave-PREFIX.json in the data "
    "directory]",
)
@click.option("--no-autosave", is_flag=True, help="Start with defaults and save nothing.")
@options.data_dir
@click.option("--list-pvs", is_flag=True, help="Print all PVs and end.")
@click.option(
    "--format",
    "list_format",
    type=click.Choice(("names", "table", "md")),
    default="names",
    help="How to print them: names, or with record type, unit, range and description.",
)
def command(
    config_path: Path | None,
    server: str | None,
    ioc_allow_hosts: tuple[str, ...],
    no_autosave: bool,
    list_pvs: bool,
    list_format: str,
    **given: Any,
) -> None:
    """Serve a device server over EPICS Channel Access until Ctrl-C.

    Clients on this machine find it with EPICS_CA_ADDR_LIST=127.0.0.1:PORT and
    EPICS_CA_AUTO_ADDR_LIST=NO. When it serves it prints one line, READY prefix=… port=….

    The health of the IOC is in PREFIXIOC:HEARTBEAT, …:LINK_STATE and so on; OFFLINE put to
    PREFIXIOC:ACCESS takes write access from everybody. Screens for Phoebus are in
    profiles/screens. Exit status 1 if it can't run, for example on a port that is taken.
    """
    from beamline.core.config import load_settings
    from ioc.__main__ import run

    settings = load_settings(config_path, ioc_allow_hosts=ioc_allow_hosts or None, **given)
    if list_pvs:
        run(["--prefix", settings.prefix, "--list-pvs", "--format", list_format])
        return
    run(
        [
            *("--server", server or f"{settings.device_host}:{settings.device_port}"),
            *("--prefix", settings.prefix),
            *("--port", str(settings.ioc_port)),
            *("--interface", settings.ioc_interface),
            *(f"--allow-host={host}" for host in settings.ioc_allow_hosts),
            *([] if no_autosave else ["--autosave", str(_autosave_file(settings))]),
            f"--engineer={settings.ioc_engineer}",
            f"--location={settings.ioc_location}",
            *("--log-level", settings.log_level),
        ]
    )


def _autosave_file(settings: Settings) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in settings.prefix).strip("-")
    return settings.ioc_autosave or settings.data_dir / "ioc" / f"autosave-{name}.json"
