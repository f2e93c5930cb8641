"""Fits of correlation functions: relaxation times, and how they depend on q.

- single: g2(t) = a·exp[−2(t/τ)^c] + d
- double: g2(t) = a·{f·exp[−(t/τ₁)^c₁] + (1 − f)·exp[−(t/τ₂)^c₂]}² + d
- diffusion: Γ = 1/τ = D·q²
- power: τ = a·q^b

Lags of one correlation function are correlated, because they are made of the same speckles. So the
least squares weigh each lag by its own error, and the uncertainties follow from the covariance
among the lags where it is given ("sandwich" estimate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.adapters import host_array
from beamline.xpcs.correlation import Correlation

__all__ = ["Fit", "fit_correlation", "fit_diffusion", "fit_double", "fit_power", "fit_single"]

Array = npt.NDArray[np.float64]

#: A triangle of unit variance, by three points: exact up to the fifth moment.
_NODE = np.sqrt(2.4)
_WEIGHT = 1.0 / 4.8
_EXPONENTS = (0.2, 3.0)


@dataclass(frozen=True, eq=False)
class Fit:
    """Parameters of a model, with uncertainties.

    Attributes
    ----------
    values, errors
        By name; the error (one standard deviation) of a fixed parameter is 0.
    covariance
        (n, n) among `free`.
    free
        Names of the parameters that were fitted.
    chi_square, dof
        Sum of squared residuals in units of their errors, and its degrees of freedom. Correlated
        lags make it smaller or larger than `dof`.
    curve
        The model at the points that were fitted.
    """

    values: Mapping[str, float]
    errors: Mapping[str, float]
    covariance: Array
    free: tuple[str, ...]
    chi_square: float
    dof: int
    curve: Array


def fit_single(
    delays: npt.ArrayLike,
    g2: npt.ArrayLike,
    errors: npt.ArrayLike | None = None,
    *,
    covariance: npt.ArrayLike | None = None,
    spread: npt.ArrayLike | None = None,
    exponent: float | None = None,
    baseline: float | None = None,
) -> Fit:
    """Fit a·exp[−2(t/τ)^c] + d; parameters `a`, `tau` (s), `c`, `d`.

    Parameters
    ----------
    delays, g2
        (n,) lags in s, and the correlation function.
    errors
        (n,) standard deviations. Without them all lags weigh the same, and the uncertainties come
        from the scatter about the fit.
    covariance
        (n, n) among the lags, for the uncertainties.
    spread
        (n,) standard deviation of the lags averaged in each, s, as `Correlation.spread`.
    exponent, baseline
        Values of c and d, if they are known.

    Raises
    ------
    CorrelationError
        If there are fewer points than parameters, or points are no numbers.
    """
    t, y = _points(delays, g2)
    level, height, tau = _start(t, y)
    names = ("a", "tau", "c", "d")
    starts = [
        {"a": height, "tau": tau * factor, "c": c, "d": level}
        for factor in (1.0, 0.3, 3.0)
        for c in (1.0, 0.6)
    ]
    bounds = {
        "a": (0.0, 10.0 * height + 1e-6),
        "tau": (1e-2 * float(t[0]), 1e3 * float(t[-1])),
        "c": _EXPONENTS,
        "d": (level - 2.0 * height - 0.1, level + 2.0 * height + 0.1),
    }

    def model(x: Array, p: Mapping[str, float]) -> Array:
        return host_array(p["a"] * np.exp(-2.0 * (x / p["tau"]) ** p["c"]) + p["d"])

    return _fit(
        model, names, starts, bounds, {"c": exponent, "d": baseline}, t, y,
        errors, covariance, spread, logarithmic=("tau",),
    )  # fmt: skip


def fit_double(
    delays: npt.ArrayLike,
    g2: npt.ArrayLike,
    errors: npt.ArrayLike | None = None,
    *,
    covariance: npt.ArrayLike | None = None,
    spread: npt.ArrayLike | None = None,
    exponents: tuple[float | None, float | None] = (1.0, 1.0),
    baseline: float | None = None,
) -> Fit:
    """Fit a·{f·exp[−(t/τ₁)^c₁] + (1 − f)·exp[−(t/τ₂)^c₂]}² + d, with τ₁ < τ₂.

    Parameters `a`, `f`, `tau1`, `tau2` (s), `c1`, `c2`, `d`; the arguments are those of
    `fit_single`, with two exponents that are fixed unless they are None.
    """
    t, y = _points(delays, g2)
    level, height, tau = _start(t, y)
    names = ("a", "f", "tau1", "tau2", "c1", "c2", "d")
    starts = [
        {"a": height, "f": f, "tau1": tau / ratio, "tau2": tau * ratio, "c1": 1.0, "c2": 1.0,
         "d": level}
        for ratio in (2.0, 6.0, 20.0)
        for f in (0.3, 0.7)
    ]  # fmt: skip
    times = (1e-2 * float(t[0]), 1e3 * float(t[-1]))
    bounds = {
        "a": (0.0, 10.0 * height + 1e-6), "f": (0.0, 1.0), "tau1": times, "tau2": times,
        "c1": _EXPONENTS, "c2": _EXPONENTS,
        "d": (level - 2.0 * height - 0.1, level + 2.0 * height + 0.1),
    }  # fmt: skip

    def model(x: Array, p: Mapping[str, float]) -> Array:
        fast = np.exp(-((x / p["tau1"]) ** p["c1"]))
        slow = np.exp(-((x / p["tau2"]) ** p["c2"]))
        return host_array(p["a"] * (p["f"] * fast + (1.0 - p["f"]) * slow) ** 2 + p["d"])

    fixed = {"c1": exponents[0], "c2": exponents[1], "d": baseline}
    fit = _fit(
        model, names, starts, bounds, fixed, t, y, errors, covariance, spread,
        logarithmic=("tau1", "tau2"),
    )  # fmt: skip
    return fit if fit.values["tau1"] <= fit.values["tau2"] else _exchanged(fit)


def fit_correlation(
    correlation: Correlation, *, exponent: float | None = None, baseline: float | None = None
) -> list[Fit | None]:
    """Fit the single exponential to each dynamic bin of a result, with its block errors.

    Returns
    -------
    list
        One fit per dynamic bin; None where the bin has too few lags with light in them.
    """
    fits: list[Fit | None] = []
    for dynamic in range(correlation.g2.shape[1]):
        error = correlation.g2_err_block[:, dynamic]
        good = np.isfinite(correlation.g2[:, dynamic]) & np.isfinite(error) & (error > 0.0)
        try:
            fits.append(
                fit_single(
                    correlation.delays[good],
                    correlation.g2[good, dynamic],
                    error[good],
                    covariance=correlation.covariance[dynamic][np.ix_(good, good)],
                    spread=correlation.spread[good],
                    exponent=exponent,
                    baseline=baseline,
                )
            )
        except CorrelationError:
            fits.append(None)
    return fits


def fit_diffusion(
    q: npt.ArrayLike, tau: npt.ArrayLike, tau_err: npt.ArrayLike | None = None
) -> Fit:
    """Fit Γ = 1/τ = D·q²; parameter `D`, in the square of q's length unit per s.

    Relative errors weigh, so that a τ that came out short does not also weigh less.

    Parameters
    ----------
    q, tau
        (n,) momentum transfer, and relaxation time in s.
    tau_err
        (n,) standard deviations of τ; without them the scatter tells.
    """
    x, y, relative = _logarithms(q, tau, tau_err)
    return _straight(x, -y, relative, slope=2.0, names=("D",))


def fit_power(q: npt.ArrayLike, tau: npt.ArrayLike, tau_err: npt.ArrayLike | None = None) -> Fit:
    """Fit τ = a·q^b; parameters `a` and `b`. The arguments are those of `fit_diffusion`."""
    x, y, relative = _logarithms(q, tau, tau_err)
    return _straight(x, y, relative, slope=None, names=("a", "b"))


def _points(delays: npt.ArrayLike, g2: npt.ArrayLike) -> tuple[Array, Array]:
    t, y = host_array(delays, dtype=np.float64), host_array(g2, dtype=np.float64)
    if t.ndim != 1 or t.shape != y.shape:
        raise CorrelationError(
            f"delays and g2 must be one-dimensional and equally long, found shapes {t.shape} and "
            f"{y.shape}."
        )
    if len(t) < 4:
        raise CorrelationError(f"a correlation function of {len(t)} lags, expected 4 or more.")
    bad = np.flatnonzero(~(np.isfinite(t) & np.isfinite(y) & (t > 0.0)))
    if len(bad):
        raise CorrelationError(
            f"lag {bad[0]} is g2({t[bad[0]]} s) = {y[bad[0]]}, expected numbers and positive lags: "
            "leave it out."
        )
    return t, y


def _start(t: Array, y: Array) -> tuple[float, float, float]:
    """Level, height and time of a decay: from medians, which single bad lags don't move."""
    few = max(2, len(t) // 8)
    level = float(np.median(y[-few:]))
    height = max(float(np.median(y[:few])) - level, 1e-6)
    smooth = np.array([np.median(y[max(0, i - 1) : i + 2]) for i in range(len(y))])
    below = np.flatnonzero(smooth < level + height * np.exp(-2.0))
    return level, height, float(t[below[0]] if len(below) else t[-1])


def _fit(
    model: Callable[[Array, Mapping[str, float]], Array],
    names: tuple[str, ...],
    starts: list[dict[str, float]],
    bounds: Mapping[str, tuple[float, float]],
    given: Mapping[str, float | None],
    t: Array,
    y: Array,
    errors: npt.ArrayLike | None,
    covariance: npt.ArrayLike | None,
    spread: npt.ArrayLike | None,
    logarithmic: tuple[str, ...],
) -> Fit:
    from scipy.optimize import least_squares

    sigma = _sigma(errors, y)
    width = np.zeros_like(t) if spread is None else host_array(spread, dtype=np.float64)
    fixed = {name: value for name, value in given.items() if value is not None}
    free = tuple(name for name in names if name not in fixed)
    if len(t) < len(free):
        raise CorrelationError(f"{len(free)} parameters, but {len(t)} lags: fix some, or fit less.")

    def scaled(name: str, value: float) -> float:
        return float(np.log(value)) if name in logarithmic else float(value)

    def parameters(vector: Array) -> dict[str, float]:
        values = (
            float(np.exp(value)) if name in logarithmic else float(value)
            for name, value in zip(free, vector, strict=True)
        )
        return {**dict(zip(free, values, strict=True)), **fixed}

    def curve(p: Mapping[str, float]) -> Array:
        step = _NODE * width
        return host_array(
            (1.0 - 2.0 * _WEIGHT) * model(t, p)
            + _WEIGHT * (model(t + step, p) + model(np.maximum(t - step, 0.0), p))
        )

    low = [scaled(name, bounds[name][0]) for name in free]
    high = [scaled(name, bounds[name][1]) for name in free]
    dof = len(t) - len(free)
    best: Any = None
    for start in starts:
        first = np.clip([scaled(name, start[name]) for name in free], low, high)
        found = least_squares(
            lambda v: (curve(parameters(v)) - y) / sigma,
            np.clip(first, np.add(low, 1e-9), np.subtract(high, 1e-9)),
            bounds=(low, high),
            x_scale="jac",
        )
        if best is None or found.cost < best.cost * (1.0 - 1e-9):
            best = found
        if errors is not None and 2.0 * best.cost < 1.5 * dof:
            break
    inverse = np.linalg.pinv(best.jac.T @ best.jac)
    if covariance is not None:
        scatter = host_array(covariance, dtype=np.float64) / np.outer(sigma, sigma)
        lever = inverse @ best.jac.T
        inverse = lever @ scatter @ lever.T
    elif errors is None:
        inverse = inverse * (2.0 * best.cost / max(dof, 1))
    values = parameters(best.x)
    # From the logarithm of a parameter to the parameter.
    scale = np.array([values[name] if name in logarithmic else 1.0 for name in free])
    matrix = inverse * np.outer(scale, scale)
    sizes = dict(zip(free, np.sqrt(np.diagonal(matrix)), strict=True))
    return Fit(
        values={name: values[name] for name in names},
        errors={name: float(sizes.get(name, 0.0)) for name in names},
        covariance=matrix,
        free=free,
        chi_square=2.0 * float(best.cost),
        dof=dof,
        curve=curve(values),
    )


def _sigma(errors: npt.ArrayLike | None, y: Array) -> Array:
    if errors is None:
        return np.ones_like(y)
    sigma = host_array(errors, dtype=np.float64)
    if sigma.shape != y.shape or not np.all(np.isfinite(sigma) & (sigma > 0.0)):
        raise CorrelationError(
            f"errors of shape {sigma.shape} for values of shape {y.shape}, expected as many "
            "positive numbers."
        )
    return sigma


def _exchanged(fit: Fit) -> Fit:
    """Call the faster decay the first one."""
    other = {"tau1": "tau2", "tau2": "tau1", "c1": "c2", "c2": "c1"}
    values = {name: fit.values[other.get(name, name)] for name in fit.values}
    values["f"] = 1.0 - fit.values["f"]
    errors = {name: fit.errors[other.get(name, name)] for name in fit.errors}
    free = tuple(other.get(name, name) for name in fit.free)
    sign = np.array([-1.0 if name == "f" else 1.0 for name in free])
    return Fit(
        values, errors, fit.covariance * np.outer(sign, sign), free,
        fit.chi_square, fit.dof, fit.curve,
    )  # fmt: skip


def _logarithms(
    q: npt.ArrayLike, tau: npt.ArrayLike, tau_err: npt.ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    x, y = host_array(q, dtype=np.float64), host_array(tau, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise CorrelationError(
            f"q and tau must be one-dimensional and equally long, found shapes {x.shape} and "
            f"{y.shape}."
        )
    if not np.all(np.isfinite(x) & np.isfinite(y) & (x > 0.0) & (y > 0.0)):
        raise CorrelationError("q and tau must be positive numbers: leave the others out.")
    return np.log(x), np.log(y), None if tau_err is None else _sigma(tau_err, y) / y


def _straight(
    x: Array,
    y: Array,
    sigma: Array | None,
    *,
    slope: float | None,
    names: tuple[str, ...],
) -> Fit:
    """Fit y = log(first parameter) + slope·x by least squares."""
    error = np.ones_like(y) if sigma is None else sigma
    columns = [np.ones_like(x)] if slope is not None else [np.ones_like(x), x]
    if len(x) < len(columns):
        raise CorrelationError(f"{len(x)} values of q for {len(columns)} parameters.")
    matrix = np.stack(columns, axis=1) / error[:, None]
    target = (y - (slope or 0.0) * x) / error
    covariance = np.linalg.pinv(matrix.T @ matrix)
    solution = covariance @ matrix.T @ target
    chi_square = float(((matrix @ solution - target) ** 2).sum())
    dof = len(x) - len(columns)
    if sigma is None:
        covariance = covariance * (chi_square / dof if dof else np.nan)
    values = [float(np.exp(solution[0])), *(float(v) for v in solution[1:])]
    scale = np.array([values[0], *(1.0 for _ in values[1:])])
    covariance = covariance * np.outer(scale, scale)
    return Fit(
        values=dict(zip(names, values, strict=True)),
        errors=dict(zip(names, (float(e) for e in np.sqrt(np.diagonal(covariance))), strict=True)),
        covariance=host_array(covariance, dtype=np.float64),
        free=names,
        chi_square=chi_square,
        dof=dof,
        curve=values[0] * np.exp(x) ** (slope if slope is not None else values[1]),
    )
