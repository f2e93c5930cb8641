"""A device server and an IOC for tests, and clients in processes of their own."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulated_beamline import reserved_port

from beamline.core.epics import client_environment
from beamline.core.processes import Child
from ioc.simulator import start_device_server

# EPICS' own library reads its environment once per process, so every client gets a process.
_PREAMBLE = """
import json, os, sys, time
import epics
P = "BL02:"
def get(name, **options):
    return epics.caget(P + name, timeout=30, connection_timeout=30, use_monitor=False, **options)
def put(name, value):
    return epics.caput(P + name, value, wait=True, timeout=60, connection_timeout=30)
def aput(name, value):
    return put("AD1:" + name, value)
def aget(name, **options):
    return get("AD1:" + name, **options)
def pv(name):
    channel = epics.PV(P + name, auto_monitor=True)
    assert channel.wait_for_connection(30), name
    channel.get(timeout=30)
    return channel
def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "this did not come to pass"
        time.sleep(0.02)
def tell(**found):
    # In one piece: callbacks tell as well.
    sys.stdout.write(json.dumps(found) + "\\n")
    sys.stdout.flush()
"""
# Without the interpreter's own end, during which the Channel Access library's threads may crash.
_END = """
sys.stderr.flush()
os._exit(0)
"""


class Stack:
    """A running device server with its IOC."""

    def __init__(
        self, directory: Path, *, ioc_options: Sequence[str] = (), **server_options: Any
    ) -> None:
        self.directory = directory
        self.ioc_options = ioc_options
        self.server_options = server_options
        self.port = reserved_port()
        self.environment = client_environment(self.port)
        # Not one that the system gives to clients: a restarted server must find it free.
        self.server_port = reserved_port()
        self.restart_server()
        self.ioc = self.start_ioc()

    def start_ioc(self) -> Child:
        self.ioc = Child(
            "the IOC",
            [
                *(sys.executable, "-m", "ioc", "--exit-with-parent"),
                *("--server", f"127.0.0.1:{self.server_port}", "--port", str(self.port)),
                *self.ioc_options,
            ],
            log=self.directory / "ioc.log",
        )
        return self.ioc

    def restart_server(self) -> None:
        self.server = start_device_server(
            log=self.directory / "server.log", port=self.server_port, **self.server_options
        )

    def start_client(self, code: str) -> "subprocess.Popen[str]":
        """Start Python code that speaks EPICS; `tell(key=value)` in it makes a line of JSON."""
        return subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + textwrap.dedent(code) + _END],
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def client(self, code: str, timeout: float = 100) -> dict[str, Any]:
        """Run such code; return what it told, and ``stderr``."""
        with self.start_client(code) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            finally:
                process.kill()
        assert process.returncode == 0, f"status {process.returncode}: {err}"
        found: dict[str, Any] = {"stderr": err}
        for line in out.splitlines():
            if line.startswith("{"):
                found.update(json.loads(line))
        return found

    def log(self) -> str:
        return (self.directory / "ioc.log").read_text()

    def stop(self) -> None:
        self.ioc.stop()
        self.server.stop()


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[Stack]:
    stack = Stack(directory, **options)
    try:
        yield stack
    finally:
        stack.stop()
