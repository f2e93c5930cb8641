"""X-ray absorption spectra: where the edge is, how high it is, and the spectrum normalised to it.

Energies are in eV, strictly increasing; µ is the absorption times thickness, dimensionless, with
any offset. The conventions are those of the field (see e.g. M. Newville, *Fundamentals of XAFS*,
2004): E0 is the maximum of dµ/dE, the pre-edge a line, the post-edge a polynomial whose degree
follows from the width of its range, and the edge step is the distance of the two at E0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beamline.core.errors import SpectrumError

__all__ = ["NormalizedSpectrum", "XAFSProcessor"]

Array = npt.NDArray[np.float64]

_MIN_POINTS = 10
_FINE_STEP = 0.03  # eV, of the grid on which derivatives are taken
_MAX_GRID = 400_000
_BROAD = 4.0  # eV: an edge is wider than a glitch, narrower than a background
_WIDTHS = (0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # eV, of the smoothing that refines E0
_SEARCH = 25.0  # eV either side of the broad maximum


@dataclass(frozen=True, eq=False)
class NormalizedSpectrum:
    """A spectrum on the scale of its edge step.

    Attributes
    ----------
    energy, mu
        What was given, (n,) float64.
    e0
        Edge energy, eV.
    edge_step
        Height of the edge: post-edge minus pre-edge at `e0`, in units of `mu`.
    norm
        (mu - pre) / edge_step, (n,).
    pre, post
        Pre-edge line and post-edge polynomial over all of `energy`, (n,).
    pre_edge, post_edge
        The ranges used, eV relative to `e0`, cut to the data.
    """

    energy: Array
    mu: Array
    e0: float
    edge_step: float
    norm: Array
    pre: Array
    post: Array
    pre_edge: tuple[float, float]
    post_edge: tuple[float, float]


class XAFSProcessor:
    """Analysis of X-ray absorption spectra."""

    def find_edge(self, energy: npt.ArrayLike, mu: npt.ArrayLike) -> float:
        """Energy of the absorption edge: the maximum of dµ/dE.

        The spectrum is interpolated to an even grid and differentiated with a Gaussian that is as
        narrow as point spacing and noise allow. A wider one finds the edge first, so that a glitch
        or noise far from the edge does not decide.

        Parameters
        ----------
        energy
            (n,) eV, strictly increasing, any spacing.
        mu
            (n,) absorption, any scale and offset; it rises at an edge.

        Returns
        -------
        float
            E0 in eV; between grid points as a rule.

        Raises
        ------
        SpectrumError
            If there is no edge, or the arrays are not a spectrum.
        """
        e, m = _checked(energy, mu)
        step = max(_FINE_STEP, float(np.ptp(e)) / _MAX_GRID)
        grid = np.arange(e[0], e[-1], step)
        fine = np.interp(grid, e, m)
        noise, spacing = _noise(e, m), _local_spacing(e, grid)

        broad = _derivative(fine, step, _BROAD + min(4.0, float(np.median(np.diff(e))) / 4.0))
        centre = self._rough_edge(e, m, grid, broad, noise)

        near = np.abs(grid - centre) <= _SEARCH
        window = _window(grid, centre, _SEARCH + 6.0 * _WIDTHS[-1])
        for width in _WIDTHS:
            if width < 0.6 * float(spacing[near].min()):
                continue
            slope = np.full_like(grid, -np.inf)
            slope[window] = _derivative(fine[window], step, width)
            slope[~near] = -np.inf
            peak = int(np.argmax(slope))
            # Noise of a Gaussian derivative of independent points at this spacing.
            blur = noise * np.sqrt(spacing[peak] / (4.0 * np.sqrt(np.pi) * width**3))
            if slope[peak] > 25.0 * blur:
                break
        return _summit(grid, slope, peak)

    def _rough_edge(self, e: Array, m: Array, grid: Array, broad: Array, noise: float) -> float:
        typical = float(np.median(broad))
        for peak in _largest_peaks(broad, 5):
            centre = float(grid[peak])
            rise = broad[peak] - typical
            below = (e >= centre - 60.0) & (e <= centre - 8.0)
            above = (e >= centre + 8.0) & (e <= centre + 60.0)
            count = np.array([np.count_nonzero(below), np.count_nonzero(above)])
            if count.min() < 2 or rise <= 0.0:
                continue
            # A step of height h has a derivative of h / (width √2π), and it lasts.
            height = rise * _BROAD * np.sqrt(2.0 * np.pi)
            background = typical * float(np.median(e[above]) - np.median(e[below]))
            lasting = float(np.median(m[above]) - np.median(m[below])) - background
            scatter = noise * float(np.sqrt((1.0 / count).sum()))
            flat = 1e-6 * max(1.0, float(np.abs(m).max()))
            sharp = _width_at_half(grid, broad, peak, typical) < 50.0
            if sharp and min(lasting, height) > max(6.0 * scatter, flat) and lasting > 0.3 * height:
                return centre
        raise SpectrumError(
            f"no absorption edge between {e[0]:.1f} and {e[-1]:.1f} eV: µ has no lasting step "
            f"above its noise ({noise:.2g}); check the range, the columns and the sign of µ."
        )

    def normalize(
        self,
        energy: npt.ArrayLike,
        mu: npt.ArrayLike,
        e0: float | None = None,
        pre_edge: tuple[float, float] = (-150.0, -30.0),
        post_edge: tuple[float, float] = (50.0, 300.0),
        *,
        degree: int | None = None,
    ) -> NormalizedSpectrum:
        """Subtract the pre-edge line and divide by the edge step.

        Parameters
        ----------
        energy, mu
            (n,) eV, strictly increasing, and absorption.
        e0
            Edge energy, eV; found by `find_edge` if not given.
        pre_edge, post_edge
            Ranges of the two fits, eV relative to `e0`; they are cut to the data.
        degree
            Degree of the post-edge polynomial. By default 2 for a range wider than 350 eV, 1 for
            one wider than 50 eV, else 0: a curve through less would follow the fine structure.

        Raises
        ------
        SpectrumError
            If the arrays are not a spectrum, a range holds too few points or the step is not
            positive.
        """
        e, m = _checked(energy, mu)
        if e0 is None:
            e0 = self.find_edge(e, m)
        elif not (np.isfinite(e0) and e[0] < e0 < e[-1]):
            raise SpectrumError(
                f"e0 = {e0} eV lies outside the spectrum, which reaches from {e[0]:.1f} to "
                f"{e[-1]:.1f} eV."
            )
        x = e - e0
        pre_range, in_pre = _cut(x, pre_edge, 2, "pre-edge")
        line = np.polynomial.Polynomial.fit(x[in_pre], m[in_pre], 1)
        pre = line(x)
        if degree is None:
            width = min(post_edge[1], float(x[-1])) - post_edge[0]
            degree = 2 if width > 350.0 else 1 if width > 50.0 else 0
        post_range, in_post = _cut(x, post_edge, degree + 1, "post-edge")
        above = np.polynomial.Polynomial.fit(x[in_post], (m - pre)[in_post], degree)
        edge_step = float(above(0.0))
        if not edge_step > 1e-9 * max(1.0, float(np.abs(m).max())):
            raise SpectrumError(
                f"the edge step at {e0:.1f} eV is {edge_step:.3g}, expected a positive one; check "
                "e0, the fit ranges and the sign of µ."
            )
        return NormalizedSpectrum(
            energy=e,
            mu=m,
            e0=float(e0),
            edge_step=edge_step,
            norm=(m - pre) / edge_step,
            pre=pre,
            post=pre + above(x),
            pre_edge=pre_range,
            post_edge=post_range,
        )


def _checked(energy: npt.ArrayLike, mu: npt.ArrayLike) -> tuple[Array, Array]:
    try:
        e, m = np.asarray(energy, dtype=np.float64), np.asarray(mu, dtype=np.float64)
    except (TypeError, ValueError):
        raise SpectrumError("energy and µ must be arrays of real numbers.") from None
    if e.ndim != 1 or e.shape != m.shape:
        raise SpectrumError(
            f"energy and µ must be one-dimensional and equally long, found shapes {e.shape} and "
            f"{m.shape}."
        )
    if len(e) < _MIN_POINTS:
        raise SpectrumError(f"a spectrum needs at least {_MIN_POINTS} points, found {len(e)}.")
    for name, values in (("energy", e), ("µ", m)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise SpectrumError(f"{name} is {values[bad[0]]} at point {bad[0]}, expected a number.")
    steps = np.diff(e)
    if np.any(steps <= 0.0):
        i = int(np.argmax(steps <= 0.0))
        what = "twice the same" if steps[i] == 0.0 else "unsorted"
        raise SpectrumError(
            f"energies are {what} at points {i} and {i + 1} ({e[i]} and {e[i + 1]} eV): sort them "
            "and merge duplicates first."
        )
    return e, m


def _noise(e: Array, m: Array) -> float:
    """Estimate point-to-point noise (standard deviation) from second differences, on any grid."""
    a, b = np.diff(e)[:-1], np.diff(e)[1:]
    # Deviation of each point from the line through its neighbours, whose variance is known.
    residual = m[1:-1] - (m[:-2] * b + m[2:] * a) / (a + b)
    residual /= np.sqrt(1.0 + (a**2 + b**2) / (a + b) ** 2)
    return float(1.4826 * np.median(np.abs(residual)))


def _local_spacing(e: Array, grid: Array) -> Array:
    spacing = np.diff(e)
    return spacing[np.clip(np.searchsorted(e, grid, side="right") - 1, 0, len(spacing) - 1)]


def _derivative(values: Array, step: float, width: float) -> Array:
    from scipy.ndimage import gaussian_filter1d

    slope = gaussian_filter1d(values, width / step, order=1, mode="nearest", truncate=5.0) / step
    return np.asarray(slope, dtype=np.float64)


def _window(grid: Array, centre: float, half: float) -> slice:
    low, high = np.searchsorted(grid, [centre - half, centre + half])
    return slice(int(low), int(high))


def _largest_peaks(values: Array, count: int) -> list[int]:
    inner = np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] > values[2:])) + 1
    return [int(i) for i in inner[np.argsort(values[inner])[::-1][:count]]]


def _width_at_half(grid: Array, values: Array, peak: int, base: float) -> float:
    low = values < 0.5 * (values[peak] + base)
    left = np.flatnonzero(low[:peak])
    right = np.flatnonzero(low[peak:])
    if not (len(left) and len(right)):
        return float("inf")
    return float(grid[peak + right[0]] - grid[left[-1]])


def _summit(grid: Array, values: Array, peak: int) -> float:
    """Position of a maximum: of the parabola through all that is near it in height."""
    low = values < 0.9 * values[peak]
    left, right = np.flatnonzero(low[:peak]), np.flatnonzero(low[peak:])
    start = int(left[-1]) + 1 if len(left) else 0
    stop = peak + int(right[0]) if len(right) else len(grid)
    if stop - start < 4:
        return float(grid[peak])
    x = grid[start:stop] - grid[peak]
    bend, slope, _ = np.polyfit(x, values[start:stop] / values[peak], 2)
    if not bend < 0.0:
        return float(grid[peak])
    return float(grid[peak] + np.clip(-0.5 * slope / bend, x[0], x[-1]))


def _cut(
    x: Array, wanted: tuple[float, float], least: int, name: str
) -> tuple[tuple[float, float], npt.NDArray[np.bool_]]:
    low, high = float(wanted[0]), float(wanted[1])
    if not low < high:
        raise SpectrumError(
            f"the {name} range must be (lower, upper) in eV relative to e0, found {wanted}."
        )
    inside = (x >= low) & (x <= high)
    if np.count_nonzero(inside) < least:
        raise SpectrumError(
            f"the {name} range {low:g} to {high:g} eV holds {np.count_nonzero(inside)} points, "
            f"expected at least {least}: the spectrum reaches from {x[0]:.1f} to {x[-1]:.1f} eV "
            "relative to e0."
        )
    return (float(x[inside][0]), float(x[inside][-1])), inside
