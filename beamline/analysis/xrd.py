"""Powder diffraction: peaks, their profiles, spacings, crystallite sizes and unit cells.

Angles are 2θ in degrees, strictly increasing; intensities are of any scale and offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
from scipy.signal import find_peaks, peak_widths

from beamline.analysis.lattice import LatticeParameters, fit_lattice
from beamline.core.errors import PatternError

__all__ = ["Peak", "PeakFit", "PeakModel", "XRDAnalyzer"]

Array = npt.NDArray[np.float64]
PeakModel = Literal["gaussian", "lorentzian", "pseudo-voigt"]

_MIN_POINTS = 5
_BINS = 1000  # most of the coarse pattern in which the background is found
_BIN_POINTS = 16  # least in each of them, where there are as many
_PEAK_SHARE = 0.06  # of the range: a peak is narrower, a background wider
_CERTAIN = 5.0  # standard deviations of the noise


@dataclass(frozen=True)
class Peak:
    """One peak as `XRDAnalyzer.find_peaks` finds it.

    Attributes
    ----------
    two_theta
        Of its top, degrees: of the parabola through the points above 80 % of its height.
    height
        Above the background, in units of the intensity.
    prominence
        Above the higher one of the saddles to greater peaks.
    fwhm
        Full width at half prominence, degrees.
    index
        Of the highest point.
    """

    two_theta: float
    height: float
    prominence: float
    fwhm: float
    index: int


@dataclass(frozen=True, eq=False)
class PeakFit:
    """A profile on a linear background, fitted to one peak.

    Attributes
    ----------
    model
        Which profile.
    center, height, fwhm
        Degrees, units of the intensity, degrees.
    fraction
        Of the Lorentzian: 0 and 1 for the pure models.
    area
        Integral of the profile, intensity × degrees.
    background, slope
        Background at the centre and its slope per degree.
    center_err, height_err, fwhm_err, fraction_err, area_err, background_err, slope_err
        Standard uncertainties, for noise as large as the misfit.
    reduced_chi_square
        Sum of squares of the misfit over the degrees of freedom.
    two_theta, intensity, fitted
        The points of the fit and the fitted curve, (n,).
    """

    model: PeakModel
    center: float
    height: float
    fwhm: float
    fraction: float
    area: float
    background: float
    slope: float
    center_err: float
    height_err: float
    fwhm_err: float
    fraction_err: float
    area_err: float
    background_err: float
    slope_err: float
    reduced_chi_square: float
    two_theta: Array
    intensity: Array
    fitted: Array


class XRDAnalyzer:
    """Analysis of powder diffraction patterns."""

    def find_peaks(
        self, two_theta: npt.ArrayLike, intensity: npt.ArrayLike, prominence: float = 0.1
    ) -> list[Peak]:
        """Find peaks that stand out of their surroundings.

        Parameters
        ----------
        two_theta, intensity
            (n,) degrees and intensities.
        prominence
            Least prominence, as a fraction of the range above the background (0 to 1). Peaks of
            less than five standard deviations of the noise are left out in any case.

        Returns
        -------
        list[Peak]
            In order of their angle.

        Raises
        ------
        PatternError
            If the arrays are no pattern.
        """
        x, y = _checked(two_theta, intensity)
        if not 0.0 < prominence <= 1.0:
            raise PatternError(f"prominence must be a fraction from 0 to 1, found {prominence}.")
        above = y - _background(x, y)
        noise = _noise(above)
        # Clipping follows the lower edge of the noise.
        above -= min(float(np.median(above)), 3.0 * noise)
        least = max(prominence * float(above.max()), _CERTAIN * noise)
        if not least > 1e-12 * max(1.0, float(np.abs(y).max())):
            return []
        smooth, least = _smoothed(above, noise, least)
        found, properties = find_peaks(smooth, height=least, prominence=least)
        widths = peak_widths(smooth, found, rel_height=0.5)
        number = np.arange(len(x))
        certain = properties["prominences"] > _CERTAIN * np.sqrt(2.0) * _local_noise(
            smooth, found, widths[0]
        )
        return [
            Peak(
                two_theta=_top(x, above, smooth, int(index)),
                height=float(properties["peak_heights"][n]),
                prominence=float(properties["prominences"][n]),
                fwhm=float(np.interp(widths[3][n], number, x) - np.interp(widths[2][n], number, x)),
                index=int(index),
            )
            for n, index in enumerate(found)
            if certain[n]
        ]

    def fit_peak(
        self,
        two_theta: npt.ArrayLike,
        intensity: npt.ArrayLike,
        center: float,
        width: float = 1.0,
        model: PeakModel = "gaussian",
    ) -> PeakFit:
        """Fit one peak and a linear background by unweighted least squares.

        Parameters
        ----------
        two_theta, intensity
            (n,) degrees and intensities.
        center
            About where the peak is, degrees.
        width
            The points from `center` − `width` to `center` + `width` are fitted, degrees.
        model
            "gaussian", "lorentzian" or "pseudo-voigt" (both with one FWHM, and the Lorentzian's
            fraction from 0 to 1).

        Raises
        ------
        PatternError
            If the arrays are no pattern, or there is no such peak in the window.
        """
        x, y = _checked(two_theta, intensity)
        if model not in _PROFILES:
            raise PatternError(f"model must be one of {', '.join(_PROFILES)}, found {model!r}.")
        if not (np.isfinite(center) and np.isfinite(width) and width > 0.0):
            raise PatternError(
                f"center and width must be angles in degrees, width greater than 0, found {center} "
                f"and {width}."
            )
        inside = np.abs(x - center) <= width
        free = 6 if model == "pseudo-voigt" else 5
        if np.count_nonzero(inside) <= free:
            raise PatternError(
                f"there are {np.count_nonzero(inside)} points between {center - width:g} and "
                f"{center + width:g} degrees, expected more than {free}: the pattern reaches from "
                f"{x[0]:g} to {x[-1]:g} degrees."
            )
        return _fit(x[inside], y[inside], center, model)

    @overload
    def calculate_d_spacing(self, two_theta: float, wavelength: float = ...) -> float: ...
    @overload
    def calculate_d_spacing(self, two_theta: Array, wavelength: float = ...) -> Array: ...
    def calculate_d_spacing(
        self, two_theta: float | Array, wavelength: float = 1.5406
    ) -> float | Array:
        """Spacing of lattice planes by Bragg's law, d = λ / (2 sin θ).

        Parameters
        ----------
        two_theta
            Degrees, a number or an array, between 0 and 180.
        wavelength
            Å.

        Returns
        -------
        float or array
            Å.

        Raises
        ------
        PatternError
            If an angle or the wavelength is impossible.
        """
        angle = _angles(two_theta)
        _positive(wavelength=wavelength)
        spacing = wavelength / (2.0 * np.sin(np.radians(angle) / 2.0))
        return float(spacing) if spacing.ndim == 0 else spacing

    @overload
    def estimate_crystallite_size(
        self,
        fwhm: float,
        two_theta: float,
        wavelength: float = ...,
        K: float = ...,  # noqa: N803
    ) -> float: ...
    @overload
    def estimate_crystallite_size(
        self,
        fwhm: Array,
        two_theta: Array,
        wavelength: float = ...,
        K: float = ...,  # noqa: N803
    ) -> Array: ...
    def estimate_crystallite_size(
        self,
        fwhm: float | Array,
        two_theta: float | Array,
        wavelength: float = 1.5406,
        K: float = 0.9,  # noqa: N803  (Scherrer's letter)
    ) -> float | Array:
        """Size of crystallites by Scherrer's equation, D = K λ / (β cos θ).

        Parameters
        ----------
        fwhm
            β, degrees, without the width that the instrument adds.
        two_theta
            Degrees.
        wavelength
            Å.
        K
            Shape factor.

        Returns
        -------
        float or array
            nm.

        Raises
        ------
        PatternError
            If a width, an angle or the wavelength is impossible.
        """
        angle = _angles(two_theta)
        beta = np.asarray(fwhm, dtype=np.float64)
        if not np.all(np.isfinite(beta) & (beta > 0.0)):
            raise PatternError(f"fwhm must be greater than 0 degrees, found {fwhm}.")
        _positive(wavelength=wavelength, K=K)
        size = 0.1 * K * wavelength / (np.radians(beta) * np.cos(np.radians(angle) / 2.0))
        return float(size) if size.ndim == 0 else size

    def calculate_lattice_parameter(
        self,
        d_spacings: npt.ArrayLike,
        hkl_indices: npt.ArrayLike,
        crystal_system: str = "cubic",
        *,
        d_uncertainties: npt.ArrayLike | None = None,
    ) -> LatticeParameters:
        """Fit a unit cell to indexed spacings.

        Parameters
        ----------
        d_spacings
            (n,) Å.
        hkl_indices
            (n, 3) Miller indices; of hexagonal axes for "hexagonal" and "trigonal", of
            rhombohedral ones for "rhombohedral", with b as the unique axis for "monoclinic".
        crystal_system
            "cubic", "tetragonal", "orthorhombic", "hexagonal", "trigonal", "rhombohedral",
            "monoclinic" or "triclinic".
        d_uncertainties
            Standard uncertainties of the spacings, Å. By default all Δd/d are taken to be equal,
            and as large as the misfit says.

        Raises
        ------
        PatternError
            If the reflections do not determine such a cell.
        """
        return fit_lattice(d_spacings, hkl_indices, crystal_system, d_uncertainties)


def _gaussian(x: Array, center: float, fwhm: float, _: float) -> Array:
    return np.exp(-4.0 * np.log(2.0) * ((x - center) / fwhm) ** 2)


def _lorentzian(x: Array, center: float, fwhm: float, _: float) -> Array:
    return 1.0 / (1.0 + 4.0 * ((x - center) / fwhm) ** 2)


def _pseudo_voigt(x: Array, center: float, fwhm: float, fraction: float) -> Array:
    # The fraction is one of areas, as everywhere in this field; both profiles have one FWHM.
    lorentzian = fraction * 2.0 / np.pi
    gaussian = (1.0 - fraction) * 2.0 * np.sqrt(np.log(2.0) / np.pi)
    mixed = lorentzian * _lorentzian(x, center, fwhm, 1.0)
    mixed = mixed + gaussian * _gaussian(x, center, fwhm, 0.0)
    return np.asarray(mixed / (lorentzian + gaussian))


_PROFILES: dict[str, Callable[[Array, float, float, float], Array]] = {
    "gaussian": _gaussian,
    "lorentzian": _lorentzian,
    "pseudo-voigt": _pseudo_voigt,
}


def _area(model: str, height: float, fwhm: float, fraction: float) -> float:
    gaussian, lorentzian = 2.0 * np.sqrt(np.log(2.0) / np.pi), 2.0 / np.pi
    share = {"gaussian": 0.0, "lorentzian": 1.0}.get(model, fraction)
    return float(height * fwhm / (share * lorentzian + (1.0 - share) * gaussian))


def _fit(x: Array, y: Array, center: float, model: PeakModel) -> PeakFit:
    from scipy.optimize import least_squares

    missing = PatternError(
        f"no {model} peak was found between {x[0]:g} and {x[-1]:g} degrees: check center and width."
    )
    if np.ptp(y) <= 1e-12 * float(np.abs(y).max()):
        raise missing
    profile = _PROFILES[model]
    begin, middle = _guess(x, y, center), float(x.mean())
    scale = float(np.ptp(y))
    span, step = float(np.ptp(x)), float(np.diff(x).min())
    mixed = model == "pseudo-voigt"

    def curve(p: Array) -> Array:
        shape = profile(x, p[0], p[1], p[5] if mixed else 0.0)
        return np.asarray(p[2] * shape + p[3] + p[4] * (x - middle))

    guess = [*begin, 0.0, *([0.5] if mixed else [])]
    guess[2:4] = [guess[2] / scale, guess[3] / scale]
    low = [x[0], 0.1 * step, 0.0, -np.inf, -np.inf, *([0.0] if mixed else [])]
    high = [x[-1], 2.0 * span, np.inf, np.inf, np.inf, *([1.0] if mixed else [])]
    found = least_squares(
        lambda p: curve(p) - y / scale,
        np.clip(guess, low, high),
        bounds=(low, high),
        x_scale=[begin[1], begin[1], 1.0, 1.0, 1.0 / span, *([1.0] if mixed else [])],
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=2000,
    )
    p = found.x
    left = len(x) - len(p)
    variance = 2.0 * found.cost / left
    inverse = np.linalg.pinv(found.jac.T @ found.jac)
    if not (found.success and p[2] > 0.0 and x[0] < p[0] < x[-1]):
        raise missing
    # The background at the centre, not at the middle of the window.
    gradient = np.zeros(len(p))
    gradient[[0, 3, 4]] = p[4], 1.0, p[0] - middle
    errors = np.sqrt(np.maximum(np.diag(inverse) * variance, 0.0))
    background_err = float(np.sqrt(max(gradient @ inverse @ gradient * variance, 0.0)))
    fraction = float(p[5]) if mixed else (1.0 if model == "lorentzian" else 0.0)
    area = _area(model, p[2] * scale, p[1], fraction)
    steps = np.diag(1e-6 * np.maximum(np.abs(p), 1e-3))
    slopes = np.array(
        [
            (_area(model, (p + d)[2] * scale, (p + d)[1], (p + d)[5] if mixed else fraction) - area)
            / d.max()
            for d in steps
        ]
    )
    return PeakFit(
        model=model,
        center=float(p[0]),
        height=float(p[2] * scale),
        fwhm=float(p[1]),
        fraction=fraction,
        area=area,
        background=float((p[3] + p[4] * (p[0] - middle)) * scale),
        slope=float(p[4] * scale),
        center_err=float(errors[0]),
        height_err=float(errors[2] * scale),
        fwhm_err=float(errors[1]),
        fraction_err=float(errors[5]) if mixed else 0.0,
        area_err=float(np.sqrt(max(slopes @ inverse @ slopes * variance, 0.0))),
        background_err=background_err * scale,
        slope_err=float(errors[4] * scale),
        reduced_chi_square=float(variance * scale**2),
        two_theta=x,
        intensity=y,
        fitted=curve(p) * scale,
    )


def _guess(x: Array, y: Array, center: float) -> tuple[float, float, float, float]:
    """Return centre, FWHM, height and background of the peak nearest to `center`."""
    base = float(np.quantile(y, 0.1))
    top = int(np.argmax(np.where(np.abs(x - center) <= 0.5 * float(np.ptp(x)) / 2.0, y, -np.inf)))
    half = base + 0.5 * (y[top] - base)
    below = y < half
    left, right = np.flatnonzero(below[:top]), np.flatnonzero(below[top:])
    begin = x[left[-1]] if len(left) else x[0]
    end = x[top + right[0]] if len(right) else x[-1]
    return float(x[top]), max(float(end - begin), 1e-6), max(float(y[top] - base), 1e-12), base


def _background(x: Array, y: Array) -> Array:
    """Estimate what lies under the peaks, by clipping a coarse pattern (SNIP).

    C. G. Ryan et al., Nucl. Instrum. Methods B 34, 396 (1988).
    """
    bins = min(_BINS, max(8, len(y) // _BIN_POINTS))
    edges = np.linspace(0, len(y), bins + 1).astype(int)
    coarse = np.array([float(np.median(y[a:b])) for a, b in pairwise(edges)])
    place = np.array([float(x[a:b].mean()) for a, b in pairwise(edges)])
    clipped = coarse.copy()
    for reach in range(max(2, int(_PEAK_SHARE * bins)), 0, -1):
        sides = 0.5 * (clipped[: -2 * reach] + clipped[2 * reach :])
        clipped[reach:-reach] = np.minimum(clipped[reach:-reach], sides)
    return np.interp(x, place, clipped)


def _noise(y: Array) -> float:
    """Estimate point-to-point noise from second differences."""
    if len(y) < _MIN_POINTS:
        return 0.0
    second = y[1:-1] - 0.5 * (y[:-2] + y[2:])
    return float(1.4826 * np.median(np.abs(second)) / np.sqrt(1.5))


def _local_noise(y: Array, places: Array, widths: Array) -> Array:
    """Return the noise near each place: where much is counted, there is more of it."""
    reach = np.clip(2.0 * widths, 10, 200).astype(int)
    return np.array(
        [_noise(y[max(0, i - r) : i + r + 1]) for i, r in zip(places, reach, strict=True)]
    )


def _smoothed(y: Array, noise: float, least: float) -> tuple[Array, float]:
    """Smooth no more than it takes for noise alone not to reach `least`."""
    from scipy.ndimage import gaussian_filter1d

    wanted = 2.0 * _CERTAIN * noise
    if wanted <= least:
        return y, least
    # Independent points, averaged by a Gaussian of width s, scatter by (2 s √π)^-½ of their own.
    width = (wanted / least) ** 2 / (2.0 * np.sqrt(np.pi))
    return np.asarray(gaussian_filter1d(y, width, mode="nearest")), least


def _top(x: Array, y: Array, smooth: Array, index: int) -> float:
    low = smooth < 0.8 * smooth[index]
    left, right = np.flatnonzero(low[:index][-2000:]), np.flatnonzero(low[index:][:2000])
    begin = index - (min(index, 2000) - 1 - int(left[-1])) if len(left) else max(0, index - 1)
    end = index + int(right[0]) if len(right) else index + 2
    begin, end = min(begin, index - 1), max(end, index + 2)
    near = slice(max(0, begin), min(len(x), end))
    if near.stop - near.start < 3:
        return float(x[index])
    bend, slope, _ = np.polyfit(x[near] - x[index], y[near] / y[near].max(), 2)
    if not bend < 0.0:
        return float(x[index])
    shift = np.clip(-0.5 * slope / bend, x[near][0] - x[index], x[near][-1] - x[index])
    return float(x[index] + shift)


def _checked(two_theta: npt.ArrayLike, intensity: npt.ArrayLike) -> tuple[Array, Array]:
    try:
        x = np.asarray(two_theta, dtype=np.float64)
        y = np.asarray(intensity, dtype=np.float64)
    except (TypeError, ValueError):
        raise PatternError("two_theta and intensity must be arrays of real numbers.") from None
    if x.ndim != 1 or x.shape != y.shape:
        raise PatternError(
            "two_theta and intensity must be one-dimensional and equally long, found shapes "
            f"{x.shape} and {y.shape}."
        )
    if len(x) < _MIN_POINTS:
        raise PatternError(f"a pattern needs at least {_MIN_POINTS} points, found {len(x)}.")
    for name, values in (("two_theta", x), ("intensity", y)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise PatternError(f"{name} is {values[bad[0]]} at point {bad[0]}, expected a number.")
    steps = np.diff(x)
    if np.any(steps <= 0.0):
        i = int(np.argmax(steps <= 0.0))
        what = "twice the same" if steps[i] == 0.0 else "unsorted"
        raise PatternError(
            f"angles are {what} at points {i} and {i + 1} ({x[i]} and {x[i + 1]} degrees): sort "
            "them and merge duplicates first."
        )
    return x, y


def _angles(two_theta: float | Array) -> Array:
    try:
        angle = np.asarray(two_theta, dtype=np.float64)
    except (TypeError, ValueError):
        raise PatternError("two_theta must be a number or an array of numbers.") from None
    if not np.all((angle > 0.0) & (angle < 180.0)):
        raise PatternError(f"two_theta must lie between 0 and 180 degrees, found {two_theta}.")
    return angle


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0.0):
            raise PatternError(f"{name} must be greater than 0, found {value}.")
