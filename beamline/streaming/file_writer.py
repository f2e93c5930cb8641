"""CXI files from processed batches, in a process of their own (`CXIFileWriterActor`).

A file is written as ``….inprogress`` and gets its name when it is complete and on disk; only then
is it reported, and with it the batches that are in it. Whoever handed them over keeps them until
then: a writer that dies takes nothing along that can't be handed over again.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

import beamline
from beamline.crystallography.cxi import (
    CXIEvent,
    CXIFile,
    DiskFullError,
    EventRefusedError,
    FileTakenError,
)
from beamline.crystallography.geometry import Detector, write_geometry, write_list
from beamline.streaming.batches import (
    BatchHeader,
    ProcessedBatch,
    event_logits,
    event_stacks,
    fitting_detector,
)
from beamline.streaming.receipts import CompletedFile, FileSettings, Receipt

__all__ = ["CXIFileWriter", "CXIFileWriterActor"]

#: `CXIFileWriter` as a Ray actor.
CXIFileWriterActor: Any

#: A block goes to disk in about so many seconds, whatever the disk; and its most bytes.
_BLOCK_SECONDS, _BLOCK_BYTES = 0.25, 256e6
#: Bytes per second assumed of a disk that was not measured.
_FIRST_SPEED = 300e6
#: Files that may wait for the disk while the next is written.
_CLOSING = 2
#: What a file without frames may take, the mask apart.
_HEADER_BYTES = 4_000_000


class _OpenFile:
    """The growing file of one run, and whose events are in it."""

    def __init__(self, run: str, file: CXIFile, scan: frozenset[str]) -> None:
        self.run, self.file, self.scan = run, file, scan
        self.rows: list[tuple[int, tuple[int, ...]]] = []
        self.begun = time.monotonic()


class _Run:
    """Where the files of one run go, and their numbers."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self.number = 0
        self.files: list[Path] = []


