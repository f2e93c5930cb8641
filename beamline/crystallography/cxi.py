"""CXI files with frames and peaks, written event by event; no documents here.

A file has its final name only once it is complete: while it grows, ``.inprogress`` is appended.
Rows go out in blocks, each followed by a flush, so that a killed writer leaves a readable file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.disk import sync
from beamline.core.errors import BeamlineError, ConfigurationError, StorageError
from beamline.crystallography._cxi_disk import DiskFullError, reserve
from beamline.crystallography._cxi_event import CXIEvent, EventRefusedError, Row, prepare
from beamline.crystallography.cxi_layout import (
    COMPRESSIONS,
    DATA,
    LOGITS,
    PEAK_COLUMNS,
    PROCESS,
    RESULT,
    SCAN,
    SEGMENTATION,
    SEGMENTS,
    Compression,
    lay_out,
    put_text,
    safe_names,
)
from beamline.crystallography.geometry import Detector

__all__ = [
    "IN_PROGRESS",
    "CXIEvent",
    "CXIFile",
    "DiskFullError",
    "EventRefusedError",
    "FileTakenError",
]

#: Appended to the name of a file that is not complete.
IN_PROGRESS = ".inprogress"

#: Elementary charge, C (exact, SI 2019): joules per electronvolt.
_JOULE_PER_EV = 1.602176634e-19


class FileTakenError(BeamlineError, FileExistsError):
    """The file that would be written exists, complete or in progress."""


class CXIFile:
    """One growing CXI file.

    Parameters
    ----------
    path
        Final path; created as ``path.inprogress``, exclusively.
    detector
        Geometry; its shape is that of every frame.
    dtype
        Type of the frames: an integer type or float32.
    max_num_peak
        Width of the peak arrays.
    mask
        uint32 (ss, fs), 0 = good; all good by default.
    entry
        Further scalars of ``/entry_1`` (text or numbers) by path relative to it.
    scan_units
        Names of the numbers in `CXIEvent.scan` that are stored, and their units.
    compression
        Of the frames: ``none``, ``gzip`` (level 1 after byte shuffling), or ``bitshuffle`` (with
        LZ4; readers need the plugin).
    maps
        Whether segmentation and logits are stored, where events have them; else they are 0.
    block_size, block_bytes, block_time
        Rows are written and flushed when there are so many, their frames have so many bytes, or
        the oldest has waited so long (s).

    Raises
    ------
    FileTakenError
        If there is such a file, finished or in progress.
    ConfigurationError
        If frames of that type can't be stored, or the mask has another shape.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        detector: Detector,
        dtype: npt.DTypeLike,
        max_num_peak: int,
        mask: npt.NDArray[np.uint32] | None = None,
        entry: Mapping[str, str | int | float] | None = None,
        scan_units: Mapping[str, str] | None = None,
        compression: Compression = "none",
        maps: bool = False,
        block_size: int = 16,
        block_bytes: int = 64_000_000,
        block_time: float = 2.0,
    ) -> None:
        self.path = path = Path(path)
        self.detector = detector
        self.dtype = np.dtype(dtype)
        self.max_num_peak = max_num_peak
        self._scan = dict(zip(scan_units or {}, safe_names(scan_units or {}), strict=True))
        self._block_size, self._block_bytes, self._block_time = block_size, block_bytes, block_time
        self._rows: list[Row] = []
        self._columns: dict[str, Any] = {}
        # Peaks and columns of an event, uncompressed and with what HDF5 adds, generously.
        self._row_bytes = 64 * max_num_peak + 64 * len(self._scan) + 8192
        self._slab = np.zeros(detector.shape, self.dtype)
        self._written = 0
        self._oldest = 0.0
        self._failed = False
        if self.dtype.kind not in "iu" and self.dtype != np.float32:
            raise ConfigurationError(
                f"frames in {path} must be of an integer type or float32, found {self.dtype}."
            )
        if compression not in COMPRESSIONS:
            raise ConfigurationError(
                f"compression of {path} must be {', '.join(COMPRESSIONS[:-1])} or "
                f"{COMPRESSIONS[-1]}, found {compression!r}."
            )
        if mask is not None and mask.shape != detector.shape:
            raise ConfigurationError(
                f"the mask has shape {mask.shape}, the detector {detector.shape}."
            )
        self._growing = path.with_name(path.name + IN_PROGRESS)
        try:
            # HDF5's own exclusive creation does not tell why it failed.
            self._growing.touch(exist_ok=False)
        except FileExistsError:
            raise FileTakenError(
                f"{self._growing} exists: another writer is at work, or was killed; move it away, "
                f"or choose another directory or prefix."
            ) from None
        try:
            # Only now: a writer that renames its file in between would go unnoticed before.
            if path.exists():
                raise FileTakenError(
                    f"{path} exists: move it away, or choose another directory or prefix."
                )
            # No lock, so that what is flushed can be read while the file grows.
            self._file = h5py.File(self._growing, "w", libver=("earliest", "v110"), locking=False)
            try:
                self._tables = lay_out(
                    self._file,
                    detector=detector,
                    dtype=self.dtype,
                    max_num_peak=max_num_peak,
                    mask=mask,
                    entry=entry or {},
                    scan={key: (self._scan[key], unit) for key, unit in (scan_units or {}).items()},
                    compression=compression,
                    maps=maps,
                )
                self._file.flush()
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._growing.unlink()
            raise

    def __len__(self) -> int:
        """Return the number of events appended so far."""
        return self._written + len(self._rows)

    @property
    def growing(self) -> Path:
        """The file as it is named until it is complete."""
        return self._growing

    @property
    def waiting(self) -> int:
        """Number of events appended that are not on disk."""
        return len(self._rows)

    def check(self, event: CXIEvent) -> None:
        """Raise `EventRefusedError` if an event can't be stored in this file."""
        self._take(event)

    def _take(self, event: CXIEvent) -> Row:
        maps = SEGMENTATION in self._tables
        return prepare(event, self.detector, self.dtype, self.max_num_peak, maps=maps)

    def append(self, event: CXIEvent) -> None:
        """Take an event; of more than `max_num_peak` peaks the strongest are stored.

        Nothing is written yet: call `flush_if_due`. An event that was taken stays taken if writing
        fails, and goes out with the next attempt.

        Raises
        ------
        EventRefusedError
            As `check` says.
        """
        row = self._take(event)
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(row)

    def flush_if_due(self) -> None:
        """Do as `flush` does if the block is full or old."""
        if self._rows and (
            len(self._rows) >= self._block_size
            or self._bytes() >= self._block_bytes
            or time.monotonic() - self._oldest >= self._block_time
        ):
            self.flush()

    def flush(self) -> None:
        """Write all rows to disk.

        Raises
        ------
        DiskFullError
            If there is no room for them.
        """
        rows = self._rows
        if not rows:
            return
        self._reserve(self._bytes() + len(rows) * self._row_bytes)
        start, stop = self._written, self._written + len(rows)
        again, self._failed = self._failed, True

        def put(name: str, values: Sequence[Any] | npt.NDArray[Any]) -> None:
            if name not in self._columns:
                self._columns[name] = self._file[name]
            dataset = self._columns[name]
            dataset.resize(stop, axis=0)
            dataset[start:stop] = values

        for table in self._tables.values():
            table.resize(stop)
        for number, row in enumerate(rows, start):
            self._write_row(number, row)
        put(f"{RESULT}/nPeaks", [len(row.peaks) for row in rows])
        events = [row.event for row in rows]
        energy = np.array([event.photon_energy_eV for event in events])
        put("/LCLS/photon_energy_eV", energy)
        put("/entry_1/instrument_1/source_1/energy", energy * _JOULE_PER_EV)
        put("/LCLS/detector_1/EncoderValue", [event.distance_m * 1e3 for event in events])
        seconds, nanoseconds = np.divmod(
            np.array([event.time_ns for event in events], dtype=np.int64), 1_000_000_000
        )
        put("/LCLS/machineTime", seconds)
        put("/LCLS/machineTimeNanoSeconds", nanoseconds)
        put(
            "/LCLS/detector_1/timestamp",
            seconds.astype(np.uint64) << 32 | nanoseconds.astype(np.uint64),
        )
        put("/entry_1/event_id", [event.event_id for event in events])
        put("/entry_1/frame_index", [event.frame_index for event in events])
        put("/entry_1/run_uid", [event.run_uid.encode() for event in events])
        put("/entry_1/batch_id", [event.batch_id.encode() for event in events])
        put(
            "/entry_1/sample_1/geometry_1/translation",
            np.array([event.translation_m for event in events]).reshape(-1, 3),
        )
        for name, safe in self._scan.items():
            put(f"{SCAN}/{safe}", [event.scan.get(name, np.nan) for event in events])
        self._file.flush()
        os.truncate(self._growing, self._file.id.get_filesize())
        always = (t for name, t in self._tables.items() if name not in (SEGMENTATION, *LOGITS))
        if again and any(table.stored != stop for table in always):
            raise StorageError(
                f"{self._growing} is damaged: after a write that failed HDF5 has lost rows of the "
                f"{stop} there should be; make it again from the source."
            )
        self._written = stop
        self._rows = []
        self._failed = False

    def _reserve(self, needed: int) -> None:
        end = self._file.id.get_filesize()
        reserve(self._growing, end, needed, f"{len(self._rows)} events wait in memory; make room")

    def _write_row(self, number: int, row: Row) -> None:
        """Write what has a chunk of its own."""
        image, logits, detector = row.event.image, row.event.logits, self.detector
        if image.shape != detector.shape:
            image = detector.to_slab(image, None if detector.is_pile else self._slab)
        self._tables[DATA].write(number, image)
        for name, attribute, dtype in PEAK_COLUMNS:
            values = getattr(row.peaks, attribute)
            self._tables[f"{RESULT}/{name}"].write(number, self._padded(values, dtype))
        self._tables[SEGMENTS].write(number, self._padded(row.segments, np.int32))
        if logits is not None and SEGMENTATION in self._tables:
            peak = (logits[:, 1] > logits[:, 0]).astype(np.uint8)
            self._tables[SEGMENTATION].write(number, detector.to_slab(peak))
            for place, name in enumerate(LOGITS):
                self._tables[name].write(number, detector.to_slab(logits[:, place]))

    def _padded(self, values: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[np.generic]:
        line = np.zeros(self.max_num_peak, dtype)
        line[: len(values)] = values
        return line

    def _bytes(self) -> int:
        """Size of what waits, without compression."""
        size = sum(row.event.image.nbytes for row in self._rows)
        if SEGMENTATION in self._tables:
            size += sum(
                row.event.logits.nbytes for row in self._rows if row.event.logits is not None
            )
        return size

    def close(
        self,
        *,
        end_time: str,
        exit_status: str,
        reason: str = "",
        counts: Mapping[str, int] | None = None,
        lost: Sequence[tuple[int, str]] = (),
    ) -> Path:
        """Complete the file: write what is left, label it, sync it and give it its name.

        Parameters
        ----------
        end_time
            ISO 8601.
        exit_status, reason
            How the run ended, as its stop document says.
        counts
            Stored below ``/entry_1/process_1/counts``.
        lost
            Events that should be here and are not: number and reason.

        Returns
        -------
        Path
            The finished file.
        """
        self.flush()
        self._reserve(0)
        entry, process = self._file["/entry_1"], self._file[PROCESS]
        put_text(entry, "end_time", end_time)
        put_text(entry, "exit_status", exit_status)
        put_text(entry, "reason", reason)
        for name, number in (counts or {}).items():
            process[f"counts/{name}"] = number
        process["lost_event_id"] = np.array([number for number, _ in lost], dtype=np.int64)
        process.create_dataset(
            "lost_reason", data=[why for _, why in lost], dtype=h5py.string_dtype()
        )
        self._file.flush()
        os.truncate(self._growing, self._file.id.get_filesize())
        self._file.close()
        sync(self._growing)
        self._growing.rename(self.path)
        sync(self.path.parent)
        return self.path
