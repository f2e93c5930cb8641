"""The Ray actor around one shard: takes and gives references, waits, and looks who is still alive.

References that a producer made die with it. So the actor keeps, for every item, the arrays mapped
from the object store: as long as it does, consumers of the same node can read them without a copy,
whether or not the producer lives. Where that is not enough (a consumer of another node), it puts
them into the store anew, under its own name, when the item is given out again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beamline.core.errors import QueueError, StorageError
from beamline.streaming import parcel
from beamline.streaming.parcel import Parcel
from beamline.streaming.presence import is_gone, this_process
from beamline.streaming.segment_log import SegmentLog
from beamline.streaming.shard import Shard
from beamline.streaming.shard_state import Content, Part, Party

__all__ = ["Given", "ShardActor", "ShardSettings"]

_log = logging.getLogger(__name__)

_SWEEP_SECONDS = 0.5
_FETCH_SECONDS = 60.0
_SEGMENT_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class ShardSettings:
    """How a queue was made; every shard knows all of it.

    Attributes
    ----------
    base_name, num_shards, index
        Of the queue, and which shard this is.
    maxsize, max_bytes, memory_bytes
        Of this shard.
    lease_seconds
        Of the queue.
    directory
        Where the queue's items are kept besides; None for nowhere.
    fsync
        Whether a put waits for the disk.
    """

    base_name: str
    num_shards: int
    index: int
    maxsize: int
    max_bytes: int
    memory_bytes: int
    lease_seconds: float
    directory: str | None = None
    fsync: bool = False


class Given(NamedTuple):
    """One leased item on its way to a consumer."""

    number: int
    attempt: int
    stamp: int
    skeleton: bytes
    parts: list[Any]


class ShardActor:
    """Answers what the reference's queue actors answer, and what `ShardedQueueManager` needs.

    Parameters
    ----------
    settings
        Of this shard.
    """

    def __init__(self, settings: ShardSettings) -> None:
        import ray

        self._settings = settings
        name = f"{settings.base_name}_shard_{settings.index}"
        # Numbers begin anew with every start of the actor, so each is a party of its own.
        self._me = Party(name, uuid.uuid4().hex, this_process())
        self._shard = Shard(
            maxsize=settings.maxsize,
            max_bytes=settings.max_bytes,
            memory_bytes=settings.memory_bytes,
            lease_seconds=settings.lease_seconds,
            log=_opened_log(settings),
        )
        self._number = 0
        self._changed = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        self._lost = settings.directory is None and bool(
            ray.get_runtime_context().was_current_actor_reconstructed
        )
        if self._lost:
            _log.error("%s was restarted and had no directory: what it held is lost.", name)

    # --- the reference's calls

    async def put(self, item: Any) -> bool:
        """Take one item; False if there is no room."""
        import ray

        if not self._shard.room:
            self._shard.counts.refused += 1
            return False
        packed = parcel.pack(item, ray.put)
        packed.sequence, packed.stamp = self._next_number(), time.time_ns()
        accepted, _ = await self._take(self._me, [packed])
        return accepted == 1

    async def get(self) -> Any:
        """Give one item for good, or None."""
        import ray

        given = await self.lease(self._me, self._next_number(), 1)
        if not given:
            return None
        only = Given(*given[0])
        self._shard.acknowledge([only.number])
        self._notify()
        return parcel.unpack(only.skeleton, only.parts, ray.get)

    async def size(self) -> int:
        """Return how many items wait."""
        return self._shard.size

    async def is_empty(self) -> bool:
        """Return whether no item waits."""
        return self._shard.size == 0

    async def is_full(self) -> bool:
        """Return whether no item can come in."""
        return self._shard.room == 0

    # --- producers

    async def settings(self) -> ShardSettings:
        """Return how this shard was made."""
        return self._settings

    async def begin(self, producer: Party) -> None:
        """Note that a producer's stream is open."""
        self._shard.begin(producer)

    async def end(self, producer: Party) -> None:
        """Note that a producer's stream has ended."""
        self._shard.end(producer)
        self._notify()

    async def put_many(
        self, producer: Party, parcels: list[tuple[bytes, list[Any], int, int]]
    ) -> tuple[int, int]:
        """Take items in order until there is no room.

        Parameters
        ----------
        producer
            Whose they are.
        parcels
            As `Parcel.on_the_wire` gives them.

        Returns
        -------
        tuple
            How many came in, and the bytes of the first one that did not (0 if it was not even
            looked at).
        """
        self._shard.begin(producer)
        return await self._take(producer, [Parcel(*packed) for packed in parcels])

    async def wait_for_room(self, seconds: float, nbytes: int) -> bool:
        """Return when an item of this size can come in, or after this time, and whether it can."""
        shard = self._shard
        return await self._wait_until(lambda: shard.room > 0 and shard.fits(nbytes), seconds)

    # --- consumers

    async def lease(self, consumer: Party, request: int, max_items: int) -> list[tuple[Any, ...]]:
        """Give items to a consumer until it acknowledges them or gives them back.

        Returns
        -------
        list
            The fields of a `Given` for each.
        """
        import ray

        self._start_sweeper()
        given = []
        for delivery in self._shard.lease(consumer, request, max_items):
            for part in delivery.content.parts:
                # What comes a second time may have come from an owner that died.
                if part.reference is None or (delivery.attempt > 1 and part.value is not None):
                    part.reference = ray.put(part.value)
            references = [part.reference for part in delivery.content.parts]
            given.append(
                (
                    delivery.number,
                    delivery.attempt,
                    delivery.stamp,
                    delivery.content.skeleton,
                    references,
                )
            )
        return given

    async def acknowledge(self, numbers: list[int]) -> int:
        """Forget items; return how many had not been acknowledged before."""
        new = self._shard.acknowledge(numbers)
        self._notify()
        return new

    async def give_back(self, consumer: Party, numbers: list[int]) -> int:
        """Let others have items; return how many this consumer still had."""
        returned = self._shard.give_back(consumer, numbers)
        self._notify()
        return returned

    async def renew(self, consumer: Party, numbers: list[int]) -> list[int]:
        """Begin leases anew; return the items that the consumer does not have any more."""
        return self._shard.renew(consumer, numbers)

    async def wait_for_items(self, seconds: float, ended: bool) -> bool:
        """Return when an item waits or the stream ends, or after this time; whether one waits.

        Nothing is taken, so an answer that nobody reads loses nothing.

        Parameters
        ----------
        seconds
            How long to wait at most.
        ended
            What the caller knows of the stream's end here.
        """
        shard = self._shard
        self._start_sweeper()
        await self._wait_until(lambda: shard.size > 0 or shard.ended != ended, seconds)
        return shard.size > 0

    async def ended(self) -> tuple[bool, int]:
        """Return whether the stream has ended, and how many streams before it have."""
        return self._shard.ended, self._shard.generation

    async def acknowledge_end(self) -> None:
        """Forget streams that ended."""
        self._shard.acknowledge_end()

    async def info(self) -> dict[str, Any]:
        """Return what can be counted."""
        shard, counts = self._shard, self._shard.counts
        return {
            "size": shard.size,
            "maxsize": shard.maxsize,
            "leased": shard.leased,
            "nbytes": shard.nbytes,
            "max_bytes": shard.max_bytes,
            "memory": shard.memory,
            "put": counts.put,
            "refused": counts.refused,
            "acknowledged": counts.acknowledged,
            "acknowledged_twice": counts.acknowledged_twice,
            "given_back": counts.given_back,
            "expired": counts.expired,
            "orphaned": counts.orphaned,
            "recovered": counts.recovered,
            "last_error": shard.last_error,
            "producers": [
                {"name": p.name, "died": is_gone(p.process)} for p in shard.open_producers
            ],
            "restarted_without_log": self._lost,
            "pid": self._me.process.pid,
        }

    # --- the work

    async def _take(self, producer: Party, parcels: list[Parcel]) -> tuple[int, int]:
        shard = self._shard
        fresh = [p for p in parcels if not shard.known(producer, p.sequence)]
        accepted, refused = len(parcels) - len(fresh), 0
        for packed in fresh[: shard.room]:
            try:
                values = await self._fetch(packed)
            except QueueError:
                if accepted:
                    break
                raise
            refused = self._add(producer, packed, values)
            if refused:
                break
            accepted += 1
        shard.sync()
        self._notify()
        return accepted, refused

    async def _fetch(self, packed: Parcel) -> list[Any]:
        if not packed.parts:
            return []
        try:
            return await asyncio.wait_for(asyncio.gather(*packed.parts), _FETCH_SECONDS)
        except Exception as error:  # noqa: BLE001  (whatever reading somebody's object raises)
            raise QueueError(
                f"{self._me.name} refuses an item whose arrays it can't read "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); put it again with "
                "references that are alive."
            ) from None

    def _add(self, producer: Party, packed: Parcel, values: list[Any]) -> int:
        """Store an item; return its size in bytes if there is no room for it, or 0."""
        import ray

        shard = self._shard
        small = len(packed.skeleton)
        large = sum(_nbytes(value) for value in values)
        if not shard.fits(small + large):
            shard.counts.refused += 1
            return small + large
        if self._settings.directory is None and not shard.fits_memory(small + large):
            # Nothing is mapped then, and Ray may spill the arrays to its own disk.
            parts = [Part(ray.put(value), None) for value in values]
            memory = small
        else:
            parts = [Part(r, v) for r, v in zip(packed.parts, values, strict=True)]
            memory = small + large
        content = Content(packed.skeleton, parts)
        came = shard.add(producer, packed.sequence, packed.stamp, content, small + large, memory)
        return 0 if came else small + large

    async def _wait_until(self, condition: Any, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition():
            left = end - loop.time()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return True

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _notify(self) -> None:
        # Everybody who waits looks again; whoever waits after this waits for the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            if self._shard.leased and (self._shard.expire() + self._shard.take_from_dead(is_gone)):
                self._notify()


def _opened_log(settings: ShardSettings) -> SegmentLog | None:
    """Open the shard's log, if the queue has a directory.

    Raises
    ------
    StorageError
        If it can't be used, or holds items of more shards than the queue has.
    """
    if settings.directory is None:
        return None
    home = Path(settings.directory) / settings.base_name
    others = [path for path in home.glob("shard_*") if any(path.glob("*.items"))]
    most = max((int(path.name.removeprefix("shard_")) + 1 for path in others), default=0)
    if most > settings.num_shards:
        raise StorageError(
            f"{home} holds items of {most} shards, but the queue has {settings.num_shards}; "
            f"make it with {most} shards, or choose another directory."
        )
    return SegmentLog(
        home / f"shard_{settings.index:03d}",
        segment_bytes=max(1, min(_SEGMENT_BYTES, settings.max_bytes // 8)),
        fsync=settings.fsync,
    )


def _nbytes(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, np.ndarray) else 0
