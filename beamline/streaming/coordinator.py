"""From Q2 to CXI files and documents: what ``cxi-writer`` does.

.. mermaid::

    flowchart LR
        Q2 -- lease --> coordinator -- blocks of events --> tasks["process_samples_task"]
        tasks -- peaks --> coordinator -- hits --> writer[CXIFileWriterActor]
        writer -- complete files --> coordinator
        coordinator --> ledger --> documents -- acknowledge --> Q2

An item is acknowledged when every event of it is final: in a file that is complete, synced and has
its name, or no hit, or refused for a reason that was told. Until then the coordinator has it, and
its references; whatever dies in between is handed the same again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from beamline.core.errors import ConfigurationError, ConnectionLostError, StorageError
from beamline.core.metrics import MetricsEndpoint
from beamline.crystallography.geometry import Detector, read_geometry
from beamline.documents.consumers import Consumer
from beamline.streaming.cluster import connected
from beamline.streaming.config import WriterConfig, validated
from beamline.streaming.finishing import Finisher
from beamline.streaming.health import WriterCounts, writer_metrics
from beamline.streaming.in_flight import Block
from beamline.streaming.intake import Intake
from beamline.streaming.search_pool import SearchPool
from beamline.streaming.tasks import PeakSearch
from beamline.streaming.writer_link import WriterLink, describe

__all__ = ["run_cpu_postprocessing_pipeline"]

_log = logging.getLogger(__name__)

#: Seconds that a turn waits for tasks, files and items; and if there is nothing to wait for.
_TURN, _IDLE = 0.05, 0.02
#: Seconds between looks at the queue's depth and at whether the producers have ended.
_LOOK = 0.5
#: Seconds between lines in the log, at most.
_PROGRESS = 10.0
#: Seconds that a writer that was asked to stop waits for a disk that is full.
_PATIENCE = 30.0
#: Of the object store of the cluster, what may be held until files are complete.
_SHARE = 0.4
_WINDOW = 10.0


def run_cpu_postprocessing_pipeline(
    config: Mapping[str, Any] | WriterConfig,
    *,
    stopping: Callable[[], bool] = lambda: False,
    consumers: Iterable[Consumer] = (),
    counts: WriterCounts | None = None,
    ready: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Write what comes from Q2 until its producers have ended.

    Parameters
    ----------
    config
        As `beamline.streaming.config.load_config` returns it.
    stopping
        Asked several times a second: whether to finish what was taken, and return.
    consumers
        Of the documents, after the journal in ``output_dir/journal``.
    counts
        Kept up to date.
    ready
        Called with the address of the health endpoint (or an empty text) when Ray is there.

    Returns
    -------
    dict
        The counts at the end.

    Raises
    ------
    ConfigurationError
        If the settings, the geometry or the queue can't be used.
    ConnectionLostError
        If the cluster or the queue does not come.
    StorageError
        If the output directory can't be written.
    """
    settings = validated(config)
    counts = WriterCounts() if counts is None else counts
    detector = _detector(settings)
    directory = _output_directory(settings)
    search = PeakSearch(detector, **settings.peak_finding.model_dump())
    with contextlib.ExitStack() as stack:
        url = ""
        if settings.system.health_port is not None:
            endpoint = MetricsEndpoint(
                settings.system.health_host,
                settings.system.health_port,
                lambda: writer_metrics(counts),
            )
            stack.callback(endpoint.close)
            url = endpoint.url
        stack.enter_context(connected(settings.ray))
        ready(url)
        finisher = Finisher(settings, directory, detector, counts, consumers)
        stack.callback(finisher.close)
        coordinator = Coordinator(settings, search, counts, finisher)
        stack.callback(coordinator.close)
        coordinator.run(stopping)
    return counts.summary()


