"""What tests on a simulated beamline share: its processes, its ports, its documents.

Channel Access reads its environment when it is loaded, which a test module may do by importing
ophyd. So the ports are chosen here, at import, before the modules of the tests.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import event_model

from beamline.core.config import Settings, load_settings
from beamline.core.epics import client_environment
from beamline.core.processes import Child, free_port
from beamline.simulation import start_ioc, start_server
from ioc.simulator import start_device_server

_reserved: list[socket.socket] = []


def reserved_port() -> int:
    """A free port that `free_port` gives to nobody else, before a server has it and afterwards.

    A socket that is bound and does not listen keeps others away, and a server may bind it as well.
    """
    while True:
        port, holder = free_port(), socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
        else:
            _reserved.append(holder)
            return port


MAIN_PORT, SPARE_PORT, FAULTY_PORT, SPECKLE_PORT = (reserved_port() for _ in range(4))
os.environ.update(client_environment(MAIN_PORT))
os.environ["EPICS_CA_ADDR_LIST"] += "".join(
    f" 127.0.0.1:{port}" for port in (SPARE_PORT, FAULTY_PORT, SPECKLE_PORT)
)

TIME_SCALE = 50.0
#: Seconds in which a fault is promised to end what is under way, beyond distance over velocity.
PROMISED = 10.0


@dataclass
class Stack:
    """A device server and an IOC."""

    settings: Settings
    folder: Path
    server: Child
    ioc: Child

    @property
    def prefix(self) -> str:
        return self.settings.prefix

    @property
    def address(self) -> str:
        return f"{self.server.info['host']}:{self.server.info['port']}"

    def restart_ioc(self) -> None:
        self.ioc.stop()
        self.ioc = start_ioc(self.settings, self.address, self.folder)

    def stop(self) -> None:
        self.ioc.stop()
        self.server.stop()


def start_stack(prefix: str, port: int, folder: Path, time_scale: float = TIME_SCALE) -> Stack:
    settings = load_settings(
        environment={}, prefix=prefix, device_port=reserved_port(), ioc_port=port,
        time_scale=time_scale,
        sample=("Cu", "Fe"),
    )  # fmt: skip
    return _with_ioc(settings, folder, start_server(settings, folder))


def start_speckle_stack(folder: Path, *, time_scale: float, seed: int = 1, **config) -> Stack:
    """Start a beamline whose detector sees speckle, with settings of the simulated physics."""
    settings = load_settings(environment={}, prefix="SPECKLE:", ioc_port=SPECKLE_PORT)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "speckle.conf"
    file.write_text("".join(f"{key} = {value}\n" for key, value in config.items()))
    server = start_device_server(
        prefix=settings.prefix, seed=seed, time_scale=time_scale, config=file,
        log=folder / "device-server.log",
    )  # fmt: skip
    return _with_ioc(settings, folder, server)


def _with_ioc(settings: Settings, folder: Path, server: Child) -> Stack:
    try:
        ioc = start_ioc(settings, f"127.0.0.1:{server.info['port']}", folder)
    except BaseException:
        server.stop()
        raise
    return Stack(settings, folder, server, ioc)


class Documents:
    """Collects documents, each checked against event-model's schema."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict]] = []

    def __call__(self, name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        self.seen.append((name, doc))

    def all(self, name):
        return [doc for found, doc in self.seen if found == name]

    def descriptor(self, stream):
        (doc,) = [doc for doc in self.all("descriptor") if doc["name"] == stream]
        return doc

    def events(self, stream):
        uid = self.descriptor(stream)["uid"]
        return [doc for doc in self.all("event") if doc["descriptor"] == uid]

    @property
    def start(self):
        return self.all("start")[-1]

    @property
    def stop(self):
        return self.all("stop")[-1]
