"""The module of mean counts over time."""

from __future__ import annotations

import numpy as np

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]


def compute(kernel: ViewerKernel) -> Curves:
    """Return the mean counts of a valid pixel in each frame."""
    if kernel.path is not None:
        numbers, intensity = kernel.facade.read_dataset(
            kernel.stored("the intensity over time"), "/xpcs/spatial_mean/intensity_vs_time"
        )
        return Curves(
            numbers.astype(np.float64),
            intensity[None].astype(np.float64),
            ("all bins",),
            "frame",
            "counts per pixel",
        )
    used = kernel.partition.dynamic_roi_map > 0
    intensity = np.array([frame[used].mean(dtype=np.float64) for frame in kernel.frames])
    times = np.arange(float(len(intensity))) * kernel.frame_time
    return Curves(times, intensity[None], ("all bins",), "time (s)", "counts per pixel")
