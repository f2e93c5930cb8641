"""The module of two-time correlation functions."""

from __future__ import annotations

import numpy as np

from beamline.xpcs.kernel import KernelError, ViewerKernel
from beamline.xpcs.modules._shown import Picture
from beamline.xpcs.twotime import TwoTime

__all__ = ["compute"]

#: More frames than this are not correlated with each other while somebody waits.
_MOST = 2000


def compute(kernel: ViewerKernel, label: int | None = None) -> Picture:
    """Return C(t₁, t₂) of a dynamic bin (by default the first) as `TwoTime` has it.

    Of frames, the first `_MOST` are correlated; of a result, it is as the file has it.

    Raises
    ------
    KernelError
        If there is no such bin, or the file's function is of other bins.
    """
    if kernel.path is not None:
        path = kernel.stored("the two-time correlation")
        return Picture(kernel.facade.read_twotime(path, label), "C(t₁, t₂)")
    bins = kernel.partition
    label = 1 if label is None else label
    if not 1 <= label <= bins.dynamic.n_labels:
        raise KernelError(
            f"There is no dynamic bin {label}; there are {bins.dynamic.n_labels}, counted from 1."
        )
    only = (bins.dynamic_roi_map == label).astype(np.int32)
    correlator = TwoTime(only, bins.static_roi_map, kernel.frame_time, max_frames=_MOST + 2)
    correlator.add(kernel.frames[:_MOST])
    c2 = correlator.result().c2[0].astype(np.float64)
    return Picture(c2, f"C(t₁, t₂) of bin {label}, q = {bins.dynamic_q[label - 1]:.4g} 1/nm")
