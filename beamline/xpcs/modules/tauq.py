"""The module of relaxation times over q."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]


def compute(kernel: ViewerKernel) -> Curves:
    """Return τ of a·exp(−2t/τ) + d for each dynamic bin; NaN where none fits."""
    found = kernel.g2
    fits = [
        _relaxation(found.delay_times, g2, error)
        for g2, error in zip(found.g2, found.g2_err, strict=True)
    ]
    tau, error = np.array(fits).T
    return Curves(
        np.array(list(found.q_values)), tau[None], ("τ",), "q (1/nm)", "τ (s)", error[None],
        (True, True),
    )  # fmt: skip


def _relaxation(
    delays: npt.NDArray[np.float64], g2: npt.NDArray[np.float64], error: npt.NDArray[np.float64]
) -> tuple[float, float]:
    from scipy.optimize import curve_fit

    good = np.isfinite(g2) & np.isfinite(error) & (error > 0) & (delays > 0)
    if np.count_nonzero(good) < 4:
        return np.nan, np.nan
    x, y, sigma = delays[good], g2[good], error[good]

    def model(
        t: npt.NDArray[np.float64], a: float, rate: float, d: float
    ) -> npt.NDArray[np.float64]:
        return a * np.exp(-2.0 * t * np.exp(rate)) + d

    begin = (max(y[0] - y[-1], 1e-3), -float(np.log(np.median(x))), y[-1])
    try:
        values, covariance = curve_fit(model, x, y, begin, sigma, absolute_sigma=True)
    except RuntimeError:
        return np.nan, np.nan
    tau = float(np.exp(-values[1]))
    return tau, tau * float(np.sqrt(covariance[1, 1]))
