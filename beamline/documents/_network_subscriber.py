"""The subscriber: documents of a publisher, each once and in order, whatever the network does.

What a subscriber holds in memory is bounded by the window of each run that it follows. A document
is acknowledged when the caller has dealt with it, not when it arrives.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from beamline.documents._encoding import unpack
from beamline.documents._network_feed import Delivery, Feed, NetworkCounts
from beamline.documents._network_wire import (
    CUT,
    OPEN,
    VERSION,
    WINDOW,
    WireError,
    checked_address,
    message,
    read_message,
)

__all__ = ["Delivery", "DocumentSubscriber", "NetworkCounts"]

_log = logging.getLogger(__name__)

_HELLO = 1.0  # seconds between two attempts to be heard
_SILENCE = 5.0  # seconds without any message before it says hello again
_MOST_PATIENCE = 8.0
_MOST_RUNS = 16  # followed at a time
_MOST_DAMAGED = 5  # attempts to read a record whose checksum is wrong


class DocumentSubscriber:
    """Connection to a publisher; use it from one thread.

    Parameters
    ----------
    address
        Of the publisher. It need not be there yet, and may come and go.
    wanted
        Called with (uid, start time) of a run that the publisher has: whether to receive it, from
        its start document on.
    since
        Returns the time of the earliest start that is of interest, None for what the publisher's
        session records. Asked at each connection.
    name
        How the publisher's log calls this subscriber.

    Attributes
    ----------
    counts : NetworkCounts
    connected : bool
        Whether the publisher has answered, and been heard in the last seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        wanted: Callable[[str, float], bool] = lambda uid, started: True,  # noqa: ARG005
        since: Callable[[], float | None] = lambda: None,
        name: str = "subscriber",
    ) -> None:
        self.address = checked_address(address)
        self.counts = NetworkCounts()
        self._wanted = wanted
        self._since = since
        self._name = name
        self._publisher: str | None = None
        self._heard = 0.0
        self._hello_at = 0.0
        self._feeds: dict[str, Feed] = {}
        self._queue: dict[str, float] = {}
        self._finished: dict[str, None] = {}
        self._failures: dict[str, tuple[float, list[bytes]]] = {}
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # An own identity, so that the publisher knows it again after a broken connection.
        self._socket.set(zmq.IDENTITY, uuid.uuid4().bytes)
        self._socket.set(zmq.LINGER, 500)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.RECONNECT_IVL, 50)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.set(zmq.HEARTBEAT_IVL, 2000)
        self._socket.set(zmq.HEARTBEAT_TIMEOUT, 10000)
        self._socket.connect(self.address)

    @property
    def connected(self) -> bool:
        """Whether the publisher has answered and been heard lately."""
        return self._publisher is not None and time.monotonic() - self._heard < _SILENCE

    @property
    def idle(self) -> bool:
        """Whether nothing that is wanted is open or missing."""
        return self.connected and not self._feeds and not self._queue

    @property
    def runs(self) -> tuple[str, ...]:
        """Uids of the runs that are followed at present."""
        return tuple(self._feeds)

    @property
    def waiting(self) -> int:
        """Runs that are followed when one of those has ended."""
        return len(self._queue)

    @property
    def lag(self) -> float:
        """Seconds since the oldest document was announced that has not been delivered."""
        since = [f.behind_since for f in self._feeds.values() if f.behind_since is not None]
        return time.monotonic() - min(since) if since else 0.0

    def receive(self, timeout: float) -> Iterator[Delivery]:
        """Yield what can be delivered now, in the order of each run.

        A document counts as dealt with when the next one is asked for.

        Parameters
        ----------
        timeout
            Seconds to wait for the first message.
        """
        if self._socket.poll(int(timeout * 1000)):
            # One turn of the caller's loop, so that it can look after other things.
            for _ in range(64):
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._heard = time.monotonic()
                yield from self._take(frames)
        self._look_after()
        # An end that was announced after the last document had come.
        for feed in list(self._feeds.values()):
            yield from self._deliver(feed)

    def report(self, run: str, consumer: str, policy: str, reason: str) -> None:
        """Tell the session that a consumer has failed; repeated until it has been noted."""
        key = uuid.uuid4().hex
        body = {"id": key, "run": run, "consumer": consumer, "policy": policy, "reason": reason}
        frames = message("failed", body)
        self._failures[key] = (time.monotonic(), frames)
        self._send(frames)

    def close(self) -> None:
        """Acknowledge what has been delivered and leave."""
        for feed in self._feeds.values():
            self._acknowledge(feed)
        self._socket.close()
        self._context.term()

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            # Nobody is connected; everything that matters is repeated.
            return

    # ---- receiving

    def _take(self, frames: list[bytes]) -> Iterator[Delivery]:
        try:
            kind, body, payload = read_message(frames)
            match kind:
                case "docs":
                    feed = self._feeds.get(body["run"])
                    if feed is not None:
                        self._store(feed, int(body["first"]), payload)
                        yield from self._deliver(feed)
                    else:
                        # Sent again although it had come, and its run is finished.
                        self.counts.received += int(body["count"])
                        self.counts.duplicates += int(body["count"])
                case "runs":
                    self._begin(str(body["publisher"]))
                    self._announced(body["runs"])
                case "beat":
                    if body["publisher"] != self._publisher:
                        self._publisher = None
                    else:
                        self._announced(body["runs"])
                case "gone":
                    self._lose(str(body["run"]), str(body["reason"]))
                case "noted":
                    self._failures.pop(str(body["id"]), None)
                case _:
                    raise WireError(f"{kind!r} is no message to a subscriber.")
        except (WireError, KeyError, TypeError) as error:
            self.counts.damaged += 1
            _log.warning("a message of the publisher is ignored: %r", error)

    def _begin(self, publisher: str) -> None:
        if publisher == self._publisher:
            return
        self._publisher = publisher
        for feed in self._feeds.values():
            self._ask(feed)

    def _announced(self, lines: list[list[Any]]) -> None:
        now = time.monotonic()
        for uid, started, state, count in sorted(lines, key=lambda line: line[1]):
            feed = self._feeds.get(uid)
            if feed is not None:
                feed.known = max(feed.known, count)
                feed.state = state
                if feed.known > feed.next and feed.behind_since is None:
                    feed.behind_since = now
            elif uid not in self._finished and uid not in self._queue:
                if self._wanted(uid, started):
                    self._queue[uid] = started
                else:
                    self._forget(uid)
        self._start_feeds()

    def _start_feeds(self) -> None:
        while self._queue and len(self._feeds) < _MOST_RUNS:
            uid = next(iter(self._queue))
            feed = self._feeds[uid] = Feed(uid, self._queue.pop(uid))
            self._ask(feed)

    def _forget(self, uid: str) -> None:
        # Announced for a while after its end; `wanted` answers for what is older.
        self._finished[uid] = None
        if len(self._finished) > 10_000:
            del self._finished[next(iter(self._finished))]

    def _store(self, feed: Feed, first: int, block: bytes) -> None:
        """Keep the records of a message; ask for those that are missing before it."""
        missing = feed.missing_before(first)
        if missing:
            self.counts.gaps += 1
            self.counts.missed += missing
            body = {"run": feed.uid, "first": feed.highest, "count": missing}
            self._send(message("refill", body))
        feed.store(first, block, self.counts)

    def _deliver(self, feed: Feed) -> Iterator[Delivery]:
        pending = feed.pending
        while (payload := pending.get(feed.next)) is not None:
            try:
                name, doc = unpack(payload)
            except ValueError as error:
                self._lose(feed.uid, f"document {feed.next} can't be read: {error}")
                return
            yield Delivery(feed.uid, feed.next, name, doc)
            self.counts.delivered += 1
            feed.delivered()
            if feed.next - feed.acked >= WINDOW // 4:
                self._acknowledge(feed)
            if name == "stop":
                self._end(feed)
                return
        if feed.known <= feed.next:
            feed.behind_since = None
        if feed.complete and feed.uid in self._feeds:
            if feed.state == CUT:
                yield Delivery(feed.uid, feed.next, CUT, {})
            self._end(feed)

    def _end(self, feed: Feed) -> None:
        self._acknowledge(feed)
        self._feeds.pop(feed.uid, None)
        self._forget(feed.uid)
        self._start_feeds()

    def _lose(self, uid: str, reason: str) -> None:
        self.counts.lost += 1
        _log.error("run %s can't be received: %s", uid, reason)
        feed = self._feeds.get(uid)
        if feed is not None:
            # Its consumers are told that it ends here.
            feed.state, feed.known = CUT, feed.next
            feed.pending.clear()

    # ---- asking

    def _look_after(self) -> None:
        """Do what time asks for: hello, acknowledgements, and runs that have stalled."""
        now = time.monotonic()
        if self._publisher is not None and now - self._heard > _SILENCE:
            self._publisher = None
        if self._publisher is None and now - self._hello_at > _HELLO:
            self._hello_at = now
            body = {"version": VERSION, "name": self._name, "since": self._since()}
            self._send(message("hello", body))
        for key, (sent, frames) in list(self._failures.items()):
            if now - sent > _HELLO:
                self._failures[key] = (now, frames)
                self._send(frames)
        for feed in self._feeds.values():
            if feed.next > feed.acked:
                self._acknowledge(feed)
            behind = feed.known > feed.next or (feed.state != OPEN and feed.known < 0)
            if self._publisher is not None and behind and now - feed.moved > feed.patience:
                if feed.damaged >= _MOST_DAMAGED:
                    self._lose(feed.uid, f"document {feed.next} is damaged in the journal")
                    continue
                self.counts.stalls += 1
                feed.patience = min(2 * feed.patience, _MOST_PATIENCE)
                if feed.known > feed.highest:
                    self.counts.gaps += 1
                self._ask(feed)

    def _ask(self, feed: Feed) -> None:
        """Ask for a run, from the first document on that has not been delivered."""
        feed.moved = time.monotonic()
        feed.acked = feed.next
        self._send(message("follow", {"run": feed.uid, "first": feed.next}))

    def _acknowledge(self, feed: Feed) -> None:
        feed.acked = feed.next
        self._send(message("ack", {"run": feed.uid, "next": feed.next}))
