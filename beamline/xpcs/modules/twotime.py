"""The module of two-time correlation functions."""

from __future__ import annotations

import numpy as np

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Picture

__all__ = ["compute"]

#: More frames than this are not correlated with each other while somebody waits.
_MOST = 2000


def compute(kernel: ViewerKernel, label: int | None = None) -> Picture:
    """Return C(t₁, t₂) of a dynamic bin: of the first `_MOST` frames, or as the file has it.

    C(t₁, t₂) = N·ΣI₁I₂/(ΣI₁·ΣI₂) over the N pixels of the bin, each frame having been divided by
    the mean of its static bin.
    """
    if kernel.path is not None:
        return Picture(kernel.facade.read_twotime(kernel.path, label), "C(t₁, t₂)")
    label = label or 1
    bins = kernel.partition
    used = np.flatnonzero(bins.dynamic_roi_map.ravel() == label)
    static = bins.static_roi_map.ravel()[used]
    counts = kernel.frames[:_MOST].reshape(len(kernel.frames[:_MOST]), -1)[:, used]
    mean = np.bincount(static, counts.mean(axis=0)) / np.maximum(np.bincount(static), 1)
    values = counts / np.maximum(mean[static], np.finfo(float).tiny)
    total = values.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = len(used) * (values @ values.T) / np.outer(total, total)
    return Picture(found, f"C(t₁, t₂) of bin {label}, q = {bins.dynamic_q[label - 1]:.4g} 1/nm")
