"""The module of relaxation times over q."""

from __future__ import annotations

import numpy as np

from beamline.core.errors import CorrelationError
from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]

#: A fit of three parameters needs more lags than that.
_LEAST = 4


def compute(kernel: ViewerKernel) -> Curves:
    """Return τ of a·exp(−2t/τ) + d for each dynamic bin; NaN where none fits."""
    from beamline.xpcs.fits import fit_single

    found = kernel.g2
    times = np.full((2, len(found.q_values)), np.nan)
    for number, (g2, error) in enumerate(zip(found.g2, found.g2_err, strict=True)):
        good = np.isfinite(g2) & np.isfinite(error) & (error > 0) & (found.delay_times > 0)
        if np.count_nonzero(good) < _LEAST:
            continue
        try:
            fit = fit_single(found.delay_times[good], g2[good], error[good], exponent=1.0)
        except CorrelationError:
            continue
        times[:, number] = fit.values["tau"], fit.errors["tau"]
    tau, error = times
    return Curves(
        np.array(list(found.q_values)),
        tau[None],
        ("τ",),
        "q (1/nm)",
        "τ (s)",
        error[None],
        (True, True),
    )
