"""The publisher: journal files out over 0MQ, to any number of subscribers.

.. mermaid::

    flowchart LR
        RE[RunEngine] --> journal[(journal files)] -- tail --> publisher
        publisher -- "docs, beat" --> subscriber
        subscriber -- "hello, follow, ack, refill, failed" --> publisher
        publisher -- failed --> session

It is a process of its own that reads files. The RunEngine does not know of it, so that no
subscriber, however slow, late or many, can delay it.
"""

from __future__ import annotations

import collections
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from beamline.core.errors import ConfigurationError, FileFormatError
from beamline.documents._network_runs import OfferedRuns, line
from beamline.documents._network_tail import JournalTail
from beamline.documents._network_wire import (
    OPEN,
    VERSION,
    WINDOW,
    WireError,
    checked_address,
    message,
    read_message,
)
from beamline.documents._store import Journal

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)

_WINDOW_BYTES = 32 * 2**20
_BEAT = 0.25  # seconds
# Seconds between two looks: while a run is open, and while none is.
_LOOK, _LOOK_IDLE = 0.005, 0.05
_DRAIN = 10.0  # seconds


class _Follow:
    """How far one subscriber is with one run."""

    def __init__(self, tail: JournalTail, first: int) -> None:
        self.tail = tail
        self.next = first
        self.acked = first
        self.bytes = 0
        self._sent: collections.deque[tuple[int, int]] = collections.deque()

    def sent(self, count: int, size: int) -> None:
        self.next += count
        self.bytes += size
        self._sent.append((self.next, size))

    def ack(self, number: int) -> None:
        self.acked = max(self.acked, min(number, self.next))
        while self._sent and self._sent[0][0] <= self.acked:
            self.bytes -= self._sent.popleft()[1]

    @property
    def room(self) -> int:
        """Records that may be sent now."""
        if self.bytes >= _WINDOW_BYTES:
            return 0
        return WINDOW - (self.next - self.acked)


class _Client:
    """One subscriber, or the session."""

    def __init__(self) -> None:
        self.name = "unnamed"
        self.session = False
        self.follows: dict[str, _Follow] = {}


