"""Link to the device server: one connection for commands and for updates.

One connection and not two, because order matters: an update that says "done" must be known to be
older or newer than the answer to a move, or a retargeted motor would finish early. The server
answers in order, and its ``UPD`` lines come between answers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from beamline.core.errors import ConnectionLostError, DeviceServerError

__all__ = ["Answer", "AnswerHandler", "BytesHandler", "DeviceLink", "LinkListener", "parse_update"]

_log = logging.getLogger("ioc.link")

#: Longest line from the server: a subscription to everything, or the truth of the simulation.
_LINE_LIMIT = 1 << 20
_BACK_OFF = (0.1, 2.0)
_CONNECT_TIMEOUT = 3.0
#: A server that doesn't answer a PING within this time is gone (s).
_PING_PERIOD = 1.0
_PING_TIMEOUT = 3.0


#: Data of an ``OK:`` answer, or why there is none.
Answer = str | DeviceServerError | ConnectionLostError
AnswerHandler = Callable[[Answer], None]
#: The same for an answer with bytes behind it: its data, or why there is none, and the bytes.
BytesHandler = Callable[[Answer, bytes], None]


class LinkListener(Protocol):
    """Who is told what the link brings."""

    def link_up(self) -> None:
        """Call after connecting, once the first full update has been delivered."""

    def link_down(self, reason: str) -> None:
        """Call when the connection is lost."""

    def update(self, values: Mapping[str, str], stamp: float) -> None:
        """Take new values; `stamp` is the server's time (s since 1970)."""


def parse_update(line: str, names: list[str]) -> tuple[float, dict[str, str]]:
    """Split ``UPD:<time>:<index>=<value>,…`` into time and values by PV name.

    Raises
    ------
    DeviceServerError
        If the line is not of that form.
    """
    try:
        _, stamp, body = line.split(":", 2)
        values: dict[str, str] = {}
        for item in body.split(","):
            if item:
                index, value = item.split("=", 1)
                values[names[int(index)]] = value
        return float(stamp), values
    except (ValueError, IndexError):
        raise DeviceServerError(
            f"the device server sent an update that can't be read: {line[:80]!r}."
        ) from None


