"""The producing side: frames to Q1, inference workers, logits on Q2, and the end of both."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from beamline.streaming.inference import PipelineInput, WorkerSettings
from beamline.streaming.pipeline_config import PipelineConfig, RuntimeSettings
from beamline.streaming.pool import InferencePool, PoolSettings
from beamline.streaming.preprocessing import Preprocessor
from beamline.streaming.queue import ShardedQueueManager

__all__ = ["PipelineReport", "open_queue", "run_pipeline"]

_log = logging.getLogger(__name__)

_ADJUST_SECONDS = 0.5
_PUT_SECONDS = 0.2


@dataclass
class PipelineReport:
    """What a pipeline did.

    Attributes
    ----------
    fed
        Frames put on Q1 (none where others fill it).
    samples
        Frames whose logits went to Q2.
    refused
        Items that no worker could process; the reasons of the last ones are in `errors`.
    restarts
        Workers that died and were replaced.
    workers
        Largest number of them at a time.
    seconds
        From the first item to the end.
    """

    fed: int = 0
    samples: int = 0
    refused: int = 0
    restarts: int = 0
    workers: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        speed = self.samples / max(self.seconds, 1e-9)
        return (
            f"{self.samples} frames in {self.seconds:.1f} s ({speed:.1f}/s), {self.refused} items "
            f"refused, up to {self.workers} workers, {self.restarts} replaced"
        )


def open_queue(runtime: RuntimeSettings, name: str, namespace: str) -> ShardedQueueManager:
    """Make the queue of this name, or connect to it."""
    return ShardedQueueManager(
        name,
        runtime.queue_num_shards,
        runtime.queue_maxsize_per_shard,
        namespace=namespace,
        directory=runtime.spill_directory,
        spill_bytes=runtime.spill_mb * 1_000_000,
        lease_seconds=runtime.lease_seconds,
    )


def run_pipeline(
    config: PipelineConfig,
    source: Iterable[PipelineInput] | None,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> PipelineReport:
    """Run until the frames are used up, or `stopping` says so; within a connection to Ray.

    What is on Q1 when a source of its own is told to stop is still processed. Where others fill
    Q1, workers finish the item at hand, and the rest stays on Q1. Q2 gets its end marker either
    way.

    Parameters
    ----------
    config
        All settings.
    source
        Frames to feed; None where others fill Q1.
    stopping
        Asked a few times a second.

    Raises
    ------
    ProcessError
        If workers die again and again.
    """
    runtime, namespace = config.runtime, config.ray.namespace
    names = runtime.queue_names
    frames = open_queue(runtime, names.input_queue, namespace)
    logits = None
    if runtime.enable_output_queue:
        logits = open_queue(runtime, names.output_queue, namespace)
        logits.begin()
    if source is not None:
        frames.begin()
    pool = InferencePool(_worker(config), _pool(config), f"inference-{uuid.uuid4().hex[:8]}")
    driver = _Driver(config, pool, stopping)
    try:
        if source is not None:
            driver.feed(frames, iter(source))
            frames.end()
        driver.wait(fed_by_others=source is None)
    except BaseException:
        pool.kill()
        raise
    if logits is not None:
        logits.end()
    return driver.report


def _worker(config: PipelineConfig) -> WorkerSettings:
    names = config.runtime.queue_names
    return WorkerSettings(
        input_queue=names.input_queue,
        output_queue=names.output_queue if config.runtime.enable_output_queue else None,
        namespace=config.ray.namespace,
        model=config.model.name,
        model_options=config.model.options,
        preprocessor=Preprocessor(**dict(config.preprocessing)),
        items_at_once=config.inference.items_at_once,
        max_attempts=config.inference.max_attempts,
    )


def _pool(config: PipelineConfig) -> PoolSettings:
    wanted = config.inference
    return PoolSettings(
        min_workers=wanted.min_workers,
        max_workers=max(wanted.min_workers, wanted.max_workers),
        cpus_per_worker=wanted.cpus_per_worker,
        gpus_per_worker=wanted.gpus_per_worker,
        backlog_per_worker=wanted.backlog_per_worker,
        idle_seconds=wanted.idle_seconds,
    )


class _Driver:
    def __init__(
        self, config: PipelineConfig, pool: InferencePool, stopping: Callable[[], bool]
    ) -> None:
        self.report = PipelineReport()
        self._pool, self._stopping = pool, stopping
        self._progress_seconds = config.system.progress_seconds
        self._total = config.source.total_samples
        self._began = self._told = self._adjusted = time.monotonic()

    def feed(self, frames: ShardedQueueManager, source: Iterator[PipelineInput]) -> None:
        for item in source:
            while not self._stopping() and not frames.put_wait(item, timeout=_PUT_SECONDS):
                self._adjust()
            if self._stopping():
                return
            self.report.fed += len(item.image_data)
            self._adjust()

    def wait(self, *, fed_by_others: bool) -> None:
        told = False
        while len(self._pool):
            enough = self._total is not None and self._pool.status.samples >= self._total
            if fed_by_others and not told and (self._stopping() or enough):
                self._pool.stop()
                told = True
            time.sleep(_PUT_SECONDS)
            self._adjust()
        self._note()

    def _adjust(self) -> None:
        now = time.monotonic()
        if now - self._adjusted < _ADJUST_SECONDS:
            return
        self._adjusted = now
        self._pool.adjust()
        if now - self._told > self._progress_seconds:
            self._told = now
            self._note()
            _log.info("%s", self.report)

    def _note(self) -> None:
        report, done = self.report, self._pool.status
        report.samples, report.refused = done.samples, done.refused
        report.errors = done.errors
        report.restarts, report.workers = self._pool.restarts, self._pool.most
        report.seconds = time.monotonic() - self._began
