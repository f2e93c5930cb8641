"""Events as CXI files take them, and the checks at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.crystallography.event_peaks import EventPeaks
from beamline.crystallography.geometry import Detector
from beamline.crystallography.peaks import Peaks

__all__ = ["CXIEvent", "EventRefusedError", "Row", "prepare"]

#: What ``seconds << 32 | nanoseconds`` can't hold begins here, ns.
_END_OF_TIME = 2**32 * 1_000_000_000


class EventRefusedError(BeamlineError, ValueError):
    """An event can't be stored: indexing programs would make nonsense of it."""


@dataclass(frozen=True)
class CXIEvent:
    """One frame and what is known about it.

    Attributes
    ----------
    image
        A slab (ss, fs) or a stack of panels (panels, ss, fs), in the detector's own type.
    peaks
        Strongest first; `Peaks` are in the slab, `EventPeaks` on the panels of the stack.
    photon_energy_eV
        Photon energy, eV.
    time_ns
        Unix time, ns; before the year 2106.
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
    logits
        What the segmentation said, float32 (panels, 2, ss, fs) without padding, for files with
        `maps`.
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
    logits: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Row:
    """An event that was taken, its peaks in the slab and the panel of each."""

    event: CXIEvent
    peaks: Peaks
    segments: npt.NDArray[np.int32]


def prepare(
    event: CXIEvent,
    detector: Detector,
    dtype: np.dtype[Any],
    max_num_peak: int,
    *,
    maps: bool,
) -> Row:
    """Check an event, and bring its peaks to the slab.

    Raises
    ------
    EventRefusedError
        If it can't be stored.
    """
    image, kept = event.image, event.peaks.strongest(max_num_peak)
    try:
        shapes = (detector.slab_shape, detector.stack_shape)
        if image.dtype != dtype or image.shape not in shapes:
            raise ValueError(
                f"its frame is {image.dtype} {image.shape}, expected {dtype} {shapes[0]} "
                f"or {shapes[1]}"
            )
        if event.logits is not None and maps:
            panels, height, width = detector.stack_shape
            if event.logits.shape != (panels, 2, height, width):
                raise ValueError(
                    f"its logits have the shape {event.logits.shape}, expected "
                    f"{(panels, 2, height, width)}"
                )
        for name, value in (
            ("photon energy", event.photon_energy_eV),
            ("detector distance", event.distance_m),
        ):
            if not 0.0 < value < np.inf:
                unit = "eV" if name == "photon energy" else "m"
                raise ValueError(f"its {name} must be positive, found {value} {unit}")
        if not 0 <= event.time_ns < _END_OF_TIME:
            raise ValueError(f"its time must be from 1970 to 2106, found {event.time_ns} ns")
        for name in ("fs", "ss", "total"):
            if not np.isfinite(getattr(kept, name)).all():
                raise ValueError(f"{name} of a peak is not finite")
        if isinstance(kept, EventPeaks):
            ss, fs = detector.to_slab_position(kept.panel, kept.ss, kept.fs)
            segments = kept.panel
            kept = replace(kept, ss=ss.astype(np.float32), fs=fs.astype(np.float32))
        else:
            segments = detector.to_panel_position(kept.ss, kept.fs)[0]
    except ValueError as error:
        raise EventRefusedError(
            f"event {event.event_id} of {event.batch_id} in run {event.run_uid[:8]} is "
            f"refused: {str(error).rstrip('.')}."
        ) from None
    return Row(event, kept, segments)
