"""The module of scattering curves of consecutive parts of a measurement."""

from __future__ import annotations

import numpy as np

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]


def compute(kernel: ViewerKernel, parts: int = 5) -> Curves:
    """Return the mean counts per pixel of each static bin, in each of `parts` parts."""
    bins = kernel.partition.static
    if kernel.path is not None:
        stored = kernel.facade.read_dataset(
            kernel.stored("the scattering of parts", "static"),
            "/xpcs/temporal_mean/scattering_1d_segments",
        )
        curves = stored.astype(np.float64)
    else:
        means = [part.mean(axis=0) for part in np.array_split(kernel.frames, parts) if len(part)]
        curves = np.stack([
            np.bincount(bins.roi_map.ravel(), mean.ravel(), minlength=bins.n_labels + 1)[1:]
            / bins.num_list
            for mean in means
        ])  # fmt: skip
    labels = tuple(f"part {number + 1} of {len(curves)}" for number in range(len(curves)))
    return Curves(bins.values, curves, labels, "q (1/nm)", "counts per pixel", None, (True, True))
