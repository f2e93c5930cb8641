"""X-ray absorption spectra: edge energy and height, the normalised spectrum, χ(k) and χ(R).

Energies are in eV, strictly increasing; µ is the absorption times thickness, dimensionless, with
any offset. The conventions are those of the field (see e.g. M. Newville, *Fundamentals of XAFS*,
2004): E0 is the maximum of dµ/dE, the pre-edge a line, the post-edge a polynomial whose degree
follows from the width of its range, and the edge step is the distance of the two at E0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beamline.analysis.exafs import WINDOWS, Window, remove_background, transform
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

    def _edge(self, e: Array, m: Array, e0: float | None) -> float:
        if e0 is None:
            return self.find_edge(e, m)
        if not (np.isfinite(e0) and e[0] < e0 < e[-1]):
            raise SpectrumError(
                f"e0 = {e0} eV lies outside the spectrum, which reaches from {e[0]:.1f} to "
                f"{e[-1]:.1f} eV."
            )
        return float(e0)

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
        e0 = self._edge(e, m, e0)
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
            e0=e0,
            edge_step=edge_step,
            norm=(m - pre) / edge_step,
            pre=pre,
            post=pre + above(x),
            pre_edge=pre_range,
            post_edge=post_range,
        )

    def extract_chi(
        self,
        energy: npt.ArrayLike,
        mu: npt.ArrayLike,
        e0: float | None = None,
        rbkg: float = 1.0,
        *,
        edge_step: float | None = None,
        kweight: int = 2,
    ) -> tuple[Array, Array]:
        """Subtract a spline background by the AUTOBK criterion and normalise to the edge step.

        Parameters
        ----------
        energy, mu
            (n,) eV, strictly increasing, and absorption.
        e0
            Edge energy, eV, where k = 0; found by `find_edge` if not given.
        rbkg
            Distance in Å below which the background takes all signal; the first shell must lie
            beyond it.
        edge_step
            By default from `normalize`, with a post-edge fit from 100 eV above the edge to the end.
        kweight
            Power of k in the criterion.

        Returns
        -------
        k, chi
            Wave numbers, Å⁻¹, 0, 0.05, … to the end of the spectrum, and χ(k), (m,).

        Raises
        ------
        SpectrumError
            If the arrays are not a spectrum with fine structure to evaluate.
        """
        e, m = _checked(energy, mu)
        if not (np.isfinite(rbkg) and 0.0 < rbkg <= 5.0):
            raise SpectrumError(f"rbkg must lie between 0 and 5 Å, found {rbkg}.")
        e0 = self._edge(e, m, e0)
        if edge_step is None:
            end = float(e[-1] - e0)
            edge_step = self.normalize(e, m, e0, post_edge=(min(100.0, end / 2.0), end)).edge_step
        elif not (np.isfinite(edge_step) and edge_step > 0.0):
            raise SpectrumError(f"edge_step must be greater than 0, found {edge_step}.")
        return remove_background(e, m, e0, edge_step, rbkg, kweight)

    def fourier_transform(
        self,
        k: npt.ArrayLike,
        chi: npt.ArrayLike,
        kmin: float = 2.0,
        kmax: float = 12.0,
        kweight: float = 2,
        window: Window = "hanning",
        dk: float = 1.0,
    ) -> tuple[Array, Array]:
        """Transform χ(k) to distances.

        Distances are those of scattering paths without correction of the phase: the first shell
        of copper, at 2.55 Å, appears at 2.24 Å.

        Parameters
        ----------
        k, chi
            (n,) Å⁻¹, not negative and strictly increasing, and χ(k).
        kmin, kmax
            Centres of the window's flanks, Å⁻¹.
        kweight
            Power of k by which χ is weighted.
        window
            "hanning", "parzen", "welch", "sine" or "kaiser".
        dk
            Width of the flanks, Å⁻¹ (the parameter β of a Kaiser window).

        Returns
        -------
        r, chi_r
            Distances, Å, every π/(N δk) = π/(2048 · 0.05 Å⁻¹) up to 10 Å, and |χ(R)| in
            Å⁻⁽ᵏʷᵉⁱᵍʰᵗ⁺¹⁾.

        Raises
        ------
        SpectrumError
            If `k` and `chi` are no fine structure, or do not reach to `kmax`.
        """
        x, y = _checked(k, chi, ("k", "χ"))
        if x[0] < 0.0:
            raise SpectrumError(f"k begins at {x[0]:g} 1/Å, expected 0 or more.")
        if not 0.0 <= kmin < kmax <= x[-1] + 1e-9:
            raise SpectrumError(
                f"the window from kmin = {kmin:g} to kmax = {kmax:g} 1/Å must lie between 0 and "
                f"the end of χ(k) at {x[-1]:g} 1/Å."
            )
        if window not in WINDOWS:
            raise SpectrumError(f"window must be one of {', '.join(WINDOWS)}, found {window!r}.")
        if not (dk >= 0.0 and np.isfinite(kweight)):
            raise SpectrumError(
                f"dk must be 0 or more and kweight a number, found {dk} and {kweight}."
            )
        r, made = transform(x, y, kmin, kmax, kweight, window, dk)
        return r, np.abs(made)


def _checked(
    energy: npt.ArrayLike, mu: npt.ArrayLike, names: tuple[str, str] = ("energy", "µ")
) -> tuple[Array, Array]:
    first, second = names
    try:
        e, m = np.asarray(energy, dtype=np.float64), np.asarray(mu, dtype=np.float64)
    except (TypeError, ValueError):
        raise SpectrumError(f"{first} and {second} must be arrays of real numbers.") from None
    if e.ndim != 1 or e.shape != m.shape:
        raise SpectrumError(
            f"{first} and {second} must be one-dimensional and equally long, found shapes "
            f"{e.shape} and {m.shape}."
        )
    if len(e) < _MIN_POINTS:
        raise SpectrumError(f"a spectrum needs at least {_MIN_POINTS} points, found {len(e)}.")
    for name, values in ((first, e), (second, m)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise SpectrumError(f"{name} is {values[bad[0]]} at point {bad[0]}, expected a number.")
    steps = np.diff(e)
    if np.any(steps <= 0.0):
        i = int(np.argmax(steps <= 0.0))
        what = "twice the same" if steps[i] == 0.0 else "unsorted"
        raise SpectrumError(
            f"values of {first} are {what} at points {i} and {i + 1} ({e[i]} and {e[i + 1]}): "
            "sort them and merge duplicates first."
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
