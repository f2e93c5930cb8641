"""What passes between finding peaks and writing files: events of one item of Q2, and their fate."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.core.units import wavelength_to_energy
from beamline.crystallography.event_peaks import EventPeaks
from beamline.crystallography.geometry import Detector

__all__ = [
    "BatchError",
    "BatchHeader",
    "EventKey",
    "Padding",
    "ProcessedBatch",
    "ProcessedEvent",
    "Verdict",
    "event_logits",
    "event_stacks",
    "fitting_detector",
    "padding_of",
    "photon_energies",
    "scan_numbers",
    "times_ns",
]

Padding = Literal["bottom-right", "centred"]
Verdict = Literal["hit", "not_hit", "refused", "duplicate", "lost"]
#: Run, batch, number in the batch, time stamp in ns (0: none): what makes an event the same one.
EventKey = tuple[str, str, int, int]

#: Photon energies outside of these are wrong units, eV.
_LEAST_ENERGY, _MOST_ENERGY = 10.0, 1e7
#: How far in the future a time stamp may be, s: clocks differ, but not by a day.
_AHEAD = 86_400.0
#: Bytes of the names that CXI files have room for: cut off, two could become the same.
_LONGEST_RUN, _LONGEST_BATCH = 36, 64
#: Metadata that has a place of its own.
_OWN = frozenset(
    {"photon_wavelength", "photon_energy", "timestamp", "run", "run_uid", "batch_id", "units"}
)


class BatchError(BeamlineError, ValueError):
    """An item of Q2 is not what the contract says."""


@dataclass(frozen=True)
class BatchHeader:
    """What is known of an item without its arrays.

    Attributes
    ----------
    run
        The run that the item belongs to (metadata ``run_uid`` or ``run``); empty if it has none.
    batch_id
        Name of the item.
    metadata
        As the producer gave it.
    original_shape
        (B, C, H, W): events, panels and pixels before preprocessing; None if unknown.
    """

    run: str
    batch_id: str
    metadata: Mapping[str, Any]
    original_shape: tuple[int, int, int, int] | None = None

    @classmethod
    def from_item(cls, item: Any) -> BatchHeader:
        """Read a `PipelineOutput` of ours or of the reference.

        Raises
        ------
        BatchError
            If it lacks what every item has, or its shapes are no shapes.
        """
        try:
            metadata, batch = item.metadata, str(item.batch_id)
            preprocessing = getattr(item, "preprocessing_metadata", None)
        except AttributeError as error:
            raise BatchError(
                f"an item of type {type(item).__name__} is refused: {error}; expected a "
                "PipelineOutput."
            ) from None
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, Mapping):
            raise BatchError(
                f"batch {batch} is refused: its metadata must be a dict, found "
                f"{type(metadata).__name__}."
            )
        shape = None if preprocessing is None else getattr(preprocessing, "original_shape", None)
        if shape is not None:
            try:
                shape = tuple(int(n) for n in shape)
            except (TypeError, ValueError):
                shape = ()
            if len(shape) != 4 or min(shape) < 1:
                raise BatchError(
                    f"batch {batch} is refused: original_shape must be (events, panels, H, W), "
                    f"found {getattr(preprocessing, 'original_shape', None)}."
                )
        run = metadata.get("run_uid", metadata.get("run"))
        name = "" if run is None else str(run)
        if len(name.encode()) > _LONGEST_RUN or len(batch.encode()) > _LONGEST_BATCH:
            raise BatchError(
                f"batch {batch} of run {name} is refused: names of runs may have {_LONGEST_RUN} "
                f"bytes and those of batches {_LONGEST_BATCH}, found {len(name.encode())} and "
                f"{len(batch.encode())}."
            )
        return cls(name, batch, metadata, shape)

    @property
    def told(self) -> dict[str, str]:
        """What the producer says of the run in words, such as ``sample`` and ``plan_name``."""
        return {
            str(key): value
            for key, value in self.metadata.items()
            if isinstance(value, str) and value and key not in ("run", "run_uid", "batch_id")
        }

    @property
    def n_events(self) -> int | None:
        """Number of events, None if only the arrays tell."""
        return None if self.original_shape is None else self.original_shape[0]


@dataclass(frozen=True)
class ProcessedEvent:
    """One event after the search for peaks.

    Attributes
    ----------
    index
        Number in its item, from 0.
    verdict
        hit: to be written; not_hit: too few peaks; refused: it can't be stored; duplicate: it was
        written before; lost: it could not be had or treated.
    reason
        Of a refusal or loss, one sentence.
    peaks
        Of a hit, on the panels, strongest first.
    n_peaks
        Peaks found.
    truncated
        Of these, how many are not stored because there are too many.
    photon_energy_eV
        eV; NaN if refused before it was known.
    time_ns
        Unix time, ns; 0 if the producer gave none.
    scan
        Further numbers of the metadata by name.
    """

    index: int
    verdict: Verdict
    reason: str = ""
    peaks: EventPeaks | None = None
    n_peaks: int = 0
    truncated: int = 0
    photon_energy_eV: float = math.nan  # noqa: N815  (the unit belongs to the name)
    time_ns: int = 0
    scan: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcessedBatch:
    """Events of one item, consecutive, after the search for peaks.

    Attributes
    ----------
    header
        Of the item.
    events
        In order.
    seconds
        Time that the search took.
    """

    header: BatchHeader
    events: Sequence[ProcessedEvent]
    seconds: float = 0.0

    @property
    def hits(self) -> list[ProcessedEvent]:
        """The events that are to be written."""
        return [event for event in self.events if event.verdict == "hit"]

    def key(self, event: ProcessedEvent) -> EventKey:
        """Return what tells whether an event has been written before."""
        return self.header.run, self.header.batch_id, event.index, event.time_ns


def fitting_detector(detector: Detector, header: BatchHeader) -> Detector:
    """Return the detector for the panel stacks of an item.

    Raises
    ------
    BatchError
        If the geometry is that of another detector.
    """
    shape = header.original_shape
    try:
        return detector if shape is None else detector.for_stack(shape[1:])
    except ValueError as error:
        raise BatchError(f"batch {header.batch_id} is refused: {error}") from None


def event_stacks(
    images: npt.NDArray[Any], header: BatchHeader, detector: Detector, padding: Padding
) -> npt.NDArray[Any]:
    """View the images of an item as panel stacks without padding.

    Parameters
    ----------
    images
        (B·C, 1, H', W'), (B·C, H', W') or (B, C, H', W'), padded or not.
    header
        Of the item.
    detector
        As `fitting_detector` returns it: its stack is (C, H, W).
    padding
        Where the rows and columns are that the detector does not have.

    Returns
    -------
    ndarray
        (B, C, H, W), a view where the memory allows it.

    Raises
    ------
    BatchError
        If the shapes do not fit.
    """
    panels, height, width = detector.stack_shape
    rows, columns = images.shape[-2:] if images.ndim >= 3 else (0, 0)
    count = images.size // max(panels * rows * columns, 1)
    events = header.n_events or count
    if images.ndim not in (3, 4) or images.size != events * panels * rows * columns or not events:
        raise BatchError(
            f"batch {header.batch_id} is refused: its images are {images.shape}, expected "
            f"{header.n_events or 'n'} events of {panels} panels."
        )
    if rows < height or columns < width:
        raise BatchError(
            f"batch {header.batch_id} is refused: its images are {rows} x {columns}, smaller than "
            f"the geometry's panels of {height} x {width}."
        )
    stacks = images.reshape(events, panels, rows, columns)
    top, left = padding_of((rows, columns), (height, width), padding)
    return stacks[:, :, top : top + height, left : left + width]


def event_logits(
    logits: npt.NDArray[np.float32], detector: Detector, padding: Padding
) -> npt.NDArray[np.float32]:
    """View the logits of an item (B·C, 2, H', W') without padding: (B, C, 2, H, W)."""
    panels, height, width = detector.stack_shape
    top, left = padding_of(logits.shape[-2:], (height, width), padding)
    cut = logits[..., top : top + height, left : left + width]
    return cut.reshape(-1, panels, *cut.shape[1:])


def padding_of(
    padded: tuple[int, int], panel: tuple[int, int], padding: Padding
) -> tuple[int, int]:
    """Return how many rows and columns of padding lie before the first pixel of a panel."""
    if padding == "bottom-right":
        return 0, 0
    return (padded[0] - panel[0]) // 2, (padded[1] - panel[1]) // 2


def photon_energies(metadata: Mapping[str, Any], count: int) -> list[float]:
    """Return the photon energy of each event, eV; NaN where there is none.

    ``photon_energy`` (eV) or ``photon_wavelength`` (Å), one number for all or one per event.
    """
    if metadata.get("photon_energy") is not None:
        values = _per_event(metadata["photon_energy"], count)
    else:
        with np.errstate(divide="ignore"):
            values = wavelength_to_energy(_per_event(metadata.get("photon_wavelength"), count))
    usable = (values >= _LEAST_ENERGY) & (values <= _MOST_ENERGY)
    return [float(value) for value in np.where(usable, values, np.nan)]


def times_ns(metadata: Mapping[str, Any], count: int) -> list[int | None]:
    """Return the time of each event, Unix ns: 0 if there is none, None for an impossible one.

    ``timestamp`` is seconds << 32 | nanoseconds, one number for all or one per event.
    """
    given = metadata.get("timestamp")
    if given is None:
        return [0] * count
    values = list(np.ravel(np.asarray(given, dtype=object)))
    if len(values) == 1:
        values *= count
    if len(values) != count:
        return [None] * count
    latest = time.time() + _AHEAD
    found: list[int | None] = []
    for value in values:
        try:
            seconds, nanoseconds = divmod(int(value), 1 << 32)
        except (TypeError, ValueError, OverflowError):
            found.append(None)
            continue
        possible = 0 <= seconds <= latest and nanoseconds < 1_000_000_000
        found.append(seconds * 1_000_000_000 + nanoseconds if possible else None)
    return found


def scan_numbers(metadata: Mapping[str, Any], count: int) -> list[dict[str, float]]:
    """Return the other numbers of the metadata, event by event (``sample_x`` and the like)."""
    columns = {}
    for name, value in metadata.items():
        if name in _OWN or isinstance(value, str | bytes | Mapping):
            continue
        try:
            numbers = np.ravel(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            continue
        if numbers.size in (1, count):
            columns[str(name)] = np.broadcast_to(numbers, count)
    return [{name: float(column[i]) for name, column in columns.items()} for i in range(count)]


def _per_event(value: Any, count: int) -> npt.NDArray[np.float64]:
    try:
        values = np.ravel(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.size not in (1, count):
        return np.full(count, np.nan)
    return np.broadcast_to(values, count)
