"""Tabulated absorption, taken apart edge by edge.

The tables are those of W. T. Elam, B. D. Ravel and J. R. Sieber, Radiat. Phys. Chem. 63 (2002) 121,
as xraydb has them: smooth between edges, with a sharp step at each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError
from ioc.samples.exafs import broadened_step

__all__ = [
    "ENERGY_MAX",
    "ENERGY_MIN",
    "Absorption",
    "core_width",
    "density_of",
    "edge_energy",
    "energy_grid",
    "resolution",
    "split_absorption",
]

Array = npt.NDArray[np.float64]

#: Range of sample tables, eV: that of the monochromator, and a little more.
ENERGY_MIN, ENERGY_MAX = 3990.0, 20010.0

_TABLE_MIN, _TABLE_MAX = 3900.0, 20200.0

#: Relative bandwidth (FWHM) of the Si(111) monochromator: its Darwin width, 1.3e-4.
_BANDWIDTH = 1.3e-4


@dataclass(frozen=True, eq=False)
class Absorption:
    """Linear absorption of a material around one of its edges.

    Attributes
    ----------
    other
        All but the edge, 1/µm, (n,): the pre-edge extrapolated above the edge; further edges of
        the material are in it, broadened.
    jump
        The edge's own part, 1/µm, (n,), extrapolated below the edge and without its shape.
    """

    other: Array
    jump: Array


def edge_energy(element: str, edge: str) -> float:
    """Tabulated energy (eV) of an edge such as ("Cu", "K").

    Raises
    ------
    ConfigurationError
        If there is no such element or edge, or the simulated beam does not reach it.
    """
    edges = _edges(element)
    if edge not in edges:
        raise ConfigurationError(
            f"{element} has no {edge!r} edge in the tables, expected one of {', '.join(edges)}."
        )
    energy = float(edges[edge].energy)
    if not ENERGY_MIN + 50.0 <= energy <= ENERGY_MAX - 50.0:
        raise ConfigurationError(
            f"the {element} {edge} edge at {energy:.0f} eV cannot be simulated: the monochromator "
            "reaches from 4000 to 20000 eV."
        )
    return energy


def core_width(element: str, edge: str) -> float:
    """Natural width (FWHM, eV) of a core level: Krause and Oliver, as xraydb has them."""
    import xraydb

    return float(xraydb.core_width(element, edge))


def density_of(element: str) -> float:
    """Density (g/cm³) of a pure element."""
    import xraydb

    return float(xraydb.atomic_density(element))


def resolution(energy: float) -> float:
    """Energy resolution (FWHM, eV) of the simulated monochromator."""
    return _BANDWIDTH * energy


def energy_grid(e0: float) -> Array:
    """Energies (eV, increasing) of a sample table: 0.05 eV apart at `e0`, 5 eV far from it."""
    pieces = (
        (-1e5, -150.0, 5.0),
        (-150.0, -30.0, 1.0),
        (-30.0, -10.0, 0.25),
        (-10.0, 15.0, 0.05),
        (15.0, 60.0, 0.25),
        (60.0, 400.0, 0.5),
        (400.0, 1600.0, 1.0),
        (1600.0, 1e5, 5.0),
    )
    steps = [start + step * np.arange(round((stop - start) / step)) for start, stop, step in pieces]
    grid = e0 + np.concatenate(steps)
    grid = grid[(grid > ENERGY_MIN) & (grid < ENERGY_MAX)]
    return np.concatenate([[ENERGY_MIN], grid, [ENERGY_MAX]])


def split_absorption(
    fractions: Mapping[str, float], density: float, element: str, edge: str, energy: Array
) -> Absorption:
    """Absorption of a material at `energy` (eV, (n,)), with one edge apart.

    Parameters
    ----------
    fractions
        Mass fraction of each element.
    density
        g/cm³.
    element, edge
        The edge to take apart.
    """
    other, jump = np.zeros_like(energy), np.zeros_like(energy)
    for symbol, fraction in fractions.items():
        smooth, steps = _element_parts(symbol, energy)
        per_micrometre = 1e-4 * density * fraction
        other += per_micrometre * smooth
        for name, (position, height) in steps.items():
            if (symbol, name) == (element, edge):
                jump += per_micrometre * height
            else:
                width = max(core_width(symbol, name), 0.5)
                shape = broadened_step(energy - position, width, resolution(position))
                other += per_micrometre * height * shape
    return Absorption(other, jump)


def _edges(element: str) -> dict[str, Any]:
    import xraydb

    try:
        return dict(xraydb.xray_edges(element))
    except ValueError:
        raise ConfigurationError(f"there is no element {element!r} in the tables.") from None


class _Continued:
    """A function where it stands for itself, and a power of the energy on either side of that."""

    def __init__(self, function: Callable[[Array], Array], low: float, high: float) -> None:
        self._function, self._low, self._high = function, low, high
        span = min(0.05, 0.5 * (high / low - 1.0))
        self._below = self._power(low, low * (1.0 + span))
        self._above = self._power(high * (1.0 - span), high) if high < _TABLE_MAX else (0.0, 0.0)

    def _power(self, first: float, second: float) -> tuple[float, float]:
        x = np.array([first, second])
        y = np.log(np.maximum(self._function(x), 1e-12))
        slope = float((y[1] - y[0]) / np.log(second / first))
        return float(y[0] - slope * np.log(first)), slope

    def __call__(self, energy: Array) -> Array:
        below, above = energy < self._low, energy > self._high
        inside = ~(below | above)
        result = np.empty_like(energy)
        result[inside] = self._function(energy[inside])
        for beyond, (constant, slope) in ((below, self._below), (above, self._above)):
            result[beyond] = np.exp(constant + slope * np.log(energy[beyond]))
        return result


def _element_parts(element: str, energy: Array) -> tuple[Array, dict[str, tuple[float, Array]]]:
    """Mass absorption (cm²/g) as a smooth part and, per edge in the range, position and height."""
    import xraydb

    def table(e: Array) -> Array:
        return np.asarray(xraydb.mu_elam(element, e) if len(e) else e, dtype=np.float64)

    found = sorted(
        (float(entry.energy), name)
        for name, entry in _edges(element).items()
        if ENERGY_MIN < float(entry.energy) < ENERGY_MAX
    )
    lows = [_TABLE_MIN, *(position + 1.0 for position, _ in found)]
    highs = [*(position - 1.0 for position, _ in found), _TABLE_MAX]
    parts: list[_Continued] = []
    for low, high in zip(lows, highs, strict=True):
        known = tuple(parts)

        def alone(e: Array, known: tuple[_Continued, ...] = known) -> Array:
            return table(e) - sum((part(e) for part in known), np.zeros_like(e))

        parts.append(_Continued(alone, low, high))
    steps = {
        name: (position, part(energy))
        for (position, name), part in zip(found, parts[1:], strict=True)
    }
    return parts[0](energy), steps
