"""What a consumer gets from a queue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from beamline.streaming import parcel
from beamline.streaming.shard_actor import Given

__all__ = ["Lease", "numbers_by_shard", "opened"]


@dataclass(frozen=True)
class Lease:
    """An item that this consumer has, until it acknowledges it or gives it back.

    Attributes
    ----------
    item
        What was put; None if it could not be read.
    lease_id
        Number of the item in its shard.
    shard
        Index of the shard.
    attempt
        1 when it is given out the first time.
    stamp
        When it was put, ns since 1970 by the producer's clock; 0 if unknown.
    error
        Why the item could not be read.
    """

    item: Any
    lease_id: int
    shard: int
    attempt: int
    stamp: int = 0
    error: Exception | None = None


def opened(shard: int, given: Given) -> Lease:
    """Unpack what a shard gave."""
    import ray

    try:
        item, error = parcel.unpack(given.skeleton, given.parts, ray.get), None
    except Exception as unreadable:  # noqa: BLE001  (whatever unpickling somebody's class raises)
        item, error = None, unreadable
    return Lease(item, given.number, shard, given.attempt, given.stamp, error)


def numbers_by_shard(leases: Iterable[Lease]) -> dict[int, list[int]]:
    """Return the numbers of items by their shard."""
    numbers: dict[int, list[int]] = {}
    for lease in leases:
        numbers.setdefault(lease.shard, []).append(lease.lease_id)
    return numbers
