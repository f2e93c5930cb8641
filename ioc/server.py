"""The Channel Access server: caproto's protocol core behind a transport made for short delays.

Differences from ``caproto.asyncio.server``, each with its reason:

- TCP_NODELAY on every connection (without it a put with completion waits 40 ms for an ACK);
- monitors leave at once and in order with put completions: when a client learns that its put is
  done, every monitor caused by that put is already on its way (stock batches them for 10 ms or
  more, and drops the excess);
- a client that stops reading gets only the newest value of each monitor when it resumes; it costs
  bounded memory and delays nobody;
- puts run in order with the other requests of their connection;
- the address of a client decides whether it may write, not the host name that it says it has;
- the port is the one that was asked for, or an error;
- nothing leaves the interface that was asked for: beacons go to the local repeater only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import caproto as ca
from caproto._utils import apply_arr_filter, apply_deadband_filter
from caproto.asyncio.server import Context as _Context
from caproto.asyncio.server import VirtualCircuit as _VirtualCircuit
from caproto.asyncio.utils import _TransportWrapper
from caproto.server.common import DisconnectedCircuit, LoopExit, host_endian

from beamline.core.errors import ProcessError
from ioc.access import AccessControl, WriteDeniedError
from ioc.channel import Field, PutRefusedError, shown

__all__ = ["Context"]

_log = logging.getLogger("ioc.server")

#: Monitors waiting for one client before they are reduced to the newest of each subscription.
_BACKLOG = 4096
_BEACON_PERIOD = (0.02, 15.0)


class _AlwaysSet:
    """Stands for caproto's write lock: puts are processed in order, reads needn't wait for them."""

    def set(self) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""

    def is_set(self) -> bool:
        """Return True."""
        return True

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        """Return at once."""
        return True


class _Circuit(_VirtualCircuit):
    """One client connection."""

    def __init__(self, circuit: Any, client: Any, context: Context) -> None:
        super().__init__(circuit, client, context)
        self.write_event = _AlwaysSet()
        self._monitors: deque[Any] = deque()
        self._monitors_waiting = asyncio.Event()
        self._allowed = context.access.allows_host(
            self.circuit.address[0], self.circuit.our_address[0]
        )
        self._denial_logged = False

    @property
    def queue_depth(self) -> int:
        """Number of monitor updates that wait for sending."""
        return len(self._monitors)

    async def recv(self) -> None:
        """Take bytes from the client; one that does not speak Channel Access is sent away."""
        try:
            await super().recv()
        except ca.RemoteProtocolError as error:
            host, port = self.circuit.address
            reason = str(error).splitlines()[0].rstrip(".")
            _log.warning("client %s:%s is disconnected: %s.", host, port, reason)
            await self._on_disconnect()
            raise DisconnectedCircuit from None

    def queue_monitor(self, command: Any) -> None:
        """Queue a monitor update for sending."""
        self._monitors.append(command)
        if len(self._monitors) > _BACKLOG:
            newest = {update.subscriptionid: update for update in self._monitors}
            self.context.coalesced += len(self._monitors) - len(newest)
            self._monitors = deque(newest.values())
        self._monitors_waiting.set()

    def _take_monitors(self) -> list[Any]:
        taken = list(self._monitors)
        self._monitors.clear()
        self._monitors_waiting.clear()
        # No update may follow the confirmation of its cancellation.
        alive = {sub.subscriptionid for subs in self.subscriptions.values() for sub in subs}
        return [update for update in taken if update.subscriptionid in alive]

    async def subscription_queue_loop(self) -> None:
        """Send monitors as they come."""
        self.events_on.set()
        try:
            while True:
                await self._monitors_waiting.wait()
                await self.send(*self._take_monitors())
        except asyncio.CancelledError:
            # Whoever cancels this awaits it, and goes on with the disconnection.
            return
        except DisconnectedCircuit:
            self._sub_task = None  # which is this one, and can't await itself
            await self._on_disconnect()
            self.circuit.disconnect()
            await self.context.circuit_disconnected(self)

    async def _process_command(self, command: Any) -> Any:
        if isinstance(command, (ca.WriteRequest, ca.WriteNotifyRequest)):
            return self._process_put(command)
        if isinstance(command, ca.ClearChannelRequest):
            # caproto compares the channel object with its number here and cancels nothing.
            _, entry = self._get_db_entry_from_command(command)
            await self._cull_subscriptions(entry, lambda sub: sub.channel.sid == command.sid)
        response = await super()._process_command(command)
        if isinstance(command, ca.CreateChanRequest):
            return [
                ca.AccessRightsResponse(command.cid, self._rights(self.context[command.name]))
                if isinstance(part, ca.AccessRightsResponse)
                else part
                for part in response
            ]
        return response

    # ---- access

    def _denial(self, entry: Field) -> str:
        """Why the client may not write to a field; empty if it may."""
        if entry.read_only:
            return "the PV is read-only"
        if not self._allowed:
            return f"the host {self.circuit.address[0]} is not on the IOC's list of writers"
        if not self.context.access.online and not entry.always_writable:
            return "the IOC is switched to OFFLINE"
        return ""

    def _rights(self, entry: Field) -> ca.AccessRights:
        read = ca.AccessRights.READ
        return read if self._denial(entry) else read | ca.AccessRights.WRITE

    async def announce_rights(self) -> None:
        """Tell the client its present rights on all its channels."""
        with contextlib.suppress(DisconnectedCircuit):
            await self.send(
                *(
                    ca.AccessRightsResponse(channel.cid, self._rights(self.context[channel.name]))
                    for channel in self.circuit.channels_sid.values()
                    if channel.states[ca.SERVER] is ca.CONNECTED
                )
            )

    # ---- puts

    def _process_put(self, command: Any) -> list[Any]:
        channel, entry = self._get_db_entry_from_command(command)
        notify = isinstance(command, ca.WriteNotifyRequest)
        try:
            if reason := self._denial(entry):
                raise WriteDeniedError(
                    f"{channel.name} was not set to {shown(command.data)}: {reason}."
                )
            data_type = command.data_type
            if data_type in (ca.ChannelType.PUT_ACKS, ca.ChannelType.PUT_ACKT):
                self.tasks.create(entry.write_from_dbr(command.data, data_type, command.metadata))
                completion = None
            else:
                completion = entry.client_put(command.data, data_type)
        except PutRefusedError as error:
            return self._refusal(command, channel, notify, error)
        if not notify:
            if completion is not None:
                completion.add_done_callback(self._note_result)
            return []
        if completion is None or (completion.done() and completion.exception() is None):
            return [*self._take_monitors(), channel.write(ioid=command.ioid, status=1)]
        self.tasks.create(self._answer_later(command, channel, completion))
        return []

    async def _answer_later(self, command: Any, channel: Any, completion: Any) -> None:
        try:
            await asyncio.shield(completion)
        except PutRefusedError as error:
            response = self._refusal(command, channel, True, error)
        except asyncio.CancelledError:
            return
        else:
            response = [channel.write(ioid=command.ioid, status=1)]
        try:
            await self.send(*self._take_monitors(), *response)
        except DisconnectedCircuit:
            await self._on_disconnect()

    def _note_result(self, completion: asyncio.Future[None]) -> None:
        if not completion.cancelled() and (error := completion.exception()) is not None:
            self.context.refused += 1
            _log.warning("put failed: %s (Client %s:%s.)", error, *self.circuit.address)

    def _refusal(self, command: Any, channel: Any, notify: bool, error: Exception) -> list[Any]:
        host, port = self.circuit.address
        status = ca.CAStatus.ECA_PUTFAIL
        if isinstance(error, WriteDeniedError):
            status = ca.CAStatus.ECA_NOWTACCESS
            self.context.denied += 1
            if not self._denial_logged:
                self._denial_logged = True
                _log.warning(
                    "put denied: %s (Client %s:%s; more from it are only counted.)",
                    error, host, port,
                )  # fmt: skip
        else:
            self.context.refused += 1
            _log.warning("put refused: %s (Client %s:%s.)", error, host, port)
        if notify:
            return [channel.write(ioid=command.ioid, status=status.value.code_with_severity)]
        cid, _ = self._get_ids_from_command(command)
        return [ca.ErrorResponse(command, cid, status=status, error_message=str(error))]


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

    CircuitClass = _Circuit

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

    def deliver(self, spec: Any, metadata: Any, values: Any, flags: int, only: Any = None) -> None:
        """Send an update to the subscribers of `spec`, or to one of them."""
        for sub in (only,) if only is not None else tuple(self.subscriptions[spec]):
            self._deliver_one(spec, sub, metadata, values, flags)

    def _deliver_one(self, spec: Any, sub: Any, metadata: Any, values: Any, flags: int) -> None:
        circuit = sub.circuit
        if not circuit.events_on.is_set():
            waiting = circuit.subscriptions_to_resend.setdefault(spec, [])
            if sub not in waiting:
                waiting.append(sub)
            return
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
                return
            self.last_dead_band[sub] = tracked
        circuit.queue_monitor(
            sub.channel.subscribe(
                data=values,
                metadata=metadata,
                data_type=sub.data_type,
                data_count=len(values),
                subscriptionid=sub.subscriptionid,
                status=1,
            )
        )

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
                circuit.client.close()
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
        answers: list[Any] = []
        for command in commands:
            if isinstance(command, ca.SearchRequest):
                with contextlib.suppress(KeyError):
                    context[command.name]
                    answers.append(
                        ca.SearchResponse(
                            context.port, None, command.cid, ca.DEFAULT_PROTOCOL_VERSION
                        )
                    )
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
                    f"the IOC can't listen on {interface}:{port}: {error.strerror}; choose "
                    "another port with --port, or --port 0 for a free one."
                ) from None
        else:
            return tcp, udp
    raise AssertionError  # unreachable: the last attempt raises
