"""The module of mean counts over q."""

from __future__ import annotations

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]


def compute(kernel: ViewerKernel) -> Curves:
    """Return the mean counts per pixel of each static bin."""
    q, intensity = kernel.saxs1d
    return Curves(q, intensity[None], ("mean",), "q (1/nm)", "counts per pixel", None, (True, True))
