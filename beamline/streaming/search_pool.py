"""The tasks that search blocks of events for peaks: started, awaited, tried again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from beamline.streaming.config import ProcessingSettings
from beamline.streaming.health import WriterCounts
from beamline.streaming.in_flight import Block
from beamline.streaming.items import as_array
from beamline.streaming.tasks import PeakSearch
from beamline.streaming.workers import WorkerCount
from beamline.streaming.writer_link import describe, is_loss

__all__ = ["SearchPool"]

_log = logging.getLogger(__name__)


class SearchPool:
    """Blocks that wait for a task or are with one.

    Parameters
    ----------
    settings
        How many at once, and how often each is tried.
    search
        How to find peaks.
    counts
        Kept up to date.
    """

    def __init__(
        self, settings: ProcessingSettings, search: PeakSearch, counts: WriterCounts
    ) -> None:
        import ray

        from beamline.streaming import tasks

        self._settings, self._counts = settings, counts
        self._workers = WorkerCount(settings.num_cpu_workers, settings.adaptive_workers)
        self._search = ray.put(search)
        # Tried again here and not by Ray, so that it is seen how often.
        self._task = tasks.process_samples_task.options(num_cpus=1, max_retries=0)
        self._ready: deque[Block] = deque()
        self._running: dict[Any, Block] = {}
        self._failed: list[tuple[Block, str]] = []

    @property
    def calls(self) -> list[Any]:
        """References of the results that are awaited."""
        return list(self._running)

    @property
    def pending(self) -> int:
        """Blocks that are not searched yet."""
        return len(self._ready) + len(self._running)

    @property
    def room(self) -> bool:
        """Whether tasks could soon have nothing to do."""
        return len(self._ready) < self._workers.current

    def add(self, blocks: Iterable[Block]) -> None:
        """Queue blocks for the search."""
        self._ready.extend(blocks)

    def drop(self, blocks: set[Block]) -> None:
        """Forget blocks; what tasks find in them is ignored."""
        self._ready = deque(block for block in self._ready if block not in blocks)
        self._running = {call: b for call, b in self._running.items() if b not in blocks}

    def launch(self) -> None:
        """Start tasks, as many as may run at once."""
        saturated = bool(self._ready) and len(self._running) >= self._workers.current
        limit = self._workers.update(time.monotonic(), saturated=saturated)
        self._counts.workers = limit
        while self._ready and len(self._running) < limit:
            block = self._ready.popleft()
            item = block.item
            item.logits, item.images = _by_reference(item.logits), _by_reference(item.images)
            block.attempts += 1
            call = self._task.remote(
                item.logits, item.images, item.header, block.span, self._search
            )
            self._running[call] = block

    def receive(self, ready: set[Any]) -> list[Block]:
        """Return the blocks whose result is there; those that failed are tried again."""
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

        found = []
        for call in [call for call in self._running if call in ready]:
            block = self._running.pop(call)
            try:
                block.batch = ray.get(call)
            except Exception as error:  # noqa: BLE001  (Ray raises what the task raised)
                if isinstance(error, WorkerCrashedError | OutOfMemoryError | NodeDiedError):
                    self._counts.worker_deaths += 1
                self._again(block, error)
            else:
                self._workers.finished(block.n_events)
                found.append(block)
        return found

    def failed(self) -> list[tuple[Block, str]]:
        """Return blocks that can't be searched, and why; each once."""
        failed, self._failed = self._failed, []
        return failed

    def _again(self, block: Block, error: Exception) -> None:
        reason = describe(error)
        if is_loss(error) or block.attempts >= self._settings.max_attempts:
            self._failed.append((block, reason))
            return
        _log.warning("the task for %s failed (%s); it is tried again", block.name, reason)
        self._counts.retries += 1
        self._counts.failed(f"the task for {block.name} failed ({reason}).")
        self._ready.appendleft(block)


def _by_reference(value: Any) -> Any:
    """Put an array into the object store, for every task and the writer to read there."""
    import ray

    if value is None or isinstance(value, ray.ObjectRef):
        return value
    return ray.put(as_array(value))
