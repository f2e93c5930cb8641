"""A Channel Access repeater: passes beacons on to the clients of this machine.

EPICS clients look for one on a port of their own and complain, or start a program that outlives
them, when there is none. This one lives and ends with the IOC and listens on loopback only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import cast

import caproto as ca

__all__ = ["start_repeater"]

_log = logging.getLogger("ioc.repeater")
_CLIENT_LIMIT = 1024


class _Repeater(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        # One connected socket per client: only such a socket reports that the client is gone.
        self._clients: dict[tuple[str, int], socket.socket] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

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

    def _register(self, address: tuple[str, int]) -> None:
        if address not in self._clients and len(self._clients) < _CLIENT_LIMIT:
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.setblocking(False)
            client.connect(address)
            self._clients[address] = client
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


async def start_repeater(port: int) -> asyncio.DatagramTransport | None:
    """Start a repeater on loopback; None where one runs already."""
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            _Repeater, local_addr=("127.0.0.1", port)
        )
    except OSError as error:
        _log.info("no repeater of our own on port %d: %s", port, error.strerror)
        return None
    return transport
