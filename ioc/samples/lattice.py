"""Powder reflections of a crystal lattice: spacings and relative intensities."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

__all__ = ["Lattice", "Reflection"]

_DEBYE_WALLER = 0.5  # Å², isotropic B of a hard crystal at room temperature


@dataclass(frozen=True)
class Reflection:
    """A powder line.

    Attributes
    ----------
    h, k, l
        Miller indices of one of the equivalent planes.
    d
        Spacing, Å.
    intensity
        Multiplicity times squared structure factor with temperature factor, the strongest is 100.
        The Lorentz and polarisation factors belong to the geometry and are not in it.
    """

    h: int
    k: int
    l: int  # noqa: E741 - its name in crystallography
    d: float
    intensity: float


@dataclass(frozen=True)
class Lattice:
    """A cubic or hexagonal crystal.

    Attributes
    ----------
    a, c
        Edges of the conventional cell, Å; `c` is None for a cubic cell.
    atoms
        Symbol and fractional coordinates of every atom of the cell.
    """

    a: float
    c: float | None
    atoms: tuple[tuple[str, float, float, float], ...]

    def spacing(self, h: int, k: int, l: int) -> float:  # noqa: E741
        """Spacing (Å) of the planes hkl."""
        if self.c is None:
            return self.a / math.sqrt(h * h + k * k + l * l)
        return 1.0 / math.sqrt(4.0 / 3.0 * (h * h + h * k + k * k) / self.a**2 + l * l / self.c**2)

    def reflections(self, d_min: float = 0.7, faintest: float = 0.5) -> tuple[Reflection, ...]:
        """Powder lines down to a spacing of `d_min` (Å), by falling spacing.

        Lines of one spacing are one line. Those weaker than `faintest` (of 100) are left out.
        """
        edge = max(self.a, self.c or 0.0)
        n = math.ceil(edge / d_min)
        lines: dict[int, list[tuple[int, int, int, float]]] = defaultdict(list)
        spacings: dict[int, float] = {}
        factors: dict[int, dict[str, float]] = {}
        for h in range(-n, n + 1):
            for k in range(-n, n + 1):
                for l in range(-n, n + 1):  # noqa: E741
                    if h == k == l == 0:
                        continue
                    d = self.spacing(h, k, l)
                    if d < d_min:
                        continue
                    key = round(1e8 / d**2)
                    if key not in factors:
                        spacings[key], factors[key] = d, self._form_factors(d)
                    lines[key].append((h, k, l, self._intensity(h, k, l, factors[key])))
        total = {key: sum(member[3] for member in members) for key, members in lines.items()}
        strongest = max(total.values())
        result = []
        for key in sorted(total):
            share = 100.0 * total[key] / strongest
            if share >= faintest:
                result.append(Reflection(*_name(lines[key]), d=spacings[key], intensity=share))
        return tuple(result)

    def _form_factors(self, d: float) -> dict[str, float]:
        import xraydb

        damping = math.exp(-_DEBYE_WALLER / (4.0 * d * d))
        symbols = {atom[0] for atom in self.atoms}
        return {s: float(np.ravel(xraydb.f0(s, 0.5 / d))[0]) * damping for s in symbols}

    def _intensity(self, h: int, k: int, l: int, factors: dict[str, float]) -> float:  # noqa: E741
        real = imaginary = 0.0
        for symbol, x, y, z in self.atoms:
            phase = 2.0 * math.pi * (h * x + k * y + l * z)
            real += factors[symbol] * math.cos(phase)
            imaginary += factors[symbol] * math.sin(phase)
        return real * real + imaginary * imaginary


def _name(members: list[tuple[int, int, int, float]]) -> tuple[int, int, int]:
    """Choose the indices by which people know a line: without minus signs if possible."""
    strong = max(member[3] for member in members)
    return max(
        (member[:3] for member in members if member[3] > 0.5 * strong),
        key=lambda hkl: (sum(index >= 0 for index in hkl), hkl),
    )
