"""Compiled sums of mean scattering."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import compiled

__all__ = ["sum_events", "sum_frames"]


@compiled
def sum_frames(
    frames: npt.NDArray[Any],
    label: npt.NDArray[np.int32],
    total: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
) -> None:
    """Add frames (n, p) to `total` (p,), and to `counts` (n, labels) by the label of each pixel."""
    for t in range(frames.shape[0]):
        for p in range(frames.shape[1]):
            value = frames[t, p]
            if value:
                total[p] += value
                counts[t, label[p]] += value


@compiled
def sum_events(
    pixels: npt.NDArray[np.uint32],
    ends: npt.NDArray[np.int64],
    label: npt.NDArray[np.int32],
    total: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
) -> None:
    """Do the same with photons: those of frame t are ``pixels[ends[t] : ends[t + 1]]``."""
    for t in range(len(ends) - 1):
        for i in range(ends[t], ends[t + 1]):
            pixel = pixels[i]
            total[pixel] += 1.0
            counts[t, label[pixel]] += 1.0
