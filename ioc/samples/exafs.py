"""The EXAFS equation and the shape of an absorption edge, as a simple model whose truth is known.

χ(k) = S0² Σ N F(k) / (k R²) · exp(−2k²σ²) · exp(−2R/λ(k)) · sin(2kR + φ(k))

with single scattering only. Amplitudes and phases have the forms of B. K. Teo and P. A. Lee,
J. Am. Chem. Soc. 101 (1979) 2815: F(k) = A / (1 + B²(k − C)²) and φ(k) = p0 + p1 k. The constants
are round numbers that make a copper foil look like one: its first shell at 2.556 Å appears as a
maximum of |χ(R)| near 2.24 Å. They are no prediction for other materials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Scatterer", "Shell", "broadened_step", "chi", "mean_free_path", "scatterer"]

Array = npt.NDArray[np.float64]

_TAIL = 15.0  # eV


@dataclass(frozen=True)
class Scatterer:
    """Backscattering of a kind of neighbour: A (Å), B (Å), C (Å⁻¹), p0 (rad), p1 (Å)."""

    a: float
    b: float
    c: float
    p0: float
    p1: float


_LIGHT = Scatterer(0.35, 0.25, 4.0, -3.1, -0.85)
_METAL_3D = Scatterer(0.86, 0.40, 7.0, -1.6, -0.615)
_HEAVY = Scatterer(0.80, 0.25, 9.0, -1.0, -0.45)


def scatterer(element: str) -> Scatterer:
    """Model of the neighbours of an element, by its weight."""
    import xraydb

    number = int(xraydb.atomic_number(element))
    return _LIGHT if number < 18 else _METAL_3D if number < 45 else _HEAVY


@dataclass(frozen=True)
class Shell:
    """Neighbours at one distance.

    Attributes
    ----------
    element
        Symbol of the neighbours.
    number
        How many there are.
    distance
        Å.
    sigma2
        Mean square deviation of the distance at room temperature, Å².
    """

    element: str
    number: float
    distance: float
    sigma2: float


def mean_free_path(k: Array) -> Array:
    """Mean free path (Å) of a photoelectron of wave number `k` (Å⁻¹).

    The universal curve in the form λ = (k + (η/k)⁴) / Γ with η = 3.07, Γ = 0.7 Å⁻².
    """
    return (k + (3.07 / k) ** 4) / 0.7


def chi(k: Array, shells: Sequence[Shell], s02: float) -> Array:
    """Fine structure χ of wave numbers `k` (Å⁻¹, any shape); 0 at and below k = 0.

    Below k of about 3 Å⁻¹ the equation does not hold; there the signal is faded out.
    """
    result = np.zeros_like(k)
    inside = k > 0.05
    q = k[inside]
    total = np.zeros_like(q)
    for shell in shells:
        model = scatterer(shell.element)
        amplitude = model.a / (1.0 + (model.b * (q - model.c)) ** 2)
        total += (
            (shell.number * amplitude / (q * shell.distance**2))
            * np.exp(-2.0 * q**2 * shell.sigma2 - 2.0 * shell.distance / mean_free_path(q))
            * np.sin(2.0 * q * shell.distance + model.p0 + model.p1 * q)
        )
    result[inside] = s02 * total * -np.expm1(-((q / 2.2) ** 6))
    return result


def broadened_step(x: Array, core_width: float, resolution: float) -> Array:
    """Make a unit step at 0, broadened by a core hole and a monochromator.

    The Lorentzian of the core hole is cut off by a Gaussian of 15 eV: its far tails belong to the
    tabulated absorption, which is measured and holds them already.

    Parameters
    ----------
    x
        Energies relative to the edge, eV, any shape.
    core_width, resolution
        Full widths at half maximum of the Lorentzian and the Gaussian, eV.
    """
    grid, rise = _rise(core_width, resolution)
    return np.interp(x, grid, rise, left=0.0, right=1.0)


@lru_cache(maxsize=16)
def _rise(core_width: float, resolution: float) -> tuple[Array, Array]:
    from scipy.ndimage import gaussian_filter1d

    step = 0.01
    grid = np.arange(-8000, 8001, dtype=np.float64) * step
    kernel = np.exp(-((grid / _TAIL) ** 2)) / (1.0 + (2.0 * grid / core_width) ** 2)
    kernel = gaussian_filter1d(kernel, resolution / 2.3548 / step, mode="constant", truncate=6.0)
    rise = np.cumsum(kernel)
    return grid, np.asarray((rise - 0.5 * kernel) / rise[-1], dtype=np.float64)