class Coordinator:
    """The loop: take, search, write, acknowledge.

    Parameters
    ----------
    settings
        All of them.
    search
        How to find peaks.
    counts
        Kept up to date.
    finisher
        What is done with events whose fate is final.
    """

    def __init__(
        self,
        settings: WriterConfig,
        search: PeakSearch,
        counts: WriterCounts,
        finisher: Finisher,
    ) -> None:
        self._settings, self._counts, self._finisher = settings, counts, finisher
        self._intake = Intake(settings, counts)
        self._pool = SearchPool(settings.processing, search, counts)
        self._writer = WriterLink(finisher.file_settings, search.detector)
        self._found: deque[Block] = deque()
        self._held: list[Block] = []
        self._limit = min(settings.processing.max_unwritten_mb * 1e6, _SHARE * _object_store())
        self._stalled = False
        self._asked: float | None = None
        self._looked = self._told = self._idle_since = time.monotonic()
        self._told_items = 0
        self._window: deque[tuple[float, int]] = deque()
        self._complete_now = False
        self._settled = False

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until the producers have ended, or until asked to stop and all is done."""
        from ray.exceptions import RayError

        try:
            while not self._turn(stopping()):
                pass
        except RayError as error:
            raise ConnectionLostError(
                f"the Ray cluster does not answer any more ({describe(error)}); what was not "
                "acknowledged comes again where the queue can lease."
            ) from error
        reason = "" if self._asked is None else "the writer was asked to stop"
        self._finisher.finish(reason)
        self._progress(force=True)

    def close(self) -> None:
        """End the writer actor and let others have what was not finished."""
        self._writer.close()
        self._intake.close()

    def _turn(self, stop: bool) -> bool:
        """Do a bit of everything; return whether all is done."""
        import ray

        now = time.monotonic()
        if stop and self._asked is None:
            self._asked = now
            _log.info("asked to stop: %d events are finished first", self._counts.pending)
        if self._asked is None:
            self._take()
        self._pool.launch()
        waiting = [*self._pool.calls, *self._writer.calls, *self._intake.arrivals()]
        if waiting:
            done, rest = ray.wait(waiting, num_returns=1, timeout=_TURN)
            if done and rest:
                done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            self._intake.arrived(done)
            self._receive(set(done))
        else:
            time.sleep(_IDLE)
        self._write()
        for lease in self._finisher.flush():
            self._intake.acknowledge(lease)
        self._intake.send_acknowledgements()
        self._look(now)
        self._progress()
        return self._done(now)

    # ---- from the queue to the tasks

    def _take(self) -> None:
        room = (
            self._intake.unfinished_bytes < self._limit
            and self._pool.room
            and len(self._found) + self._pool.pending < self._settings.processing.max_pending_tasks
        )
        # When the files hold what may be held, nothing can come before some are complete.
        self._complete_now |= not room and not self._pool.pending and not self._found
        for item in self._intake.take() if room else ():
            self._pool.add(item.blocks)
            self._idle_since = time.monotonic()
        for item, reason in self._intake.refused():
            self._finisher.refuse_item(item, reason)

    def _receive(self, ready: set[Any]) -> None:
        for block in self._pool.receive(ready):
            self._found.append(block)
        for block, reason in self._pool.failed():
            self._lose(block, reason)
        for receipt in self._writer.receive(ready):
            for token, index, reason in receipt.refused:
                self._finisher.refuse_hit(self._writer.unwritten[token], index, reason)
            for made in receipt.completed:
                self._finisher.completed(made, self._writer.unwritten)
            self._forget_written()
        for block in self._writer.lost:
            self._lose(block, "its images are gone")
        self._writer.lost.clear()
        if not self._writer.alive:
            self._replace_writer()

    def _lose(self, block: Block, reason: str) -> None:
        """Have the item of a block once more, or give it up."""
        item = block.item
        if self._intake.give_back(item, reason):
            # What the writer has already goes on: when the item comes again, it is known.
            rest = {other for other in item.blocks if other.token not in self._writer.unwritten}
            rest.add(block)
            self._pool.drop(rest)
            self._found = deque(other for other in self._found if other not in rest)
            self._held = [other for other in self._held if other not in rest]
            self._finisher.forget(rest)
            item.let_go()
            return
        self._finisher.lose(block, reason)

    # ---- from the tasks to the files

    def _write(self) -> None:
        while self._found:
            block = self._found[0]
            if not block.judged and not self._finisher.judge(block):
                self._held.append(self._found.popleft())
                continue
            if block.unwritten and not self._writer.room:
                break
            self._found.popleft()
            if block.unwritten:
                self._writer.submit(block)
        if self._writer.poll(complete=self._complete_now):
            self._complete_now = False
        if self._writer.blocked and not self._stalled:
            self._counts.failed(self._writer.blocked)
            _log.error("%s", self._writer.blocked)
        elif self._stalled and not self._writer.blocked:
            _log.warning("there is room on the disk again: writing goes on")
        self._stalled = bool(self._writer.blocked)
        self._counts.blocked = int(self._stalled)

    def _forget_written(self) -> None:
        for token in [t for t, block in self._writer.unwritten.items() if not block.unwritten]:
            del self._writer.unwritten[token]

    def _replace_writer(self) -> None:
        if self._counts.writer_deaths != self._writer.deaths:
            self._counts.writer_deaths = self._writer.deaths
            self._counts.failed(self._writer.last_failure)
            self._finisher.adopt(self._writer.unwritten)
            self._forget_written()
        if self._writer.revive():
            self._counts.retries += len(self._writer.unwritten)

    # ---- how it is, and when it is done

    def _look(self, now: float) -> None:
        counts = self._counts
        if not self._writer.alive:
            self._replace_writer()
        if self._intake.connected and not self._settled:
            self._settled = True
            self._finisher.discard_abandoned(comes_again=self._intake.can_lease)
        self._window.append((now, counts.frames))
        while now - self._window[0][0] > _WINDOW:
            self._window.popleft()
        seconds = now - self._window[0][0]
        counts.frames_per_second = (
            (counts.frames - self._window[0][1]) / seconds if seconds > 0 else 0.0
        )
        counts.pending = self._intake.unfinished_events
        counts.unwritten_bytes = int(self._intake.unfinished_bytes)
        if now - self._looked < _LOOK:
            return
        self._looked = now
        # What waits for an event of the same name to be safe may be judged now.
        self._found.extend(self._held)
        self._held.clear()
        self._intake.look()
        if self._nothing_moves and self._intake.producers_ended:
            self._complete_now = True

    @property
    def _nothing_moves(self) -> bool:
        return not (self._pool.pending or self._found)

    def _done(self, now: float) -> bool:
        if not self._nothing_moves or self._held:
            return False
        if self._asked is not None:
            if not self._writer.unwritten and not self._intake.unfinished_events:
                return True
            self._complete_now = True
            if self._stalled and now - self._asked > _PATIENCE:
                raise StorageError(
                    f"the disk stayed full for {_PATIENCE:g} s: {self._intake.unfinished_events} "
                    "events were not written; they come again where the queue can lease."
                )
            return False
        if self._intake.unfinished_events:
            return False
        timeout = self._settings.queue.idle_timeout
        if timeout is not None and self._intake.was_connected and now - self._idle_since > timeout:
            _log.info("nothing came for %g s: the work is done", timeout)
            return True
        if self._intake.ended:
            _log.info("the producers have ended: the work is done")
            return True
        return False

    def _progress(self, *, force: bool = False) -> None:
        counts, now = self._counts, time.monotonic()
        due = counts.items - self._told_items >= self._settings.system.progress_interval
        late = now - self._told >= _PROGRESS and counts.items != self._told_items
        if not (force or due or late):
            return
        self._told, self._told_items = now, counts.items
        _log.info(
            "%d items, %d events (%.1f/s), %.1f %% hits; %d written in %d files, %d filtered, "
            "%d truncated, %d refused, %d duplicates, %d lost, %d pending, %d items in the queue",
            counts.items, counts.frames, counts.frames_per_second, 100 * counts.hit_rate,
            counts.written, counts.files, counts.filtered, counts.truncated, counts.refused,
            counts.duplicates, counts.lost, counts.pending, counts.queue_depth,
        )  # fmt: skip


def _object_store() -> float:
    import ray

    return float(ray.cluster_resources().get("object_store_memory", 1e9))


def _detector(settings: WriterConfig) -> Detector:
    path, distance = settings.geometry.geom_file, settings.geometry.distance_mm
    if path is None:
        raise ConfigurationError(
            "geometry.geom_file is missing: give the CrystFEL geometry of the detector "
            "(--geom-file)."
        )
    return read_geometry(path, distance_m=None if distance is None else distance * 1e-3)


def _output_directory(settings: WriterConfig) -> Path:
    directory = settings.output.output_dir.absolute()
    if not directory.is_dir() and not settings.output.create_output_dir:
        raise ConfigurationError(
            f"output.output_dir {directory} is not there, and output.create_output_dir is false."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {directory}: {error.strerror}.") from None
    return directory
