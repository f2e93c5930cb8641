"""The processes of a simulated beamline: device server and IOC, started and stopped together."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from beamline.core.config import Settings
from beamline.core.epics import client_environment
from beamline.core.errors import ConnectionLostError
from beamline.core.processes import Child, free_port

__all__ = [
    "Simulation",
    "apply_client_environment",
    "check_samples",
    "start_ioc",
    "start_server",
]


def check_samples(settings: Settings) -> None:
    """Make sure that all samples of `settings` can be simulated, before anything is touched.

    Raises
    ------
    FileFormatError, MissingError
        If a sample is neither a built-in one nor a readable spectrum.
    """
    from ioc.samples import make_table

    for sample in settings.sample:
        make_table(sample, thickness_um=settings.thickness_um)


def start_server(settings: Settings, directory: Path) -> Child:
    """Start the device server with the samples of `settings`.

    Parameters
    ----------
    settings
        Address, prefix, samples, seed, time scale and lock step are used.
    directory
        Sample tables and the log are written here.

    Raises
    ------
    FileFormatError, MissingError
        If a sample is neither a built-in one nor a readable spectrum.
    ProcessError
        If the server doesn't start; the message is its own.
    """
    from ioc.samples import write_table
    from ioc.simulator import start_device_server

    directory.mkdir(parents=True, exist_ok=True)
    tables = [
        write_table(sample, directory, thickness_um=settings.thickness_um)
        for sample in settings.sample
    ]
    return start_device_server(
        host=settings.device_host,
        port=settings.device_port,
        prefix=settings.prefix,
        seed=settings.seed,
        time_scale=settings.time_scale,
        lock_step=settings.lock_step,
        samples=tables,
        log=directory / "device-server.log",
    )


def start_ioc(settings: Settings, server: str, directory: Path) -> Child:
    """Start an IOC for the device server at `server` (``host:port``); its log is in `directory`."""
    port = settings.ioc_port or free_port()
    return Child(
        "the IOC",
        [
            *(sys.executable, "-m", "ioc", "--exit-with-parent"),
            *("--server", server),
            *("--prefix", settings.prefix),
            *("--port", str(port)),
            *("--log-level", settings.log_level),
        ],
        log=directory / "ioc.log",
        timeout=60.0,
    )


class Simulation:
    """A running simulated beamline.

    Parameters
    ----------
    settings
        Ports of 0 take free ones, so that several simulations run side by side.
    directory
        Where tables and logs go.

    Attributes
    ----------
    server, ioc : Child
        The two processes; ``info`` holds their addresses.
    environment : dict[str, str]
        The ``EPICS_*`` variables with which a client finds this IOC and no other.
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        with ExitStack() as undo:
            self.server = start_server(settings, directory)
            undo.callback(self.server.stop)
            address = f"{self.server.info['host']}:{self.server.info['port']}"
            self.ioc = start_ioc(settings, address, directory)
            undo.pop_all()
        self.environment = client_environment(int(self.ioc.info["port"]))

    def stop(self) -> None:
        """Stop both processes, the IOC first."""
        self.ioc.stop()
        self.server.stop()


def apply_client_environment(environment: Mapping[str, str]) -> None:
    """Point this process's EPICS clients at an IOC.

    Raises
    ------
    ConnectionLostError
        If Channel Access has been used in this process already with other addresses: its library
        reads the environment once.
    """
    changed = {key: value for key, value in environment.items() if os.environ.get(key) != value}
    ca = sys.modules.get("epics.ca")
    if changed and ca is not None and ca.libca is not None:
        raise ConnectionLostError(
            "Channel Access is already running in this Python with other EPICS_CA_* settings, so "
            f"the IOC at {environment['EPICS_CA_ADDR_LIST']} cannot be reached: start the "
            "simulated beamline before anything connects to a PV (restart the kernel)."
        )
    os.environ.update(environment)
