"""The module of the mean image."""

from __future__ import annotations

import numpy as np

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Picture

__all__ = ["compute"]


def compute(kernel: ViewerKernel) -> Picture:
    """Return the logarithm of the mean image, masked pixels as NaN."""
    image = np.where((kernel.mask > 0) & (kernel.image > 0), kernel.image, np.nan)
    return Picture(np.log10(image), "log10 of counts per frame")
