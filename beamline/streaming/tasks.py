"""The search for peaks on the events of an item, as a plain function and as a Ray task.

`process_samples_task` is `process_samples` for Ray; what it does is the same.
"""

from __future__ import annotations

import functools
import math
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.crystallography.event_peaks import find_event_peaks
from beamline.crystallography.geometry import Detector
from beamline.streaming.batches import (
    BatchError,
    BatchHeader,
    Padding,
    ProcessedBatch,
    ProcessedEvent,
    event_stacks,
    fitting_detector,
    padding_of,
    photon_energies,
    scan_numbers,
    times_ns,
)

__all__ = ["PeakSearch", "process_samples", "process_samples_task"]

#: `process_samples` as a Ray task.
process_samples_task: Any


#: Detectors and good pixels that this process has prepared, by settings and shape of the stack.
_PREPARED: dict[
    tuple[str, tuple[int, ...] | None], tuple[Detector, npt.NDArray[np.bool_] | None]
] = {}
_KEPT = 8


@dataclass(frozen=True)
class PeakSearch:
    """How to search, and for what.

    Attributes
    ----------
    detector
        Geometry.
    padding
        Where the pipeline pads.
    min_num_peak, max_num_peak, connectivity, min_pixels
        As in `beamline.streaming.config.PeakFindingSettings`.
    key
        Names these settings in a worker.
    """

    detector: Detector
    padding: Padding = "bottom-right"
    min_num_peak: int = 10
    max_num_peak: int = 2048
    connectivity: int = 8
    min_pixels: int = 1

    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def prepared(self, header: BatchHeader) -> tuple[Detector, npt.NDArray[np.bool_] | None]:
        """Return the detector for the stacks of an item, and its good pixels (None: all).

        Made once in every worker: the tables behind it take longer than an event.
        """
        shape = header.original_shape
        place = self.key, None if shape is None else shape[1:]
        if place not in _PREPARED:
            detector = fitting_detector(self.detector, header)
            good = detector.to_stack(detector.mask() == 0)
            if len(_PREPARED) >= _KEPT:
                _PREPARED.clear()
            _PREPARED[place] = detector, None if good.all() else good
        return _PREPARED[place]


def process_samples(
    logits: npt.NDArray[np.float32],
    images: npt.NDArray[Any] | None,
    header: BatchHeader,
    span: tuple[int, int] | None,
    search: PeakSearch,
) -> ProcessedBatch:
    """Find the peaks of some events of an item; an event that can't be stored is refused alone.

    Parameters
    ----------
    logits
        float32 (B·C, 2, H', W'), class 1 = peak; neither copied nor changed.
    images
        As `event_stacks` takes them; None refuses every event.
    header
        Of the item.
    span
        First event and the one behind the last; None for all.
    search
        How.
    """
    begun = time.perf_counter()
    count = header.n_events or max(len(logits) // search.detector.stack_shape[0], 1)
    first, stop = span or (0, count)
    try:
        detector, valid = search.prepared(header)
        panels = detector.stack_shape[0]
        if images is None:
            raise BatchError(f"batch {header.batch_id} is refused: it has no image.")
        stacks = event_stacks(np.asarray(images), header, detector, search.padding)
        logits = np.asarray(logits)
        if logits.ndim != 4 or logits.shape[1] != 2 or len(logits) != len(stacks) * panels:
            raise BatchError(
                f"batch {header.batch_id} is refused: its logits are {logits.shape}, expected "
                f"({len(stacks) * panels}, 2, H', W')."
            )
    except (BeamlineError, TypeError, ValueError) as error:
        refused = [
            ProcessedEvent(i, "refused", str(error), time_ns=when or 0)
            for i, when in zip(
                range(first, stop), times_ns(header.metadata, count)[first:stop], strict=True
            )
        ]
        return ProcessedBatch(header, refused, time.perf_counter() - begun)
    energies = photon_energies(header.metadata, count)
    moments = times_ns(header.metadata, count)
    numbers = scan_numbers(header.metadata, count)
    events = []
    for i in range(first, stop):
        event = ProcessedEvent(
            i, "refused", photon_energy_eV=energies[i], time_ns=moments[i] or 0, scan=numbers[i]
        )
        try:
            _check(event, header, missing_time=moments[i] is None)
            window = slice(i * panels, (i + 1) * panels)
            event = _search(event, logits[window], stacks[i], detector, valid, search)
            events.append(event)
        except Exception as error:  # noqa: BLE001  (whatever is wrong with one, the next is done)
            known = isinstance(error, BeamlineError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            if f"batch {header.batch_id}" not in reason:
                reason = f"event {i} of batch {header.batch_id} is refused: {reason}"
            events.append(replace(event, reason=reason))
    return ProcessedBatch(header, events, time.perf_counter() - begun)


def _check(event: ProcessedEvent, header: BatchHeader, *, missing_time: bool) -> None:
    name = f"event {event.index} of batch {header.batch_id} is refused"
    if math.isnan(event.photon_energy_eV):
        given = {
            key: header.metadata.get(key)
            for key in ("photon_wavelength", "photon_energy")
            if header.metadata.get(key) is not None
        }
        raise BatchError(
            f"{name}: it needs a photon energy (photon_energy in eV or photon_wavelength in Å, "
            f"for all events or each), found {_short(given) if given else 'none'}."
        )
    if missing_time:
        raise BatchError(
            f"{name}: its timestamp must be seconds << 32 | nanoseconds and not in the future, "
            f"found {_short(header.metadata['timestamp'])}."
        )


def _search(
    event: ProcessedEvent,
    logits: npt.NDArray[np.float32],
    stack: npt.NDArray[Any],
    detector: Detector,
    valid: npt.NDArray[np.bool_] | None,
    search: PeakSearch,
) -> ProcessedEvent:
    panel = stack.shape[-2:]
    peaks = find_event_peaks(
        logits,
        stack,
        padding=padding_of(logits.shape[-2:], panel, search.padding),
        original_shape=panel,
        valid=valid,
        connectivity=search.connectivity,
        min_pixels=search.min_pixels,
        max_num_peak=search.max_num_peak,
        gain=detector.adu_per_photon,
    )
    found = len(peaks) + peaks.truncated
    if found < search.min_num_peak:
        return replace(event, verdict="not_hit", n_peaks=found)
    return replace(event, verdict="hit", peaks=peaks, n_peaks=found, truncated=peaks.truncated)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


@functools.cache
def _as_task() -> Any:
    import ray

    return ray.remote(enable_task_events=False)(process_samples)


def __getattr__(name: str) -> Any:
    # Ray is imported only by those who want the task.
    if name == "process_samples_task":
        return _as_task()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
