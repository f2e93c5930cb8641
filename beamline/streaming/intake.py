"""The coordinator's side of Q2: waits for it, leases, acknowledges, and looks how it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from beamline.core.errors import BeamlineError, ConnectionLostError, MissingError
from beamline.streaming.batches import BatchError
from beamline.streaming.config import WriterConfig
from beamline.streaming.health import WriterCounts
from beamline.streaming.in_flight import Item, tokens
from beamline.streaming.queue import ShardedQueueManager, discover
from beamline.streaming.writer_link import is_loss

__all__ = ["Intake"]

_log = logging.getLogger(__name__)

#: Seconds between attempts to find the queue, and between messages that it is awaited.
_TRY, _TELL = 0.5, 30.0
#: Seconds between renewals of leases, far below what any queue grants.
_RENEW = 20.0
#: Bytes of an item whose size is unknown.
_UNKNOWN = 1e6


class Intake:
    """What was taken from the queue and is not acknowledged.

    Parameters
    ----------
    settings
        Name and shape of the queue, items at once, attempts.
    counts
        Kept up to date.

    Attributes
    ----------
    was_connected : bool
        Whether there has been a queue.
    producers_ended : bool
        Whether every producer has ended (or died) and nothing waits.
    ended : bool
        Whether, besides, everything is acknowledged.
    """

    def __init__(self, settings: WriterConfig, counts: WriterCounts) -> None:
        self._settings, self._counts = settings, counts
        self._queue: ShardedQueueManager | None = None
        self._tokens = tokens()
        self._items: dict[int, Item] = {}
        self._orphans: dict[int, Item] = {}
        self._refused: list[tuple[Any, str]] = []
        self._acknowledged: list[Any] = []
        self._waiting_since = time.monotonic()
        self._told = self._tried = float("-inf")
        self._renewed = time.monotonic()
        self._asked = float("-inf")
        self._empty = False
        self.was_connected = False
        self.producers_ended = False
        self.ended = False

    @property
    def connected(self) -> bool:
        """Whether there is a queue at present."""
        return self._queue is not None

    @property
    def can_lease(self) -> bool:
        """Whether what is not acknowledged comes again."""
        return self._queue is not None and self._queue.can_lease

    @property
    def unfinished_bytes(self) -> float:
        """Frames and logits of the items that are not acknowledged."""
        return sum(item.nbytes or _UNKNOWN for item in self._unfinished)

    @property
    def unfinished_events(self) -> int:
        """Their events."""
        return sum(block.n_events for item in self._unfinished for block in item.blocks)

    @property
    def _unfinished(self) -> list[Item]:
        return [*self._items.values(), *self._orphans.values()]

    def arrivals(self) -> list[Any]:
        """Return references of which one is ready when an empty queue is not empty any more."""
        return self._queue.arrivals() if self._queue is not None and self._empty else []

    def arrived(self, ready: Collection[Any]) -> None:
        """Take note of what is ready, whatever it is."""
        if self._queue is not None and self._empty and self._queue.arrived(ready):
            self._empty = False

    def take(self) -> list[Item]:
        """Lease items; none while there is no queue, or nothing in it.

        Raises
        ------
        ConfigurationError
            If the queue is not the one that was configured.
        ConnectionLostError
            If it did not come in time.
        """
        if self._queue is None and not self._connect():
            return []
        assert self._queue is not None  # noqa: S101  (for the type checker)
        settings, now = self._settings.queue, time.monotonic()
        if self._empty and (self.can_lease or now - self._asked < settings.poll_timeout):
            return []
        self._asked = now
        try:
            leases = self._queue.lease(settings.lease_items)
            # Fewer than asked for are all there were.
            self._empty = len(leases) < settings.lease_items
            if not leases:
                self.ended = self._queue.ended
        except ConnectionLostError as error:
            self._lose_queue(error)
            return []
        return [item for lease in leases if (item := self._opened(lease)) is not None]

    def refused(self) -> list[tuple[Any, str]]:
        """Return leases whose item can't be used, and why; each once."""
        refused, self._refused = self._refused, []
        return refused

    def acknowledge(self, lease: Any) -> None:
        """Note that an item is done; `send_acknowledgements` tells the queue."""
        item = self._items.pop(id(lease), None)
        # The number of a lease means nothing to another queue of the same name.
        orphan = self._orphans.pop(id(lease), None)
        if orphan is None:
            self._acknowledged.append(lease)
        for done in (item, orphan):
            if done is not None:
                done.let_go()

    def send_acknowledgements(self) -> None:
        """Tell the queue what is done."""
        if not self._acknowledged or self._queue is None:
            return
        try:
            self._queue.ack(self._acknowledged)
        except ConnectionLostError as error:
            self._lose_queue(error)
        self._acknowledged = []

    def give_back(self, item: Item, reason: str) -> bool:
        """Have the queue bring an item once more; False if that would be in vain."""
        if id(item.lease) in self._orphans:
            return False
        if id(item.lease) not in self._items:
            return True  # given back before
        if not self.can_lease or item.lease.attempt >= self._settings.processing.max_attempts:
            return False
        assert self._queue is not None  # noqa: S101
        try:
            self._queue.give_back([item.lease])
        except ConnectionLostError as error:
            self._lose_queue(error)
            return False
        del self._items[id(item.lease)]
        self._counts.retries += 1
        _log.warning("batch %s is asked for again: %s", item.header.batch_id, reason)
        return True

    def look(self) -> None:
        """Renew leases, and see how the queue is."""
        if self._queue is None:
            self._counts.queue_depth = -1
            return
        try:
            if time.monotonic() - self._renewed > _RENEW:
                self._renewed = time.monotonic()
                self._queue.renew([item.lease for item in self._items.values()])
            shards = self._queue.get_shard_info()
            self._counts.queue_depth = sum(int(shard["size"]) for shard in shards)
            self.ended = self._queue.ended
        except ConnectionLostError as error:
            self._lose_queue(error)
            return
        self.producers_ended = self.ended or (
            self._queue.can_lease
            and self._counts.queue_depth == 0
            and sum(shard["put"] for shard in shards) > 0
            and all(producer["died"] for shard in shards for producer in shard["producers"])
        )

    def close(self) -> None:
        """Let others have what was not finished."""
        if self._queue is None:
            return
        try:
            self.send_acknowledgements()
            if self._queue is not None and self._queue.can_lease and self._items:
                self._queue.give_back([item.lease for item in self._items.values()])
            if self._queue is not None and self.ended:
                self._queue.acknowledge_end()
        except BeamlineError as error:
            _log.warning("the queue could not be left properly: %s", error)

    def _opened(self, lease: Any) -> Item | None:
        self._counts.items += 1
        if lease.error is not None:
            if self._settings.processing.max_attempts > lease.attempt and is_loss(lease.error):
                self._counts.retries += 1
                assert self._queue is not None  # noqa: S101
                self._queue.give_back([lease])
            else:
                self._refused.append(
                    (lease, f"an item of shard {lease.shard} can't be read: {lease.error}.")
                )
            return None
        try:
            item = Item.from_lease(lease, self._settings.processing.events_per_task, self._tokens)
        except BatchError as error:
            self._refused.append((lease, str(error)))
            return None
        self._items[id(lease)] = item
        return item

    def _lose_queue(self, error: Exception) -> None:
        self._counts.failed(str(error))
        _log.error("%s What was taken is finished; then the queue is awaited again.", error)
        self._queue = None
        self._empty = False
        self._waiting_since, self._told = time.monotonic(), float("-inf")
        self._orphans.update(self._items)
        self._items.clear()
        self._acknowledged = []

    def _connect(self) -> bool:
        settings, now = self._settings.queue, time.monotonic()
        if now - self._tried < _TRY:
            return False
        self._tried = now
        namespace = self._settings.ray.namespace
        try:
            if settings.create:
                self._queue = ShardedQueueManager(
                    settings.name,
                    settings.num_shards or 1,
                    settings.maxsize_per_shard,
                    namespace=namespace,
                    directory=settings.spill_directory,
                    spill_bytes=settings.spill_mb * 1_000_000,
                )
            elif discover(settings.name, namespace=namespace) is not None:
                self._queue = ShardedQueueManager(
                    settings.name, settings.num_shards, namespace=namespace, create=False
                )
        except (ConnectionLostError, MissingError) as error:
            # It went away, or is still in the making.
            _log.debug("%s", error)
        if self._queue is not None:
            self.was_connected = True
            lossy = (
                "; its actors can't lease: what was taken and not written is lost if this process "
                "is killed"
            )
            leased = "" if self._queue.can_lease else lossy
            _log.info(
                "taking from queue %s, %d shards%s", settings.name, self._queue.num_shards, leased
            )
            return True
        if settings.wait_timeout is not None and now - self._waiting_since > settings.wait_timeout:
            raise ConnectionLostError(
                f"queue {settings.name!r} was not in namespace {namespace!r} within "
                f"{settings.wait_timeout:g} s: start the pipeline, or correct queue.name and "
                "ray.namespace."
            )
        if now - self._told >= _TELL:
            self._told = now
            _log.warning(
                "waiting for queue %r in namespace %r: the pipeline makes it when it starts (its "
                "runtime.queue_names.output_queue and ray.namespace must be these)",
                settings.name,
                namespace,
            )
        return False
