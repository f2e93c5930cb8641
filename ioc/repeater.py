"""A Channel Access repeater: passes beacons on to the clients of this machine.

EPICS clients look for one on a port of their own and complain, or start a program that outlives
them, when there is none. This one lives and ends with the IOC and listens on loopback only.

A client registers once in its life. So the repeater remembers its clients in a file: those of an
IOC that was killed hear the beacons of the next one. Without them EPICS' library searches for lost
PVs at intervals that grow to minutes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import cast

import caproto as ca

__all__ = ["memory_file", "start_repeater"]

_log = logging.getLogger("ioc.repeater")
_CLIENT_LIMIT = 1024


class _Repeater(asyncio.DatagramProtocol):
    def __init__(self, memory: Path | None) -> None:
        # One connected socket per client: only such a socket reports that the client is gone.
        self._clients: dict[tuple[str, int], socket.socket] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._memory = memory

    def _remember(self) -> None:
        if self._memory is None:
            return
        ports = "".join(f"{port}\n" for _, port in self._clients)
        try:
            self._memory.write_text(ports)
        except OSError as error:
            _log.warning("clients are not remembered in %s: %s", self._memory, error.strerror)
            self._memory = None

    def _recall(self) -> None:
        if self._memory is None:
            return
        try:
            ports = self._memory.read_bytes().split()[:_CLIENT_LIMIT]
        except OSError:
            return
        for port in ports:
            if port.isdigit() and 0 < int(port) < 65536:
                self._add(("127.0.0.1", int(port)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._recall()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if not data:
            self._register(address)
            return
        try:
            commands = ca.Broadcaster(our_role=ca.SERVER).recv(data, address)
        except Exception as error:  # noqa: BLE001  (any bytes may come in a datagram)
            _log.debug("datagram from %s dropped: %s", address, error)
            return
        for command in commands:
            if isinstance(command, ca.RepeaterRegisterRequest):
                self._register(address)
            elif isinstance(command, ca.Beacon):
                if command.header.parameter2 == 0:
                    command.header.parameter2 = ca.ipv4_to_int32(address[0])
                self._pass_on(bytes(command))

    def _add(self, address: tuple[str, int]) -> None:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.setblocking(False)
        client.connect(address)
        self._clients[address] = client

    def _register(self, address: tuple[str, int]) -> None:
        if address not in self._clients and len(self._clients) < _CLIENT_LIMIT:
            self._add(address)
            self._remember()
        if self._transport is not None:
            confirmation = ca.RepeaterConfirmResponse(address[0])
            self._transport.sendto(bytes(confirmation), address)

    def _pass_on(self, beacon: bytes) -> None:
        for address, client in tuple(self._clients.items()):
            try:
                client.send(beacon)
            except BlockingIOError:
                pass
            except OSError:
                client.close()
                del self._clients[address]
                self._remember()


def memory_file(port: int) -> Path | None:
    """File of this user in which the repeater on a port remembers its clients.

    None where there is no folder that is this user's alone.
    """
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder /= f"beamline-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return None
    except OSError:
        return None
    return folder / f"channel-access-clients-{port}"


async def start_repeater(port: int, memory: Path | None = None) -> asyncio.DatagramTransport | None:
    """Start a repeater on loopback.

    Parameters
    ----------
    port
        UDP port.
    memory
        File that takes the ports of its clients; None remembers nothing.

    Returns
    -------
    DatagramTransport or None
        None where a repeater runs already.
    """
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Repeater(memory), local_addr=("127.0.0.1", port)
        )
    except OSError as error:
        _log.info("no repeater of our own on port %d: %s", port, error.strerror)
        return None
    return transport
