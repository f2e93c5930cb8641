"""One shard of a queue, as a plain object: what is stored, who has it, what may come in.

No Ray, no threads, no waiting: the actor around it (`shard_actor`) does that. Times are given by a
clock. With a log, what is answered is on disk before; without, it is in memory alone.
"""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from beamline.core.errors import QueueError, StorageError
from beamline.streaming.presence import Process
from beamline.streaming.segment_log import SegmentLog
from beamline.streaming.shard_state import Content, Counts, Delivery, Entry, Party, State

__all__ = ["Shard"]

_log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds for which a disk that refused an item is not tried again."""
_REMEMBERED = 1024
"""Consumers whose last request is known, and incarnations of producers whose last number is."""


class Shard:
    """A bounded queue whose items stay until they are acknowledged.

    Parameters
    ----------
    maxsize
        Items that it holds at most, leased ones included.
    max_bytes
        Bytes that they may have together.
    memory_bytes
        Bytes of them that are kept in memory.
    lease_seconds
        Time after which a leased item that is not acknowledged comes back.
    log
        Where items are kept besides; what it holds already is taken over.
    clock
        Seconds, monotonic.

    Attributes
    ----------
    last_error
        Why an item was refused though there was room: what the disk said.
    """

    def __init__(
        self,
        *,
        maxsize: int,
        max_bytes: int,
        memory_bytes: int,
        lease_seconds: float,
        log: SegmentLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.maxsize = maxsize
        self.max_bytes = max_bytes
        self.memory_bytes = memory_bytes
        self.lease_seconds = lease_seconds
        self.counts = Counts()
        self.nbytes = 0
        self.memory = 0
        self.last_error = ""
        self._try_again = -math.inf
        self._log = log
        self._clock = clock
        self._state = State()
        self._entries: dict[int, Entry] = {}
        self._waiting: list[int] = []
        self._leased: dict[int, Entry] = {}
        self._requests: dict[str, tuple[int, list[int]]] = {}
        if log is not None:
            self._take_over(log)

    # --- state

    @property
    def size(self) -> int:
        """Items that wait for a consumer."""
        return len(self._waiting)

    @property
    def leased(self) -> int:
        """Items that a consumer has and has not acknowledged."""
        return len(self._leased)

    @property
    def room(self) -> int:
        """Items that can still come in, as far as their number goes."""
        return max(0, self.maxsize - len(self._entries)) if self.fits(0) else 0

    @property
    def ended(self) -> bool:
        """Whether every producer that began has ended, and every item is acknowledged."""
        return self._state.streams_ended > 0 and not self._state.open and not self._entries

    @property
    def generation(self) -> int:
        """How often the end of the stream was acknowledged."""
        return self._state.generation

    @property
    def open_producers(self) -> list[Party]:
        """Producers that began and have not ended."""
        return list(self._state.open.values())

    def fits(self, nbytes: int) -> bool:
        """Return whether an item of this size can come in.

        Raises
        ------
        QueueError
            If it could not even come into an empty shard.
        """
        if nbytes > self.max_bytes:
            raise QueueError(
                f"an item of {nbytes} bytes does not go into a shard that may hold "
                f"{self.max_bytes}; raise spill_bytes or put smaller batches."
            )
        if self._clock() < self._try_again:
            return False
        if not self._entries:
            return True
        used = self.nbytes if self._log is None else self._log.nbytes
        return len(self._entries) < self.maxsize and used + nbytes <= self.max_bytes

    def fits_memory(self, nbytes: int) -> bool:
        """Return whether an item of this size may be kept in memory."""
        return self.memory + nbytes <= self.memory_bytes

    # --- producers

    def begin(self, producer: Party) -> None:
        """Note that a producer's stream is open; a restarted producer takes its old one over.

        Raises
        ------
        StorageError
            If the log can't be written; so does `end`.
        """
        if self._state.open.get(producer.name) != producer:
            self._change(open={**self._state.open, producer.name: producer})

    def end(self, producer: Party) -> None:
        """Note that a producer's stream has ended."""
        still = {name: party for name, party in self._state.open.items() if name != producer.name}
        if len(still) < len(self._state.open):
            self._change(open=still, streams_ended=self._state.streams_ended + 1)

    def acknowledge_end(self) -> None:
        """Forget streams that ended, so that the next one begins anew."""
        if self.ended:
            self._change(streams_ended=0, generation=self._state.generation + 1)

    def known(self, producer: Party, sequence: int) -> bool:
        """Return whether an item of this number has come in before."""
        return sequence <= self._state.last.get(producer.incarnation, -1)

    def add(
        self,
        producer: Party,
        sequence: int,
        stamp: int,
        content: Content,
        nbytes: int,
        memory: int | None = None,
    ) -> bool:
        """Take an item; False if there is no room, or the disk refuses.

        Parameters
        ----------
        producer, sequence
            A number that is not above the producer's last one is an item that came in before: a
            producer repeats what was not answered.
        stamp
            When it was put, ns since 1970.
        content
            The item; all its parts have values if there is a log.
        nbytes
            Bytes of pickle and parts.
        memory
            How many of them are in memory; by default all.
        """
        if self.known(producer, sequence):
            return True
        if not self.fits(nbytes):
            self.counts.refused += 1
            return False
        if self._log is not None:
            try:
                self._log.append(self._state, producer, sequence, stamp, content)
            except StorageError as error:
                self._disk_refused(error)
                return False
        entry = Entry(self._state.next_number, nbytes, stamp)
        if self._log is None or self.fits_memory(nbytes):
            entry.content, entry.memory = content, nbytes if memory is None else memory
        self._state.next_number += 1
        self._insert(entry)
        heapq.heappush(self._waiting, entry.number)
        _remember(self._state.last, producer.incarnation, sequence)
        self.counts.put += 1
        return True

    def _disk_refused(self, error: StorageError) -> None:
        self.counts.refused += 1
        self._try_again = self._clock() + _PAUSE
        if str(error) != self.last_error:
            _log.error("%s Until then its producers wait.", error)
        self.last_error = str(error)

    def sync(self) -> None:
        """Wait until what came in is on disk, if there is a log that is to wait."""
        if self._log is not None:
            self._log.sync()

    # --- consumers

    def lease(self, consumer: Party, request: int, max_items: int) -> list[Delivery]:
        """Give the oldest items to a consumer.

        Parameters
        ----------
        consumer
            Whose lease it is.
        request
            Number of the request; the same one gets the same items again, as far as it still has
            them: a consumer repeats what was not answered.
        max_items
            Items that it takes at most.
        """
        self.expire()
        last = self._requests.get(consumer.incarnation)
        if last is not None and last[0] == request:
            numbers = [n for n in last[1] if self._is_held(n, consumer)]
        else:
            numbers = [
                heapq.heappop(self._waiting) for _ in range(min(max_items, len(self._waiting)))
            ]
            deadline = self._clock() + self.lease_seconds
            for number in numbers:
                entry = self._entries[number]
                entry.attempt += 1
                entry.consumer, entry.deadline = consumer, deadline
                self._leased[number] = entry
            _remember(self._requests, consumer.incarnation, (request, numbers))
            if self._log is not None and numbers:
                self._log.leased(numbers, consumer, request)
        return [self._delivery(self._entries[number]) for number in numbers]

    def renew(self, consumer: Party, numbers: Iterable[int]) -> list[int]:
        """Begin leases anew; return the items that this consumer does not have any more."""
        deadline = self._clock() + self.lease_seconds
        lost = []
        for number in numbers:
            if self._is_held(number, consumer):
                self._entries[number].deadline = deadline
            else:
                lost.append(number)
        return lost

    def acknowledge(self, numbers: Iterable[int]) -> int:
        """Remove items for good; return how many had not been acknowledged before.

        It holds also after the lease: what is safe elsewhere needs no second consumer.
        """
        new = []
        back = []
        for number in numbers:
            entry = self._entries.pop(number, None)
            if entry is None:
                self.counts.acknowledged_twice += 1
                continue
            new.append(number)
            self.nbytes -= entry.nbytes
            self.memory -= entry.memory
            if self._leased.pop(number, None) is None:
                back.append(number)
        if back:
            gone = set(back)
            self._waiting = [n for n in self._waiting if n not in gone]
            heapq.heapify(self._waiting)
        self.counts.acknowledged += len(new)
        if self._log is not None and new:
            self._log.done(new, self._state)
        return len(new)

    def give_back(self, consumer: Party, numbers: Sequence[int]) -> int:
        """Let others have items that this consumer has; return how many those are."""
        held = [n for n in numbers if self._is_held(n, consumer)]
        self._release(held)
        self.counts.given_back += len(held)
        return len(held)

    def expire(self) -> int:
        """Take back leases whose time is over; return how many."""
        now = self._clock()
        late = [n for n, entry in self._leased.items() if entry.deadline <= now]
        self._release(late)
        self.counts.expired += len(late)
        return len(late)

    def take_from_dead(self, is_gone: Callable[[Process], bool]) -> int:
        """Take back what consumers have whose process has ended; return how many items."""
        parties = {e.consumer for e in self._leased.values() if e.consumer is not None}
        dead = {party for party in parties if is_gone(party.process)}
        orphans = [n for n, entry in self._leased.items() if entry.consumer in dead]
        self._release(orphans)
        self.counts.orphaned += len(orphans)
        return len(orphans)

    def _is_held(self, number: int, consumer: Party) -> bool:
        entry = self._leased.get(number)
        return (
            entry is not None
            and entry.consumer is not None
            and entry.consumer.incarnation == consumer.incarnation
        )

    def _release(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            entry = self._leased.pop(number)
            entry.consumer = None
            heapq.heappush(self._waiting, number)
        if self._log is not None and numbers:
            self._log.back(numbers)

    # --- the log

    def _delivery(self, entry: Entry) -> Delivery:
        content = entry.content
        if content is None:
            assert self._log is not None  # noqa: S101  (only a log lets content go)
            content = self._log.read(entry.number)
        return Delivery(entry.number, entry.attempt, entry.stamp, content)

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.number] = entry
        self.nbytes += entry.nbytes
        self.memory += entry.memory

    def _change(self, **changes: Any) -> None:
        state = replace(self._state, **changes)
        if self._log is not None:
            self._log.state_changed(state)
        self._state = state

    def _take_over(self, log: SegmentLog) -> None:
        self._state = log.recovered.state
        deadline = self._clock() + self.lease_seconds
        for item in log.recovered.items.values():
            entry = Entry(item.number, item.nbytes, item.stamp, attempt=item.attempt)
            self._insert(entry)
            if item.consumer is None:
                heapq.heappush(self._waiting, item.number)
                continue
            entry.consumer, entry.deadline = item.consumer, deadline
            self._leased[item.number] = entry
            request, numbers = self._requests.get(item.consumer.incarnation, (-1, []))
            if item.request > request:
                request, numbers = item.request, []
            if item.request == request:
                numbers.append(item.number)
            self._requests[item.consumer.incarnation] = request, numbers
        self.counts.recovered = len(self._entries)


def _remember(table: dict[str, Any], key: str, value: Any) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > _REMEMBERED:
        del table[next(iter(table))]
