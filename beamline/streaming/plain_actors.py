"""Queue actors that only know put, get and size: those of peaknet-pipeline-ray.

They hand items out for good. What is given back here waits in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from beamline.core.errors import ConnectionLostError
from beamline.streaming.lease import Lease
from beamline.streaming.shard_calls import ShardCalls

__all__ = ["PlainActors"]


class PlainActors:
    """The actors of one queue.

    Parameters
    ----------
    calls
        How to call them.
    """

    def __init__(self, calls: ShardCalls) -> None:
        self._calls = calls
        self._put_shard = 0
        self._number = 0
        self._returned: list[Lease] = []

    def put(self, items: Sequence[Any]) -> int:
        """Put items, each into the next shard that has room; return how many came in."""
        for done, item in enumerate(items):
            for _ in self._calls.actors:
                shard = self._put_shard
                self._put_shard = (shard + 1) % len(self._calls.actors)
                if self._calls.one(shard, "put", item):
                    break
            else:
                return done
        return len(items)

    def take(self, order: Sequence[int], max_items: int) -> list[Lease]:
        """Take items for good, from the shards in this order, equal shares of each.

        Raises
        ------
        ConnectionLostError
            If an actor is gone.
        """
        leases = [
            Lease(r.item, r.lease_id, r.shard, r.attempt + 1, error=r.error)
            for r in self._returned[:max_items]
        ]
        del self._returned[:max_items]
        while len(leases) < max_items:
            sizes = self._calls.each("size", dict.fromkeys(order, ()))
            if not any(sizes):
                break
            share = -(-(max_items - len(leases)) // sum(size > 0 for size in sizes))
            for shard, size in zip(order, sizes, strict=True):
                leases += self._pop(shard, min(size, share, max_items - len(leases)))
        return leases

    def give_back(self, leases: Iterable[Lease]) -> int:
        """Keep items for the next `take`; return how many."""
        before = len(self._returned)
        self._returned += leases
        return len(self._returned) - before

    def _pop(self, shard: int, number: int) -> list[Lease]:
        import ray

        actor = self._calls.actors[shard]
        leases = []
        for answer in [actor.get.remote() for _ in range(number)]:
            item, error = None, None
            try:
                item = ray.get(answer)
            except ray.exceptions.RayActorError as lost:
                raise ConnectionLostError(
                    f"{self._calls.name(shard)} is gone, and what it held with it."
                ) from lost
            except Exception as unreadable:  # noqa: BLE001  (whatever unpickling somebody's class raises)
                error = unreadable
            if item is not None or error is not None:
                self._number += 1
                leases.append(Lease(item, self._number, shard, 1, error=error))
        return leases