class CXIFileWriter:
    """Write the hits of processed batches to CXI files, some hundred events per file.

    Parameters
    ----------
    settings
        How and where.
    detector
        Geometry, which every frame must fit.

    Raises
    ------
    ConfigurationError
        If the settings contradict each other.
    """

    def __init__(self, settings: FileSettings, detector: Detector) -> None:
        self._settings, self._detector = settings, detector
        self._mask = detector.mask()
        self._detectors: dict[tuple[int, ...] | None, Detector] = {}
        self._open: dict[str, _OpenFile] = {}
        self._runs: dict[str, _Run] = {}
        self._closer = ThreadPoolExecutor(1, thread_name_prefix="cxi-closer")
        self._closing: list[Future[CompletedFile]] = []
        self._completed: list[CompletedFile] = []
        self._refused: list[tuple[int, int, str]] = []
        self._waiting: deque[tuple[int, BatchHeader, Detector, list[CXIEvent]]] = deque()
        self._speed = _FIRST_SPEED
        self._counts: Counter[str] = Counter()
        self._blocked = ""

    def submit_processed_batch(
        self,
        token: int,
        batch: ProcessedBatch,
        images: npt.NDArray[Any] | None,
        logits: npt.NDArray[np.float32] | None = None,
    ) -> Receipt:
        """Take the hits of a batch; they are safe when a receipt names `token`.

        Parameters
        ----------
        token
            Any number that names the batch.
        batch
            With at least one hit.
        images
            Of the whole item, as `event_stacks` takes them.
        logits
            Of the whole item, where maps are stored.

        Raises
        ------
        OSError
            If a file can't be written for another reason than a full disk. What was handed over
            and not reported has to be handed over again, to another writer.
        """
        hits = batch.hits
        if images is None:
            self._refused += [(token, hit.index, "the image is missing.") for hit in hits]
            return self._receipt()
        detector = self._fitting(batch.header)
        stacks = event_stacks(np.asarray(images), batch.header, detector, self._settings.padding)
        maps = None
        if logits is not None:
            maps = event_logits(np.asarray(logits), detector, self._settings.padding)
        size = self._settings.buffer_size
        for first in range(0, len(hits), size):
            part = hits[first : first + size]
            events = [
                CXIEvent(
                    image=_stored(stacks[hit.index]),
                    peaks=hit.peaks,
                    photon_energy_eV=hit.photon_energy_eV,
                    time_ns=hit.time_ns,
                    run_uid=batch.header.run,
                    batch_id=batch.header.batch_id,
                    event_id=hit.index,
                    distance_m=self._detector.distance_m,
                    scan=hit.scan,
                    logits=None if maps is None else maps[hit.index],
                )
                for hit in part
                if hit.peaks is not None
            ]
            if events:
                self._waiting.append((token, batch.header, detector, events))
        return self.poll()

    def poll(self) -> Receipt:
        """Write what is due, complete files that are full or old, and report."""
        self._blocked = ""
        try:
            while self._waiting:
                self._take(*self._waiting[0])
                self._waiting.popleft()
            for current in list(self._open.values()):
                due = self._is_due(current)
                self._flush(current, whole=due)
                if due:
                    self._close(current)
        except DiskFullError as error:
            self._blocked = str(error)
        return self._receipt()

    def _is_due(self, current: _OpenFile) -> bool:
        age = time.monotonic() - current.begun
        return len(current.file) >= self._settings.buffer_size or (
            age >= self._settings.max_file_seconds
        )

    def complete_files(self) -> Receipt:
        """Complete every open file, whatever its age, and report."""
        for current in list(self._open.values()):
            current.begun = float("-inf")
        return self.poll()

    def flush_final(self) -> Receipt:
        """Complete every file and wait until all are on disk; on a full disk some stay open."""
        receipt = self.complete_files()
        for future in self._closing:
            future.result()
        rest = self._receipt()
        return Receipt(
            [*receipt.completed, *rest.completed], [*receipt.refused, *rest.refused], rest.blocked
        )

    def get_statistics(self) -> dict[str, float]:
        """Return counts of files, events and bytes, and what the disk takes, MB/s."""
        return {
            **{name: self._counts[name] for name in ("files", "events", "bytes", "refused")},
            "open_events": sum(len(current.file) for current in self._open.values()),
            "disk_mb_per_s": self._speed / 1e6,
        }

    def _fitting(self, header: BatchHeader) -> Detector:
        shape = header.original_shape
        if shape not in self._detectors:
            self._detectors[shape] = fitting_detector(self._detector, header)
        return self._detectors[shape]

    def _take(
        self, token: int, header: BatchHeader, detector: Detector, events: list[CXIEvent]
    ) -> None:
        """Put events into the file of their run, in consecutive rows."""
        run = header.run
        scan = frozenset(events[0].scan)
        current = self._open.get(run)
        if current is not None and (
            len(current.file) + len(events) > self._settings.buffer_size
            or current.file.dtype != events[0].image.dtype
            or current.file.detector.stack_shape != detector.stack_shape
            or not scan <= current.scan
        ):
            self._flush(current, whole=True)
            self._close(current)
            current = None
        if current is None:
            current = self._begin(header, detector, events[0])
        taken = []
        for event in events:
            try:
                current.file.append(event)
            except EventRefusedError as error:
                self._refused.append((token, event.event_id, str(error)))
                self._counts["refused"] += 1
            else:
                taken.append(event.event_id)
        if taken:
            current.rows.append((token, tuple(taken)))

    def _begin(self, header: BatchHeader, detector: Detector, event: CXIEvent) -> _OpenFile:
        settings, run = self._settings, header.run
        units = header.metadata.get("units")
        known = units if isinstance(units, Mapping) else {}
        place = self._runs.get(run) or self._new_run(run)
        self._check_space(place.stem.parent)
        while True:
            place.number += 1
            path = place.stem.with_name(f"{place.stem.name}_chunk{place.number:04d}.cxi")
            self._note(f"{path}")
            try:
                file = CXIFile(
                    path,
                    detector=detector,
                    dtype=event.image.dtype,
                    max_num_peak=settings.max_num_peak,
                    mask=self._mask,
                    entry=self._entry(header),
                    scan_units={name: str(known.get(name, "")) for name in event.scan},
                    compression=settings.compression,
                    maps=settings.maps,
                    block_size=settings.buffer_size,
                    block_bytes=int(min(self._speed * _BLOCK_SECONDS, _BLOCK_BYTES)),
                )
            except FileTakenError:
                self._note(f"-{path}")
                continue
            current = self._open[run] = _OpenFile(run, file, frozenset(event.scan))
            return current

    def _new_run(self, run: str) -> _Run:
        place = _Run(self._stem(run))
        place.stem.parent.mkdir(parents=True, exist_ok=True)
        self._check_space(place.stem.parent)
        geometry = place.stem.with_name(f"{place.stem.name}.geom")
        write_geometry(geometry, self._detector, mask=bool(self._mask.any()))
        self._runs[run] = place
        return place

    def _note(self, line: str) -> None:
        if self._settings.begun is not None:
            with self._settings.begun.open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")

    def _check_space(self, folder: Path) -> None:
        # HDF5 does not survive a write that fails.
        free = shutil.disk_usage(folder).free
        needed = _HEADER_BYTES + self._mask.nbytes
        if free < needed:
            raise DiskFullError(
                f"{folder} needs {needed / 1e6:.0f} MB for another CXI file, found "
                f"{free / 1e6:.0f} MB free: events wait in memory; make room."
            )

    def _stem(self, run: str) -> Path:
        settings = self._settings
        folder = settings.directory
        if settings.directory_per_run and run:
            # A name from elsewhere may hold anything; quoted it can't leave the directory.
            folder = folder / quote(run, safe=" +=@,").replace(".", "%2E", run.startswith("."))
        return folder / f"{settings.prefix}_{datetime.now(UTC):%Y%m%d_%H%M%S}"

    def _entry(self, header: BatchHeader) -> dict[str, str | int | float]:
        return {
            "experiment_identifier": header.run,
            "start_time": datetime.now(UTC).isoformat(),
            "program_name": "cxi-writer",
            "process_1/program": "beamline-dataflow",
            "process_1/version": beamline.__version__,
            "process_1/writer": self._settings.writer,
            "process_1/max_num_peak": self._settings.max_num_peak,
            **{f"process_1/{key}": value for key, value in self._settings.process.items()},
            **self._settings.metadata.entry(header.run, header.told),
        }

    def _flush(self, current: _OpenFile, *, whole: bool) -> None:
        """Write blocks, and learn how fast the disk is."""
        waiting, begun = current.file.waiting, time.perf_counter()
        if whole:
            current.file.flush()
        else:
            current.file.flush_if_due()
        written = (waiting - current.file.waiting) * _frame_bytes(current.file)
        if written:
            seconds = max(time.perf_counter() - begun, 1e-6)
            self._speed = 0.7 * self._speed + 0.3 * written / seconds
            self._counts["bytes"] += written

    def _close(self, current: _OpenFile) -> None:
        """Have a file completed while the next one is written."""
        del self._open[current.run]
        while len(self._closing) >= _CLOSING:
            self._collect(wait=True)
        self._closing.append(self._closer.submit(self._finish, current))

    def _finish(self, current: _OpenFile) -> CompletedFile:
        file = current.file
        number = len(file)
        path = file.close(
            end_time=datetime.now(UTC).isoformat(),
            exit_status="success",
            counts={"written": number},
        )
        place = self._runs[current.run]
        place.files.append(path)
        write_list(place.stem.with_name(f"{place.stem.name}.lst"), place.files)
        return CompletedFile(
            path.absolute(), current.run, (number, *file.detector.slab_shape), file.dtype.str,
            current.rows,
        )  # fmt: skip

    def _collect(self, *, wait: bool) -> None:
        while self._closing and (wait or self._closing[0].done()):
            made = self._closing.pop(0).result()
            self._completed.append(made)
            self._counts["files"] += 1
            self._counts["events"] += made.shape[0]
            wait = False

    def _receipt(self) -> Receipt:
        self._collect(wait=False)
        made = Receipt(tuple(self._completed), tuple(self._refused), self._blocked)
        self._completed.clear()
        self._refused.clear()
        return made


def _stored(stack: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring frames to a type that is stored: integers as they are, the rest as float32."""
    return stack if stack.dtype.kind in "iu" else stack.astype(np.float32, copy=False)


def _frame_bytes(file: CXIFile) -> int:
    return int(np.prod(file.detector.slab_shape)) * file.dtype.itemsize


@functools.cache
def _as_actor() -> Any:
    import ray

    return ray.remote(enable_task_events=False)(CXIFileWriter)


def __getattr__(name: str) -> Any:
    # Ray is imported only by those who want the actor.
    if name == "CXIFileWriterActor":
        return _as_actor()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