class Publisher:
    """Serve the runs of a journal directory, those that are being recorded included.

    Parameters
    ----------
    journal
        The directory of a `JournalWriter`; it need not exist yet.
    address
        To listen on; port 0 takes a free one.
    batch
        Records in one message at most; fewer where they come in one by one.
    began
        When the session that is published began, seconds since 1970; by default now.

    Attributes
    ----------
    address : str
        Where it listens.

    Raises
    ------
    ConfigurationError
        If the address is none, or taken.
    """

    def __init__(
        self,
        journal: Path,
        address: str = "tcp://127.0.0.1:0",
        *,
        batch: int = 64,
        began: float | None = None,
    ) -> None:
        self._runs = OfferedRuns(Journal(journal))
        self._batch = batch
        self._id = uuid.uuid4().hex
        self._began = time.time() if began is None else began
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 200)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.ROUTER_HANDOVER, 1)
        # What is on its way is bounded by the window of each run.
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.HEARTBEAT_IVL, 2000)
        self._socket.set(zmq.HEARTBEAT_TIMEOUT, 10000)
        wanted = checked_address(address)
        try:
            self._socket.bind(wanted)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigurationError(
                f"documents cannot be published on {wanted}: {error.strerror}; choose another "
                "address (setting callbacks_address)."
            ) from None
        self.address = str(self._socket.get_string(zmq.LAST_ENDPOINT))
        self._noted: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._clients: dict[bytes, _Client] = {}
        self._looked = self._beaten = 0.0
        self._handlers: dict[str, Callable[[bytes, _Client, dict[str, Any]], None]] = {
            "hello": self._hello,
            "follow": self._follow,
            "ack": self._ack,
            "refill": self._refill,
            "failed": self._failed,
            "session": self._session,
        }

    def run(self, stopping: Callable[[], bool]) -> None:
        """Serve until `stopping` returns true and subscribers have it all (10 s at most)."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        busy = False
        stopped = 0.0
        while True:
            if stopping():
                stopped = stopped or time.monotonic()
                if not self._draining(time.monotonic() - stopped):
                    return
            active = self._runs.any_open
            wait = 0.0 if busy else (_LOOK if active else _LOOK_IDLE)
            if poller.poll(int(wait * 1000)):
                self._take()
            now = time.monotonic()
            if now - self._looked >= (_LOOK if active else _LOOK_IDLE):
                self._look(now)
            busy = self._send_some()
            if now - self._beaten >= _BEAT:
                self._beat(now)

    def _draining(self, seconds: float) -> bool:
        """Whether anybody is still to be served, so many seconds after the end was asked for."""
        if all(client.session for client in self._clients.values()) or seconds > _DRAIN:
            return False
        # Long enough for a beat, and for runs in it to be asked for.
        return seconds < 2 * _BEAT or any(
            follow.tail.state != OPEN or not follow.tail.being_written()
            for client in self._clients.values()
            for follow in client.follows.values()
        )

    def close(self) -> None:
        """Stop listening and close all files."""
        self._socket.close()
        self._context.term()
        self._runs.close()

    def _look(self, now: float) -> None:
        self._looked = now
        if self._runs.look():
            self._beat(now)
        self._runs.drop({uid for client in self._clients.values() for uid in client.follows})

    # ---- sending

    def _send(self, identity: bytes, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart([identity, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                gone = self._clients.pop(identity, None)
                _log.info("%s has left", gone.name if gone else "a subscriber")
                return False
            raise
        return True

    def _send_some(self) -> bool:
        """Send one batch of each run to each subscriber that has room; return if any was sent."""
        any_sent = False
        for identity, client in list(self._clients.items()):
            for uid, follow in list(client.follows.items()):
                block, count = follow.tail.read(follow.next, min(self._batch, follow.room))
                if count and self._send_records(identity, uid, follow.next, count, block):
                    follow.sent(count, len(block))
                    any_sent = True
        return any_sent

    def _send_records(
        self, identity: bytes, uid: str, first: int, count: int, block: bytes
    ) -> bool:
        body = {"run": uid, "first": first, "count": count}
        return self._send(identity, message("docs", body, block))

    def _beat(self, now: float) -> None:
        self._beaten = now
        recent = self._runs.recent()
        for identity, client in list(self._clients.items()):
            if client.session:
                continue
            tails = {tail.uid: tail for tail in recent}
            tails.update({uid: follow.tail for uid, follow in client.follows.items()})
            lines = [line(tail) for tail in tails.values()]
            self._send(identity, message("beat", {"publisher": self._id, "runs": lines}))

    # ---- receiving

    def _take(self) -> None:
        for _ in range(256):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            client = self._clients.setdefault(identity, _Client())
            try:
                kind, body, _ = read_message(frames)
                handler = self._handlers.get(kind)
                if handler is None:
                    raise WireError(f"{kind!r} is no message to a publisher.")
                handler(identity, client, body)
            except (WireError, KeyError, TypeError, ValueError) as error:
                _log.warning("a message of %s is ignored: %r", client.name, error)

    def _hello(self, identity: bytes, client: _Client, body: dict[str, Any]) -> None:
        if body["version"] != VERSION:
            raise WireError(f"it speaks version {body['version']}, this is {VERSION}.")
        client.name = str(body["name"])
        since = body["since"]
        self._look(time.monotonic())
        # Who has never been here wants what the session has recorded.
        lines = list(self._runs.since(self._began if since is None else float(since)))
        _log.info("%s is here: %d runs since %s", client.name, len(lines), since)
        answer = {"publisher": self._id, "began": self._began, "runs": lines}
        self._send(identity, message("runs", answer))

    def _follow(self, identity: bytes, client: _Client, body: dict[str, Any]) -> None:
        uid = str(body["run"])
        try:
            tail = self._runs.find(uid)
        except (FileFormatError, OSError) as error:
            self._send(identity, message("gone", {"run": uid, "reason": str(error)}))
            return
        client.follows[uid] = _Follow(tail, max(0, int(body["first"])))

    def _ack(self, identity: bytes, client: _Client, body: dict[str, Any]) -> None:  # noqa: ARG002
        follow = client.follows.get(str(body["run"]))
        if follow is None:
            return
        follow.ack(int(body["next"]))
        if follow.tail.state != OPEN and follow.acked >= follow.tail.count:
            del client.follows[follow.tail.uid]

    def _refill(self, identity: bytes, client: _Client, body: dict[str, Any]) -> None:
        follow = client.follows.get(str(body["run"]))
        if follow is None:
            return
        number, left = int(body["first"]), min(int(body["count"]), WINDOW)
        while left > 0:
            block, count = follow.tail.read(number, min(self._batch, left))
            if not count:
                return
            self._send_records(identity, follow.tail.uid, number, count, block)
            number, left = number + count, left - count

    def _failed(self, identity: bytes, client: _Client, body: dict[str, Any]) -> None:
        key = str(body["id"])
        if key not in self._noted:
            self._noted[key] = None
            if len(self._noted) > 10_000:
                self._noted.popitem(last=False)
            _log.error("%s of %s failed: %s", body["consumer"], client.name, body["reason"])
            for other, listener in list(self._clients.items()):
                if listener.session:
                    self._send(other, message("failed", {**body, "server": client.name}))
        self._send(identity, message("noted", {"id": key}))

    def _session(self, identity: bytes, client: _Client, body: dict[str, Any]) -> None:  # noqa: ARG002
        client.session = True
        client.name = "the session"
        self._send(identity, message("noted", {"id": "session"}))
