r"""The diffusion constant from g2: Γ = D q².

Speckle of particles that diffuse has g₂ = b + β exp(−2Γτ) at one q. The model here has what a
measurement makes of it:

- a multi-tau correlator sums 2^L frames at level L before it correlates them; for n = 2^L frames a
  time t apart the curve is larger there by (sinh nΓt / (n sinh Γt))², which is 1 at level 0;
- g₂ of a dynamic bin is the mean over its static bins, each with a q of its own.

The exposure time blurs all lags alike, into β.

One D is fitted to all bins at once by weighted least squares, with β and b of each bin: they are
linear, so only D is searched for. All lags of a bin weigh alike. They are correlated with each
other; the errors come from their whole covariance (block jackknife). Γ of each bin is fitted in
the same way, to be seen and to judge D by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs.adapters import host_array
from beamline.xpcs.correlation import Correlation, lag_grid
from beamline.xpcs.geometry import q_values
from beamline.xpcs.partitions import QPartition

__all__ = ["Diffusion", "measure_diffusion", "relaxation"]

Array = npt.NDArray[np.float64]

#: Γτ of the longest lag and of the shortest one, beyond which there is nothing to see of a decay.
_SLOWEST, _FASTEST = 0.05, 5.0
#: Times its error that the contrast of a bin must be for its Γ to be given.
_SIGNIFICANT = 5.0


@dataclass(frozen=True, eq=False)
class Diffusion:
    """D of all bins together, and Γ of each.

    Attributes
    ----------
    D, D_err
        Å²/s; NaN where nothing can be fitted. The error is enlarged where Γ of the bins scatter
        about D q² by more than their errors (χ²/ν > 1).
    q
        (n_dynamic,) Å⁻¹: root of the mean q² of each bin (exact q).
    gamma, gamma_err
        (n_dynamic,) 1/s; NaN where a bin has too little contrast, or does not decay within the
        lags.
    contrast, baseline
        (n_dynamic,) β and b, with D.
    chi_square, n_bins
        Of Γ = D q² for the bins that have Γ, and their number.
    """

    D: float
    D_err: float
    q: Array
    gamma: Array
    gamma_err: Array
    contrast: Array
    baseline: Array
    chi_square: float
    n_bins: int

    def fields(self) -> dict[str, Any]:
        """Return everything by name, numbers with units as (value, unit): for a result file."""
        return {
            "model": "g2 = b + beta exp(-2 D q^2 tau)",
            "D": (self.D, "angstrom^2/s"),
            "D_err": (self.D_err, "angstrom^2/s"),
            "q": (self.q, "1/angstrom"),
            "gamma": (self.gamma, "1/s"),
            "gamma_err": (self.gamma_err, "1/s"),
            "contrast": (self.contrast, ""),
            "baseline": (self.baseline, ""),
            "chi_square": self.chi_square,
            "n_bins": self.n_bins,
        }


def relaxation(
    gamma: float | Array,
    lags: npt.NDArray[np.int64],
    levels: npt.NDArray[np.int64],
    frame_time: float,
) -> Array:
    """Return exp(−2Γτ) as a multi-tau correlator sees it.

    Parameters
    ----------
    gamma
        Γ, 1/s: a number or (m, 1).
    lags, levels
        (n_delay,): lags in frames, and the levels that they belong to.
    frame_time
        s.
    """
    n = 2.0**levels
    x = np.maximum(host_array(gamma, np.float64) * frame_time, 1e-300)
    # (sinh nx / sinh x)² e^(−2 lag x), in powers that can't overflow: a lag is 4n at least.
    blur = (np.expm1(-2.0 * n * x) / (n * np.expm1(-2.0 * x))) ** 2
    blurred: Array = np.exp(-2.0 * x * (lags - n + 1.0)) * blur
    return blurred


@dataclass(frozen=True, eq=False)
class _Curve:
    """g2 of one bin where it is known.

    Attributes
    ----------
    ratios
        (n_static, 1) q² of the static bins over that of the dynamic bin.
    covariance
        In units of the errors.
    """

    q2: float
    ratios: Array
    lags: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    values: Array
    errors: Array
    covariance: Array
    frame_time: float
    baseline: float | None

    def shape(self, gamma: float) -> Array:
        """Decay, mean over the static bins, in units of the errors."""
        rates = gamma * self.ratios
        curves = relaxation(rates, self.lags, self.levels, self.frame_time)
        mean: Array = curves.mean(axis=0) / self.errors
        return mean

    def linear(self, gamma: float) -> tuple[Array, Array, Array]:
        """Return the linear parameters (β, b) at a Γ, the residuals and the basis."""
        flat = 1.0 / self.errors
        basis = self.shape(gamma)[:, None]
        measured = self.values * flat
        if self.baseline is None:
            basis = np.column_stack([basis, flat])
        else:
            measured = measured - self.baseline * flat
        found = np.linalg.lstsq(basis, measured, rcond=None)[0]
        residuals: Array = measured - basis @ found
        return found.astype(np.float64), residuals, basis

    def slope(self, gamma: float) -> Array:
        """Return the derivative of the curve by ln Γ, without what β and b can make up for."""
        found, _, basis = self.linear(gamma)
        step = 1e-4
        slope = found[0] * (self.shape(gamma * (1 + step)) - self.shape(gamma / (1 + step)))
        slope /= 2.0 * np.log1p(step)
        left: Array = slope - basis @ np.linalg.lstsq(basis, slope, rcond=None)[0]
        return left

    def contrast_error(self, gamma: float) -> float:
        basis = self.linear(gamma)[2]
        solve = np.linalg.pinv(basis)
        spread = solve @ self.covariance @ solve.T
        return float(np.sqrt(max(spread[0, 0], 0.0)))


def measure_diffusion(
    partition: QPartition,
    correlation: Correlation,
    frame_time: float,
    *,
    intensity: Array | None = None,
    baseline: float | None = None,
) -> Diffusion:
    """Fit D to all bins, and Γ to each.

    Parameters
    ----------
    partition
        With its geometry.
    correlation
        g2 and its covariance.
    frame_time
        s.
    intensity
        (H, W) mean counts of the pixels: bright ones weigh more in g2, by their square.
    baseline
        Keep b at this; None fits it in each bin.
    """
    n = partition.dynamic.n_labels
    squares = _mean_square_q(partition, intensity)
    of = partition.static_to_dynamic - 1
    mean_squares = np.bincount(of, squares, n) / np.bincount(of, minlength=n)
    gamma, gamma_err, contrast, offset = (np.full(n, np.nan) for _ in range(4))
    curves: dict[int, _Curve] = {}
    for k in range(n):
        curve = _curve(correlation, k, squares[of == k], mean_squares[k], frame_time, baseline)
        if curve is not None:
            curves[k] = curve
            found = _search([curve], [1.0])
            if found is not None and _is_significant(curve, found[0]):
                gamma[k], gamma_err[k] = found
    together = _search(list(curves.values()), [curve.q2 for curve in curves.values()])
    constant, error = together or (np.nan, np.nan)
    if together is not None:
        for k, curve in curves.items():
            linear = curve.linear(constant * curve.q2)[0]
            contrast[k] = linear[0]
            offset[k] = linear[1] if baseline is None else baseline
    good = np.isfinite(gamma)
    pulls = (gamma[good] - constant * mean_squares[good]) / gamma_err[good]
    if len(pulls) > 1:
        error *= max(1.0, float(np.sqrt(np.sum(pulls**2) / (len(pulls) - 1))))
    return Diffusion(
        D=constant,
        D_err=error,
        q=np.sqrt(mean_squares),
        gamma=gamma,
        gamma_err=gamma_err,
        contrast=contrast,
        baseline=offset,
        chi_square=float(np.sum(pulls**2)),
        n_bins=int(np.count_nonzero(good)),
    )


def _mean_square_q(partition: QPartition, intensity: Array | None) -> Array:
    """Return the mean q² of each static bin, Å⁻², as g2 weighs its pixels."""
    assert partition.metadata is not None  # noqa: S101  (`XPCSResult` has looked)
    squares = q_values(partition.metadata, exact=True, unit="A^-1").ravel() ** 2
    labels, number = partition.static.roi_map.ravel(), partition.static.n_labels + 1

    def mean(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):
            total = np.bincount(labels, weights * squares, number)
            found: Array = (total / np.bincount(labels, weights, number))[1:]
        return found

    plain = mean(np.ones(labels.size))
    if intensity is None:
        return plain
    weighted = mean(np.where(labels > 0, intensity.ravel(), 0.0) ** 2)
    # A bin without light has no weights, and no g2 either.
    return np.where(np.isfinite(weighted), weighted, plain)


def _curve(
    correlation: Correlation,
    k: int,
    squares: Array,
    mean_square: float,
    frame_time: float,
    baseline: float | None,
) -> _Curve | None:
    errors = correlation.g2_err_block[:, k]
    good = np.isfinite(correlation.g2[:, k]) & np.isfinite(errors) & (errors > 0)
    if np.count_nonzero(good) < 5:
        return None
    grid, level_of = lag_grid(24)
    # Alike for all lags of a bin: errors from few blocks are uncertain themselves, and weights that
    # follow them make D scatter more (by a fifth, in simulations) than any of them says.
    lags, errors = correlation.lags[good], np.full(np.count_nonzero(good), np.median(errors[good]))
    return _Curve(
        q2=mean_square,
        ratios=(squares / mean_square)[:, None],
        lags=lags,
        levels=level_of[np.searchsorted(grid, lags)],
        values=correlation.g2[good, k],
        errors=errors,
        covariance=correlation.covariance[k][np.ix_(good, good)] / np.outer(errors, errors),
        frame_time=frame_time,
        baseline=baseline,
    )


def _search(curves: Sequence[_Curve], factors: Sequence[float]) -> tuple[float, float] | None:
    """Find the number that, times the factor of each curve, is its Γ; return it and its error."""
    from scipy.optimize import minimize_scalar

    if not curves:
        return None
    pairs = list(zip(curves, factors, strict=True))

    def misfit(logarithm: float) -> float:
        number = float(np.exp(logarithm))
        return float(sum(np.sum(c.linear(number * f)[1] ** 2) for c, f in pairs))

    low = min(_SLOWEST / (c.lags[-1] * c.frame_time * f) for c, f in pairs)
    high = max(_FASTEST / (c.lags[0] * c.frame_time * f) for c, f in pairs)
    grid = np.linspace(np.log(low), np.log(high), 40)
    values = [misfit(float(x)) for x in grid]
    best = int(np.argmin(values))
    if best in (0, len(grid) - 1):
        return None
    found = minimize_scalar(
        misfit, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-7}
    )
    number = float(np.exp(found.x))
    information = score = 0.0
    for curve, factor in pairs:
        slope = curve.slope(number * factor)
        information += float(slope @ slope)
        score += float(slope @ curve.covariance @ slope)
    if not information > 0 or not score > 0:
        return None
    return number, number * float(np.sqrt(score)) / information


def _is_significant(curve: _Curve, gamma: float) -> bool:
    contrast = float(curve.linear(gamma)[0][0])
    return contrast > _SIGNIFICANT * curve.contrast_error(gamma)
