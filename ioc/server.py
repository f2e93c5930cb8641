"""The Channel Access server: caproto's protocol core behind a transport made for short delays.

Differences from ``caproto.asyncio.server``, each with its reason:

- TCP_NODELAY on every connection (without it a put with completion waits 40 ms for an ACK);
- monitors leave at once and in order with put completions: when a client learns that its put is
  done, every monitor caused by that put is already on its way (stock batches them for 10 ms or
  more, and drops the excess);
- a client that stops reading gets only the newest value of each monitor when it resumes; it costs
  bounded memory and delays nobody;
- the requests of a connection are carried out in order, without a queue between them;
- gets and monitors of numbers are answered without message objects (`ioc.wire`);
- the address of a client decides whether it may write, not the host name that it says it has;
- the port is the one that was asked for, or an error;
- nothing leaves the interface that was asked for: beacons go to the local repeater only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

import caproto as ca
from caproto._utils import apply_arr_filter, apply_deadband_filter
from caproto.asyncio.server import Context as _Context
from caproto.asyncio.utils import _TransportWrapper
from caproto.server.common import LoopExit, host_endian

from beamline.core.errors import ProcessError
from ioc.access import AccessControl
from ioc.channel import Field
from ioc.circuit import Circuit
from ioc.wire import as_bytes, event

__all__ = ["Context"]

_log = logging.getLogger("ioc.server")

_BEACON_PERIOD = (0.02, 15.0)


class Context(_Context):
    """Channel Access server on one interface and one port.

    Parameters
    ----------
    pvdb
        Full PV names (fields included) and what they stand for.
    interface
        IPv4 address to listen on.
    port
        TCP and UDP port; 0 takes one that is free for both.
    access
        Who may write; clients of this machine by default.

    Attributes
    ----------
    coalesced : int
        Updates that a newer one replaced because their client did not read.
    refused, denied : int
        Puts refused for their value or for the state of things, and for lack of access.

    Raises
    ------
    ProcessError
        If the port is taken.
    """

    CircuitClass = Circuit

    def __init__(
        self,
        pvdb: Mapping[str, Field],
        *,
        interface: str = "127.0.0.1",
        port: int = 0,
        access: AccessControl | None = None,
    ) -> None:
        super().__init__(dict(pvdb), interfaces=[interface])
        self.access = access or AccessControl()
        self.coalesced = self.refused = self.denied = 0
        self.interface = interface
        self._tcp, self._udp = _bind(interface, port)
        self.port = int(self._tcp.getsockname()[1])
        self.ca_server_port = self.port
        # Fields give this object to `deliver`; caproto passes it through as "the queue".
        self.subscription_queue = self

    # ---- what the health records show

    def clients(self) -> int:
        """Count the connections that are open."""
        return len(self.circuits)

    def connections(self) -> int:
        """Count the channels that are open."""
        return sum(len(circuit.circuit.channels_sid) for circuit in self.circuits)

    def queue_depth(self) -> int:
        """Count the updates that wait for the client that has most of them waiting."""
        return max((circuit.queue_depth for circuit in self.circuits), default=0)

    def set_online(self, online: bool) -> None:
        """Let the allowed hosts write, or nobody; clients are told."""
        if online != self.access.online:
            self.access.online = online
            for circuit in self.circuits:
                circuit.tasks.create(circuit.announce_rights())

    # ---- values

    def has(self, name: str) -> bool:
        """Whether clients can connect to a name, with its filter if it has one."""
        try:
            self[name]
            modifiers = ca.parse_record_field(name).modifiers
            if modifiers is None:
                return True
            # Synchronisation with a state of the IOC: it has none.
            return ca.parse_channel_filter(modifiers.filter_).sync is None
        except Exception:  # noqa: BLE001  (caproto's reasons have no common base)
            return False

    def deliver(self, spec: Any, field: Field, flags: int, only: Any = None) -> None:
        """Send the present value to the subscribers of `spec`, or to one of them."""
        for sub in (only,) if only is not None else tuple(self.subscriptions[spec]):
            circuit = sub.circuit
            if not circuit.events_on.is_set():
                waiting = circuit.subscriptions_to_resend.setdefault(spec, [])
                if sub not in waiting:
                    waiting.append(sub)
                continue
            payload, count = field.published_payload(spec.data_type_name)
            if any(spec.channel_filter) or 0 < sub.data_count < count:
                filtered = self._filtered(spec, sub, field, flags)
                if filtered is None:
                    continue
                payload, count = filtered
            message = event(sub.data_type, count, sub.subscriptionid, payload)
            circuit.queue_monitor(sub.subscriptionid, message)

    def _filtered(self, spec: Any, sub: Any, field: Field, flags: int) -> tuple[bytes, int] | None:
        metadata, values = field.published(spec.data_type_name)
        values = apply_arr_filter(spec.channel_filter.arr, values)
        count = sub.data_count or len(values)
        if count < len(values):
            values = values[:count]
        if sub.channel_filter.dbnd is not None:
            tracked = apply_deadband_filter(
                previous_value=self.last_dead_band.get(sub),
                new_value=values,
                sub=sub,
                flags=flags,
                host_endian=host_endian,
            )
            if tracked is None:
                return None
            self.last_dead_band[sub] = tracked
        data_type = ca.ChannelType(sub.data_type)
        return as_bytes(metadata, values, data_type, len(values)), len(values)

    async def tcp_handler(self, client: Any, address: Any) -> None:
        """Serve one client."""
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(LoopExit):
            await super().tcp_handler(client, address)

    async def serve(
        self, *, beacon_address: tuple[str, int] | None, ready: Callable[[], None]
    ) -> None:
        """Serve until cancelled.

        Parameters
        ----------
        beacon_address
            Host and port of the repeater; None sends no beacons.
        ready
            Called once clients can connect.
        """
        loop = asyncio.get_running_loop()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client = _TransportWrapper(reader, writer)
            self.server_tasks.create(self.tcp_handler(client, client.getpeername()))

        server = await asyncio.start_server(accept, sock=self._tcp, backlog=512)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _SearchProtocol(self), sock=self._udp
        )
        ready()
        try:
            if beacon_address is None:
                await asyncio.Event().wait()
            else:
                await self._send_beacons(transport, beacon_address)
        finally:
            server.close()
            transport.close()
            for circuit in tuple(self.circuits):
                circuit.dismiss()
                await circuit.tasks.cancel_all()
            await self.server_tasks.cancel_all(wait=True)

    async def _send_beacons(
        self, transport: asyncio.DatagramTransport, address: tuple[str, int]
    ) -> None:
        period, longest = _BEACON_PERIOD
        while True:
            beacon = ca.Beacon(13, self.port, self.beacon_count, self.interface)
            transport.sendto(self.broadcaster.send(beacon), address)
            self.beacon_count += 1
            await asyncio.sleep(period)
            period = min(longest, period * 2)


class _SearchProtocol(asyncio.DatagramProtocol):
    """Answers name searches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for answers."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer the searches in a datagram; anything else is dropped."""
        context = self._context
        try:
            commands = context.broadcaster.recv(data, address)
            context.broadcaster.process_commands(commands)
        except Exception as error:  # noqa: BLE001  (any bytes may come in a datagram)
            _log.debug("datagram from %s dropped: %s", address, error)
            return
        answers: list[Any] = [
            ca.SearchResponse(context.port, None, command.cid, ca.DEFAULT_PROTOCOL_VERSION)
            for command in commands
            if isinstance(command, ca.SearchRequest) and context.has(command.name)
        ]
        if answers and self._transport is not None:
            answers.insert(0, ca.VersionResponse(ca.DEFAULT_PROTOCOL_VERSION))
            self._transport.sendto(context.broadcaster.send(*answers), address)

    def error_received(self, exc: Exception) -> None:
        """Ignore "connection refused" of a beacon: there is no repeater, which is allowed."""
        _log.debug("datagram not delivered: %s", exc)


def _bind(interface: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Bind TCP and UDP sockets to the same port, exclusively."""
    for attempt in range(64):
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Only for TCP, where it means "in spite of connections of a dead predecessor"; on UDP it
        # would let two IOCs share the port, and searches would reach either.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.setblocking(False)
        udp.setblocking(False)
        try:
            tcp.bind((interface, port))
            udp.bind((interface, tcp.getsockname()[1]))
            tcp.listen(512)
        except OSError as error:
            tcp.close()
            udp.close()
            if port != 0 or attempt == 63:
                raise ProcessError(
                    f"the IOC cannot listen on {interface}:{port}: {error.strerror}; stop the "
                    "other IOC, or take another port (--port 0: a free one)."
                ) from None
        else:
            return tcp, udp
    raise AssertionError  # unreachable: the last attempt raises
