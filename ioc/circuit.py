"""One connection of a Channel Access client: what it asks and what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import caproto as ca
from caproto.asyncio.server import VirtualCircuit as _VirtualCircuit
from caproto.server.common import DisconnectedCircuit, LoopExit

from ioc.access import WriteDeniedError
from ioc.channel import Field, PutRefusedError, shown
from ioc.wire import HEADER_SIZE, SCALARS, parse_read_notify, read_notify_response

__all__ = ["Circuit"]

_log = logging.getLogger("ioc.server")

#: Monitors waiting for one client before they are reduced to the newest of each subscription.
_BACKLOG = 4096
#: Of updates with more bytes (images), only the newest of each subscription waits.
_LARGE = 65536
#: Bytes that are read from a client at once.
_CHUNK = 65536
#: Bytes that one message from a client may have.
_LONGEST_MESSAGE = 1 << 24
#: Protocol version since which a get of 0 values asks for all there are.
_COUNTS_MAY_BE_ZERO = 13


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


class Circuit(_VirtualCircuit):
    """One client connection."""

    def __init__(self, circuit: Any, client: Any, context: Any) -> None:
        super().__init__(circuit, client, context)
        self.write_event = _AlwaysSet()
        self._writer: asyncio.StreamWriter = client.writer
        self._monitors: deque[tuple[int, bytes]] = deque()
        self._monitors_waiting = asyncio.Event()
        self._allowed = context.access.allows_host(
            self.circuit.address[0], self.circuit.our_address[0]
        )
        self._denial_logged = False
        #: Puts with completion that have not ended: command and channel.
        self._unanswered: dict[asyncio.Future[None], tuple[Any, Any]] = {}
        #: The numbers among the fields, by the number of their channel.
        self._plain: dict[int, Field | None] = {}

    async def run(self) -> None:
        """Start sending monitors."""
        self._sub_task = self.tasks.create(self.subscription_queue_loop())

    @property
    def queue_depth(self) -> int:
        """Number of monitor updates that wait for sending."""
        return len(self._monitors)

    async def recv(self) -> None:
        """Take bytes from the client and answer them; send a client away that talks nonsense."""
        try:
            data = await self.client.reader.read(_CHUNK)
            if not data:
                await self._on_disconnect()
                raise DisconnectedCircuit
            await self._answer(data)
            # A client that does not read its answers is not listened to.
            await self._writer.drain()
        except ca.RemoteProtocolError as error:
            host, port = self.circuit.address
            reason = str(error).splitlines()[0].rstrip(".")
            _log.warning("client %s:%s is disconnected: %s.", host, port, reason)
            await self._on_disconnect()
            raise DisconnectedCircuit from None
        except (OSError, LoopExit):
            await self._on_disconnect()
            raise DisconnectedCircuit from None

    async def _answer(self, data: bytes) -> None:
        position = 0
        # Bytes that caproto still holds belong before these.
        if not self.circuit._data:  # noqa: SLF001
            answers = []
            while (answer := self._answer_get(data, position)) is not None:
                answers.append(answer)
                position += HEADER_SIZE
            if answers:
                self._write(b"".join(answers))
        if position == len(data):
            return
        commands, missing = self.circuit.recv(data[position:])
        if missing > _LONGEST_MESSAGE:
            raise ca.RemoteProtocolError(f"it announced a message of {missing} bytes")
        for command in commands:
            if isinstance(command, ca.CreateChanRequest) and not self.context.has(command.name):
                # Before caproto has a channel object, which a name with a bad filter can't get.
                self._write(bytes(ca.CreateChFailResponse(cid=command.cid)))
                continue
            responses = await self._command_queue_iteration(command)
            if responses:
                self._write(b"".join(self.circuit.send(*responses)))

    def _answer_get(self, data: bytes, position: int) -> bytes | None:
        """Answer the get that begins at `position`; None if there is none of the plain kind."""
        request = parse_read_notify(data, position)
        if request is None or self.circuit.protocol_version < _COUNTS_MAY_BE_ZERO:
            return None
        data_type, count, sid, ioid = request
        if sid not in self._plain:
            self._plain[sid] = self._plain_field(sid)
        field = self._plain[sid]
        payload = field.number_payload(data_type) if field is not None and count <= 1 else None
        return None if payload is None else read_notify_response(data_type, 1, ioid, payload)

    def _plain_field(self, sid: int) -> Field | None:
        channel = self.circuit.channels_sid.get(sid)
        if channel is None or channel.name.endswith("$") or any(channel.channel_filter):
            return None
        field: Field = self.context[channel.name]
        return field if field.data_type in SCALARS and field.max_length == 1 else None

    def _write(self, data: bytes) -> None:
        if data and self.connected and not self._writer.is_closing():
            self._writer.write(data)

    def queue_monitor(self, subscription: int, message: bytes) -> None:
        """Queue a monitor update for sending."""
        if len(message) > _LARGE:
            waiting = len(self._monitors)
            self._monitors = deque(item for item in self._monitors if item[0] != subscription)
            self.context.coalesced += waiting - len(self._monitors)
        self._monitors.append((subscription, message))
        if len(self._monitors) > _BACKLOG:
            newest = {number: (number, update) for number, update in self._monitors}
            self.context.coalesced += len(self._monitors) - len(newest)
            self._monitors = deque(newest.values())
        self._monitors_waiting.set()

    def _take_monitors(self) -> bytes:
        taken = b"".join(update for _, update in self._monitors)
        self._monitors.clear()
        self._monitors_waiting.clear()
        return taken

    async def subscription_queue_loop(self) -> None:
        """Send monitors as they come."""
        self.events_on.set()
        try:
            while True:
                await self._monitors_waiting.wait()
                await self._writer.drain()
                self._write(self._take_monitors())
        except asyncio.CancelledError:
            # Whoever cancels this awaits it, and goes on with the disconnection.
            return
        except OSError:
            self._sub_task = None  # which is this one, and can't await itself
            await self._on_disconnect()
            self.circuit.disconnect()
            await self.context.circuit_disconnected(self)

    async def _cull_subscriptions(self, db_entry: Any, func: Callable[[Any], bool]) -> Any:
        removed = await super()._cull_subscriptions(db_entry, func)
        # No update may follow the confirmation of its cancellation.
        gone = {sub.subscriptionid for _, sub in removed}
        self._monitors = deque(update for update in self._monitors if update[0] not in gone)
        return removed

    async def _process_command(self, command: Any) -> Any:
        if isinstance(command, (ca.WriteRequest, ca.WriteNotifyRequest)):
            return self._process_put(command)
        if isinstance(command, ca.ClearChannelRequest):
            # caproto compares the channel object with its number here and cancels nothing.
            _, entry = self._get_db_entry_from_command(command)
            await self._cull_subscriptions(entry, lambda sub: sub.channel.sid == command.sid)
            self._plain.pop(command.sid, None)
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
            self._write(self._take_monitors())
            return [channel.write(ioid=command.ioid, status=1)]
        self._unanswered[completion] = command, channel
        completion.add_done_callback(self._answer_put)
        return []

    def dismiss(self) -> None:
        """Answer the puts that will not end any more, as the IOC stops, and say goodbye."""
        for command, channel in self._unanswered.values():
            error = PutRefusedError(
                f"{channel.name} was set to {shown(command.data)}, but the IOC stops before that "
                "has ended."
            )
            response = self._refusal(command, channel, True, error)
            self._write(self._take_monitors() + b"".join(self.circuit.send(*response)))
        self._unanswered.clear()
        self.client.close()

    def _answer_put(self, completion: asyncio.Future[None]) -> None:
        if completion not in self._unanswered:
            return
        command, channel = self._unanswered.pop(completion)
        if completion.cancelled() or not self.connected:
            self._note_result(completion)
            return
        error = completion.exception()
        if error is None:
            response = [channel.write(ioid=command.ioid, status=1)]
        else:
            response = self._refusal(command, channel, True, error)
        self._write(self._take_monitors() + b"".join(self.circuit.send(*response)))

    def _note_result(self, completion: asyncio.Future[None]) -> None:
        if not completion.cancelled() and (error := completion.exception()) is not None:
            self.context.refused += 1
            _log.warning("put failed: %s (Client %s:%s.)", error, *self.circuit.address)

    def _refusal(self, command: Any, channel: Any, notify: bool, error: BaseException) -> list[Any]:
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
