"""Sharded queues on Ray: items stay in them until they are acknowledged.

Names and calls are those of peaknet-pipeline-ray's queue, whose producers, consumers and actors all
work with these. What is promised to whom is in ``docs/streaming.md``.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from beamline.core.errors import QueueError
from beamline.streaming import parcel, topology
from beamline.streaming.lease import Lease, numbers_by_shard, opened
from beamline.streaming.parcel import Parcel
from beamline.streaming.plain_actors import PlainActors
from beamline.streaming.presence import this_process
from beamline.streaming.shard_actor import Given, ShardSettings
from beamline.streaming.shard_calls import ShardCalls
from beamline.streaming.shard_state import Party
from beamline.streaming.topology import Topology, discover

__all__ = ["Lease", "ShardedQueueManager", "Topology", "discover"]

_log = logging.getLogger(__name__)

_GIB = 1024**3
_LONGEST_WAIT = 5.0
"""Seconds between two looks for room or items, whatever the actors say."""


class ShardedQueueManager:
    """A queue made of several actors, for its producers and for its consumers.

    Threads may share one; then they take turns. Sent to another process, it connects anew there.

    Parameters
    ----------
    base_name
        Of the queue; its actors are ``{base_name}_shard_{i}``.
    num_shards
        How many there are, or will be; None takes the queue that is there as it is.
    maxsize_per_shard
        Items that a new shard holds at most, leased ones included.
    namespace
        Of the actors; by default the caller's.
    create
        Whether to make the queue if it is not there.
    directory
        Where a new queue keeps its items, so that they outlive its actors; by default it does not.
    fsync
        Whether a put waits until the disk has the item: then items outlive the machine too.
    spill_bytes
        Bytes that a new queue holds at most; then producers are told to wait.
    memory_bytes
        Bytes of them that it keeps mapped in the object store; by default 30 % of the store.
    lease_seconds
        Time after which an item of a new queue that is not acknowledged comes back.
    producer
        Name of this producer's stream; one that is started again under the same name goes on with
        it, so that its end marker ends both. By default every manager is a producer of its own.

    Attributes
    ----------
    num_shards : int
        As found or made.
    shard_names : list[str]
        Names of the actors.
    can_lease : bool
        Whether the actors know leases. With the reference's, `lease` takes items for good, and
        what this process has not finished when it dies is lost.

    Raises
    ------
    ConfigurationError
        If the queue has another number of shards.
    MissingError
        If there is none, and `create` is false or `num_shards` None.
    """

    def __init__(
        self,
        base_name: str,
        num_shards: int | None = 1,
        maxsize_per_shard: int = 1000,
        *,
        namespace: str | None = None,
        create: bool = True,
        directory: str | os.PathLike[str] | None = None,
        fsync: bool = False,
        spill_bytes: int = 32 * _GIB,
        memory_bytes: int | None = None,
        lease_seconds: float = 300.0,
        producer: str | None = None,
    ) -> None:
        shards = num_shards or 1
        memory = topology.store_share() if memory_bytes is None else memory_bytes
        wanted = [
            ShardSettings(
                base_name=base_name,
                num_shards=shards,
                index=index,
                maxsize=maxsize_per_shard,
                max_bytes=max(1, spill_bytes // shards),
                memory_bytes=memory // shards,
                lease_seconds=lease_seconds,
                directory=None if directory is None else str(Path(directory).absolute()),
                fsync=fsync,
            )
            for index in range(shards)
        ]
        found, actors = topology.open_shards(
            wanted, num_shards, base_name, namespace, may_create=create
        )
        self.base_name = base_name
        self.namespace = found.namespace
        self.num_shards = found.num_shards
        self.can_lease = found.can_lease
        self.maxsize_per_shard = maxsize_per_shard
        self.shard_names = [f"{base_name}_shard_{i}" for i in range(found.num_shards)]
        self._calls = ShardCalls(found, actors)
        self._plain = PlainActors(self._calls)
        self._me = Party(
            producer or f"{os.getpid()}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex, this_process()
        )
        self._begun = False
        self._sequence = 0
        self._stamp = 0
        self._request = 0
        self._put_shard = 0
        self._get_shard = 0
        self._needed = 0
        self._full: set[int] = set()
        self._told = False
        # Numbers of items and of requests must rise one by one.
        self._putting = threading.RLock()
        self._taking = threading.RLock()
        answers = self._calls.all("ended") if self.can_lease else []
        self._generations = [generation for _, generation in answers]
        self._ends = [ended for ended, _ in answers]

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere it is another producer and another consumer.
        return _connected, (self.base_name, self.namespace)

    # --- producing

    def begin(self) -> None:
        """Say that items will come; `put` says it if it was not said.

        A consumer that drains the queue before all producers have begun would believe the end.
        """
        if self.can_lease and not self._begun:
            self._calls.all("begin", self._me)
        self._begun = True

    def put(self, item: Any) -> bool:
        """Put an item into the next shard that has room.

        Returns
        -------
        bool
            False if no shard has: check it, or use `put_wait`.

        Raises
        ------
        QueueError
            If the item can never be taken: its arrays can't be read, or it is too large.
        """
        return self.put_many([item]) == 1

    def put_many(self, items: Sequence[Any]) -> int:
        """Put items, in order, into one shard as long as it has room, then into the next.

        Returns
        -------
        int
            How many came in; fewer than given if no shard has room for the next one, or the next
            one can never be taken.

        Raises
        ------
        QueueError
            If the first item can never be taken.
        """
        with self._putting:
            if not self.can_lease:
                return self._plain.put(items)
            return self._offer(self._packed(items)) if self._any_has_room() else 0

    def put_wait(self, item: Any, timeout: float | None = None) -> bool:
        """Put an item, and wait for room if there is none.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None waits as long as it takes.

        Returns
        -------
        bool
            False if there was no room all the time.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        parcels: list[Parcel] = []
        with self._putting:
            while True:
                if not self.can_lease:
                    done = self._plain.put([item])
                elif done := self._any_has_room():
                    # Its arrays are copied once, however often it is offered.
                    parcels = parcels or self._packed([item])
                    done = self._offer(parcels)
                if done:
                    self._told = False
                    return True
                left = end - time.monotonic()
                if left <= 0:
                    return False
                if not self._told:
                    _log.warning("queue %s is full; its producer waits.", self.base_name)
                    self._told = True
                self._calls.wait(
                    "wait_for_room", min(left, _LONGEST_WAIT), [(self._needed,)] * self.num_shards
                )

    def end(self) -> None:
        """Say that this producer puts nothing more; says nothing to the reference's actors."""
        if self.can_lease:
            self.begin()
            self._calls.all("end", self._me)
        self._begun = False

    # --- consuming

    def get(self, timeout: float = 0.0) -> Any:
        """Take the next item for good, or None if none came within `timeout` seconds."""
        leases = self.lease(1, timeout)
        if not leases:
            return None
        self.ack(leases)
        if leases[0].error is not None:
            raise leases[0].error
        return leases[0].item

    def lease(self, max_items: int = 1, timeout: float = 0.0) -> list[Lease]:
        """Take the oldest items of all shards, in the order in which they were put.

        Parameters
        ----------
        max_items
            How many at most.
        timeout
            Seconds to wait for the first one.

        Returns
        -------
        list[Lease]
            Empty if nothing came in time, or the stream has ended.
        """
        end = time.monotonic() + timeout
        while True:
            with self._taking:
                leases = self._lease_now(max_items)
            left = end - time.monotonic()
            if leases or left <= 0 or self.ended:
                return leases
            with self._taking:
                self._calls.wait("wait_for_items", min(left, _LONGEST_WAIT), self._seen_ends)

    def arrivals(self) -> list[Any]:
        """Return Ray references of which one is ready when `lease` may bring something again.

        Or when the stream ends; no later than after some seconds. For those who wait for other
        things too, by `ray.wait`; tell `arrived` which were ready. None for the reference's actors,
        which have to be asked.
        """
        with self._taking:
            return self._calls.waits("wait_for_items", self._seen_ends) if self.can_lease else []

    def arrived(self, ready: Collection[Any]) -> bool:
        """Return whether one of the references that `arrivals` gave is among these."""
        with self._taking:
            return self._calls.drop_answered("wait_for_items", ready)

    def ack(self, leases: Iterable[Lease]) -> int:
        """Acknowledge items: what they hold is safe elsewhere, and they never come again.

        Returns
        -------
        int
            How many had not been acknowledged before, by anybody.
        """
        if not self.can_lease:
            return len(list(leases))
        numbers = numbers_by_shard(leases)
        return sum(self._calls.each("acknowledge", {s: (ids,) for s, ids in numbers.items()}))

    def give_back(self, leases: Iterable[Lease]) -> int:
        """Let others have items now; the attempt after this one brings their arrays anew.

        Returns
        -------
        int
            How many this consumer still had.
        """
        if not self.can_lease:
            return self._plain.give_back(leases)
        numbers = numbers_by_shard(leases)
        return sum(self._calls.each("give_back", {s: (self._me, n) for s, n in numbers.items()}))

    def renew(self, leases: Iterable[Lease]) -> list[Lease]:
        """Begin leases anew; return those that this consumer has lost."""
        held = list(leases)
        if not self.can_lease:
            return []
        numbers = numbers_by_shard(held)
        answers = self._calls.each("renew", {s: (self._me, n) for s, n in numbers.items()})
        lost = {(s, n) for s, gone in zip(numbers, answers, strict=True) for n in gone}
        return [lease for lease in held if (lease.shard, lease.lease_id) in lost]

    @property
    def _seen_ends(self) -> list[tuple[bool]]:
        return [(ended,) for ended in self._ends]

    @property
    def ended(self) -> bool:
        """Whether all producers that began have ended and all items are acknowledged.

        Never, with the reference's actors: they have no end marker.
        """
        if not self.can_lease:
            return False
        answers = self._calls.all("ended")
        self._ends = [ended for ended, _ in answers]
        return all(
            ended or generation > before
            for (ended, generation), before in zip(answers, self._generations, strict=True)
        )

    def acknowledge_end(self) -> None:
        """Forget that the stream has ended, so that the next consumer waits for the next stream."""
        if self.can_lease:
            self._calls.all("acknowledge_end")

    # --- state

    def size(self) -> int:
        """Return how many items wait in all shards."""
        return sum(self._calls.all("size"))

    def is_empty(self) -> bool:
        """Return whether no item waits."""
        return self.size() == 0

    def get_shard_info(self) -> list[dict[str, Any]]:
        """Return for every shard its ``shard_id``, ``name``, ``size``, ``maxsize``, and counts."""
        if self.can_lease:
            counts = self._calls.all("info")
        else:
            counts = [
                {"size": size, "maxsize": self.maxsize_per_shard}
                for size in self._calls.all("size")
            ]
        return [
            {"shard_id": index, "name": name, **count}
            for index, (name, count) in enumerate(zip(self.shard_names, counts, strict=True))
        ]

    def delete(self) -> None:
        """End the actors of the queue, with all that they hold."""
        import ray

        for actor in self._calls.actors:
            ray.kill(actor, no_restart=True)

    # --- putting

    def _packed(self, items: Sequence[Any]) -> list[Parcel]:
        import ray

        self.begin()
        parcels = []
        for item in items:
            packed = parcel.pack(item, ray.put)
            # Stamps of one producer rise, also where its clock stands still or is set back.
            self._stamp = max(self._stamp + 1, time.time_ns())
            packed.sequence, packed.stamp = self._sequence, self._stamp
            self._sequence += 1
            parcels.append(packed)
        return parcels

    def _offer(self, parcels: Sequence[Parcel]) -> int:
        done = 0
        for _ in range(self.num_shards):
            shard = self._put_shard
            self._put_shard = (shard + 1) % self.num_shards
            try:
                offered = [packed.on_the_wire() for packed in parcels[done:]]
                accepted, self._needed = self._calls.one(shard, "put_many", self._me, offered)
            except QueueError:
                if done:
                    break
                raise
            done += accepted
            if done == len(parcels):
                self._full.discard(shard)
                break
            self._full.add(shard)
        return done

    def _any_has_room(self) -> bool:
        """Return whether it is worth packing an item: asks only if all shards were full."""
        if len(self._full) < self.num_shards:
            return True
        full = self._calls.all("is_full")
        self._full = {shard for shard, is_full in enumerate(full) if is_full}
        return not all(full)

    # --- getting

    def _lease_now(self, max_items: int) -> list[Lease]:
        first, self._get_shard = self._get_shard, (self._get_shard + max_items) % self.num_shards
        order = [(first + i) % self.num_shards for i in range(self.num_shards)]
        if not self.can_lease:
            return self._plain.take(order, max_items)
        leases: list[Lease] = []
        share = {
            shard: (max_items - i + self.num_shards - 1) // self.num_shards
            for i, shard in enumerate(order)
            if i < max_items
        }
        full = self._lease_from(share, leases)
        # What some shards did not have, the others may; and shards that were not asked at all.
        rest = [s for s in order if s in full or s not in share]
        if len(leases) < max_items and rest:
            for shard, size in zip(
                rest, self._calls.each("size", dict.fromkeys(rest, ())), strict=True
            ):
                if size and len(leases) < max_items:
                    self._lease_from({shard: max_items - len(leases)}, leases)
        return sorted(leases, key=lambda lease: lease.stamp)

    def _lease_from(self, share: dict[int, int], leases: list[Lease]) -> set[int]:
        """Lease so many items of each shard; return the shards that gave all that was asked."""
        self._request += 1
        asked = {s: (self._me, self._request, number) for s, number in share.items()}
        answers: list[list[tuple[Any, ...]]] = self._calls.each("lease", asked)
        for shard, answer in zip(share, answers, strict=True):
            leases += [opened(shard, Given(*given)) for given in answer]
        return {s for s, answer in zip(share, answers, strict=True) if len(answer) == share[s]}


def _connected(base_name: str, namespace: str) -> ShardedQueueManager:
    return ShardedQueueManager(base_name, None, namespace=namespace, create=False)
