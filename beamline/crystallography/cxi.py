"""CXI files with frames and peaks, written event by event; no documents here.

A file has its final name only once it is complete: while it grows, ``.inprogress`` is appended.
Rows go out in blocks, each followed by a flush, so that a killed writer leaves a readable file.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.crystallography.cxi_layout import (
    DATA,
    PEAK_COLUMNS,
    PROCESS,
    RESULT,
    SCAN,
    Compression,
    lay_out,
    put_text,
    safe_names,
)
from beamline.crystallography.geometry import Detector
from beamline.crystallography.peaks import Peaks

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

#: Free disk space that a block leaves, bytes.
_RESERVE = 4_000_000
#: Elementary charge, C (exact, SI 2019): joules per electronvolt.
_JOULE_PER_EV = 1.602176634e-19


class DiskFullError(BeamlineError, OSError):
    """There is no room for the next events; they are kept and go out when there is."""


class EventRefusedError(BeamlineError, ValueError):
    """An event can't be stored: indexing programs would make nonsense of it."""


class FileTakenError(BeamlineError, FileExistsError):
    """The file that would be written exists, complete or in progress."""


@dataclass(frozen=True)
class CXIEvent:
    """One frame and what is known about it.

    Attributes
    ----------
    image
        Shape (ss, fs), in the detector's own type.
    peaks
        Strongest first.
    photon_energy_eV
        Photon energy, eV.
    time_ns
        Unix time, ns.
    run_uid, batch_id, event_id
        Together they name the event: run, stream (or batch of a queue), number in it.
    frame_index
        Row in the file that the frame was read from; -1 if it came with the document.
    distance_m
        Sample to detector, m.
    translation_m
        Sample position (x, y, z), m; NaN where unknown.
    scan
        Further numbers of this event by name.
    """

    image: npt.NDArray[Any]
    peaks: Peaks
    photon_energy_eV: float  # noqa: N815  (the unit belongs to the name)
    time_ns: int
    run_uid: str
    batch_id: str
    event_id: int
    distance_m: float
    frame_index: int = -1
    translation_m: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    scan: Mapping[str, float] = field(default_factory=dict)


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
        Of the frames. ``gzip`` is level 1 after byte shuffling.
    block_size, block_time
        Rows are written and flushed when there are so many, or the oldest has waited so long (s).

    Raises
    ------
    FileTakenError
        If there is such a file, finished or in progress.
    ConfigurationError
        If frames of that type can't be stored, or the mask has another shape.
    """

    def __init__(
        self,
        path: Path,
        *,
        detector: Detector,
        dtype: npt.DTypeLike,
        max_num_peak: int,
        mask: npt.NDArray[np.uint32] | None = None,
        entry: Mapping[str, str | int | float] | None = None,
        scan_units: Mapping[str, str] | None = None,
        compression: Compression = "none",
        block_size: int = 16,
        block_time: float = 2.0,
    ) -> None:
        self.path = path
        self.detector = detector
        self.dtype = np.dtype(dtype)
        self.max_num_peak = max_num_peak
        self._scan = dict(zip(scan_units or {}, safe_names(scan_units or {}), strict=True))
        self._block_size, self._block_time = block_size, block_time
        self._rows: list[CXIEvent] = []
        self._written = 0
        self._oldest = 0.0
        if self.dtype.kind not in "iu" and self.dtype != np.float32:
            raise ConfigurationError(
                f"frames in {path} must be of an integer type or float32, found {self.dtype}."
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
                lay_out(
                    self._file,
                    detector=detector,
                    dtype=self.dtype,
                    max_num_peak=max_num_peak,
                    mask=mask,
                    entry=entry or {},
                    scan={key: (self._scan[key], unit) for key, unit in (scan_units or {}).items()},
                    compression=compression,
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
        name = f"event {event.event_id} of {event.batch_id} in run {event.run_uid[:8]}"
        shape, dtype = event.image.shape, event.image.dtype
        if shape != self.detector.shape or dtype != self.dtype:
            raise EventRefusedError(
                f"{name} is refused: its frame is {dtype} {shape}, expected {self.dtype} "
                f"{self.detector.shape}."
            )
        if not 0.0 < event.photon_energy_eV < np.inf:
            raise EventRefusedError(
                f"{name} is refused: its photon energy must be positive, found "
                f"{event.photon_energy_eV} eV."
            )
        if not 0.0 < event.distance_m < np.inf:
            raise EventRefusedError(
                f"{name} is refused: its detector distance must be positive, found "
                f"{event.distance_m} m."
            )

    def append(self, event: CXIEvent) -> None:
        """Take an event; of more than `max_num_peak` peaks the strongest are stored.

        Nothing is written yet: call `flush_if_due`. An event that was taken stays taken if writing
        fails, and goes out with the next attempt.

        Raises
        ------
        EventRefusedError
            As `check` says.
        """
        self.check(event)
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(event)

    def flush_if_due(self) -> None:
        """Do as `flush` does if the block is full or old."""
        if self._rows and (
            len(self._rows) >= self._block_size
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
        # HDF5 does not survive a write that fails: the process may crash when it ends.
        needed = sum(row.image.nbytes for row in rows) + _RESERVE
        free = shutil.disk_usage(self._growing.parent).free
        if free < needed:
            raise DiskFullError(
                f"{self._growing} needs {needed / 1e6:.0f} MB to grow, found {free / 1e6:.0f} MB "
                f"free: {len(rows)} events wait in memory; make room."
            )
        start, stop = self._written, self._written + len(rows)

        def put(name: str, values: Sequence[Any] | npt.NDArray[Any]) -> None:
            dataset = self._file[name]
            dataset.resize(stop, axis=0)
            dataset[start:stop] = values

        put(DATA, np.stack([row.image for row in rows]))
        kept = [row.peaks.strongest(self.max_num_peak) for row in rows]
        for name, attribute, dtype in PEAK_COLUMNS:
            table = np.zeros((len(rows), self.max_num_peak), dtype)
            for line, peaks in zip(table, kept, strict=True):
                line[: len(peaks)] = getattr(peaks, attribute)
            put(f"{RESULT}/{name}", table)
        # One panel: every peak is on segment 0.
        put(f"{RESULT}/peakSegPosRaw", np.zeros((len(rows), self.max_num_peak), np.int32))
        put(f"{RESULT}/nPeaks", [len(peaks) for peaks in kept])
        energy = np.array([row.photon_energy_eV for row in rows])
        put("/LCLS/photon_energy_eV", energy)
        put("/entry_1/instrument_1/source_1/energy", energy * _JOULE_PER_EV)
        put("/LCLS/detector_1/EncoderValue", [row.distance_m * 1e3 for row in rows])
        seconds, nanoseconds = np.divmod(
            np.array([row.time_ns for row in rows], dtype=np.int64), 1_000_000_000
        )
        put("/LCLS/machineTime", seconds)
        put("/LCLS/machineTimeNanoSeconds", nanoseconds)
        put("/LCLS/detector_1/timestamp", (seconds << 32 | nanoseconds).astype(np.uint64))
        put("/entry_1/event_id", [row.event_id for row in rows])
        put("/entry_1/frame_index", [row.frame_index for row in rows])
        put("/entry_1/run_uid", [row.run_uid.encode() for row in rows])
        put("/entry_1/batch_id", [row.batch_id.encode() for row in rows])
        put(
            "/entry_1/sample_1/geometry_1/translation",
            np.array([row.translation_m for row in rows]).reshape(-1, 3),
        )
        for name, safe in self._scan.items():
            put(f"{SCAN}/{safe}", [row.scan.get(name, np.nan) for row in rows])
        self._file.flush()
        self._written = stop
        self._rows = []

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
        self._file.close()
        _sync(self._growing)
        self._growing.rename(self.path)
        _sync(self.path.parent)
        return self.path


def _sync(path: Path) -> None:
    """Make sure that a file, or a directory's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
