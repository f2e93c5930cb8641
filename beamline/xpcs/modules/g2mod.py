"""The module g2 over delay, one curve per dynamic bin."""

from __future__ import annotations

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]


def compute(kernel: ViewerKernel) -> Curves:
    """Return g2 with its errors."""
    found = kernel.g2
    labels = tuple(f"q = {q:.4g} 1/nm" for q in found.q_values)
    return Curves(
        found.delay_times, found.g2, labels, "delay (s)", "g2", found.g2_err, (True, False)
    )