class DeviceLink:
    """Connection to the device server that comes back by itself.

    Parameters
    ----------
    host, port
        Address of the device server.
    prefix
        Prefix of its PVs.
    listener
        Is told about updates and about the state of the link.
    interval_ms
        Shortest time between two updates of the same PV.

    Attributes
    ----------
    connected : bool
        Whether commands can be sent.
    latency : float
        Round trip of the last PING (s).
    reconnects : int
        How often the link came back.
    """

    def __init__(
        self,
        host: str,
        port: int,
        prefix: str,
        listener: LinkListener,
        *,
        interval_ms: int = 50,
    ) -> None:
        self.host = host
        self.port = port
        self.prefix = prefix
        self.interval_ms = interval_ms
        self.connected = False
        self.latency = 0.0
        self.reconnects = -1  # the first connection is none
        self._listener = listener
        self._writer: asyncio.StreamWriter | None = None
        #: Who waits for an answer, and whether bytes come behind it.
        self._waiting: deque[tuple[BytesHandler, bool]] = deque()
        self._tried = asyncio.Event()
        self._last_reason = ""

    async def first_attempt(self) -> None:
        """Wait until the link is up, or the first attempt has failed."""
        await self._tried.wait()

    def send(self, line: str, on_answer: AnswerHandler) -> None:
        """Send a command; `on_answer` is called between the updates before and after its answer.

        Requests may follow each other without waiting; answers come in the same order.

        Parameters
        ----------
        line
            The command, without the end of line.
        on_answer
            Takes the data of an ``OK:`` answer, `DeviceServerError` for ``ERR:…``, or
            `ConnectionLostError` if the link is down or goes down before the answer.
        """
        self._send(line, lambda answer, _: on_answer(answer), with_bytes=False)

    def send_for_bytes(self, line: str, on_answer: BytesHandler) -> None:
        """Send a command whose answer ends with a number of bytes, which follow it.

        Parameters
        ----------
        line, on_answer
            As for `send`; the handler takes the bytes as well (none without an ``OK:`` answer).
        """
        self._send(line, on_answer, with_bytes=True)

    def _send(self, line: str, on_answer: BytesHandler, *, with_bytes: bool) -> None:
        if self._writer is None or self._writer.is_closing():
            on_answer(
                ConnectionLostError(
                    f"no connection to the device server at {self.host}:{self.port}."
                ),
                b"",
            )
            return
        self._waiting.append((on_answer, with_bytes))
        self._writer.write(line.encode("latin-1") + b"\n")

    def request(self, line: str) -> asyncio.Future[str]:
        """Send a command; the future brings the data of its answer, or raises as `send` says."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def resolve(answer: Answer) -> None:
            if future.done():
                return
            if isinstance(answer, str):
                future.set_result(answer)
            else:
                future.set_exception(answer)
                # Whoever asked may be gone, and then nobody looks at the failure.
                future.exception()

        self.send(line, resolve)
        return future

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        delay, longest = _BACK_OFF
        while True:
            try:
                await self._session()
            except (OSError, DeviceServerError, TimeoutError, asyncio.IncompleteReadError) as error:
                reason = str(error) or type(error).__name__
            else:
                reason = "the device server closed the connection"
            if self._lose(reason):
                delay = _BACK_OFF[0]
            self._tried.set()
            await asyncio.sleep(delay)
            delay = min(longest, delay * 2)

    async def _session(self) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=_LINE_LIMIT)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writer = writer
        pinging: asyncio.Task[None] | None = None
        try:
            subscription = self.request(f"SUBSCRIBE:{self.prefix}*:{self.interval_ms}")
            names: list[str] = []
            while line := await self._line(reader, connecting=not self.connected):
                if not line.startswith("UPD:"):
                    await self._answer(line, reader)
                    if subscription.done() and not names:
                        names = subscription.result().split(";", 1)[1].split(",")
                    continue
                stamp, values = parse_update(line, names)
                self._listener.update(values, stamp)
                if not self.connected:
                    self.connected = True
                    self.reconnects += 1
                    self._last_reason = ""
                    _log.info("connected to the device server at %s:%d", self.host, self.port)
                    self._listener.link_up()
                    pinging = asyncio.create_task(self._ping())
                    self._tried.set()
        finally:
            if pinging is not None:
                pinging.cancel()
            writer.close()

    async def _line(self, reader: asyncio.StreamReader, *, connecting: bool) -> str:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT if connecting else None):
                raw = await reader.readline()
        except ValueError:
            raise DeviceServerError("the device server sent a line without an end.") from None
        if raw and not raw.endswith(b"\n"):
            return ""
        return raw.decode("latin-1").rstrip("\r\n")

    async def _answer(self, line: str, reader: asyncio.StreamReader) -> None:
        if not self._waiting:
            raise DeviceServerError(f"the device server sent an answer nobody asked for: {line!r}.")
        status, _, data = line.partition(":")
        # Still in the queue while bytes are on their way: a lost link must answer it.
        payload = b""
        if self._waiting[0][1] and status == "OK":
            payload = await reader.readexactly(int(data.rpartition(",")[2]))
        on_answer, _ = self._waiting.popleft()
        on_answer(data if status == "OK" else DeviceServerError(data or line), payload)

    async def _ping(self) -> None:
        while True:
            asked = time.monotonic()
            try:
                async with asyncio.timeout(_PING_TIMEOUT):
                    await self.request("PING")
                self.latency = time.monotonic() - asked
            except TimeoutError:
                _log.warning("the device server did not answer for %g s", _PING_TIMEOUT)
                if self._writer is not None:
                    self._writer.transport.abort()
                return
            except (ConnectionLostError, DeviceServerError):
                return
            await asyncio.sleep(_PING_PERIOD)

    def _lose(self, reason: str) -> bool:
        """Fail what was waiting; return whether the link had been up."""
        was_up, self.connected = self.connected, False
        self._writer = None
        error = ConnectionLostError(
            f"lost the connection to the device server at {self.host}:{self.port}: {reason}."
        )
        waiting, self._waiting = self._waiting, deque()
        if not was_up and reason != self._last_reason:
            _log.warning(
                "no connection to the device server at %s:%d for PVs %s*: %s",
                self.host, self.port, self.prefix, reason,
            )  # fmt: skip
        self._last_reason = reason
        if was_up:
            _log.warning("%s", error)
            # Alarms first: whoever learns that a request failed finds the record in alarm.
            self._listener.link_down(reason)
        for on_answer, _ in waiting:
            on_answer(error, b"")
        return was_up
