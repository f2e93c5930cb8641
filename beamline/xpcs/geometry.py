"""Momentum transfer and azimuth of every pixel, for transmission on a flat detector.

With r the distance of a pixel from the beam centre and d that of the detector from the sample, the
beam is scattered by α = atan(r/d). Its momentum transfer across the beam is q = k₀·sin α with
k₀ = 2π/λ (the SimpleMask convention); the exact one is q = 2k₀·sin(α/2). They differ by α²/8: 0.1 %
at α = 5°. The azimuth is φ = −atan2(v − bcy, h − bcx) for row v and column h: counter-clockwise as
seen on an image whose first row is on top, in [−π, π).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.units import HC
from beamline.xpcs.schemas import ANGLE_UNITS, Q_UNITS, GeometryMetadata, QMapSchema

__all__ = [
    "convert_q",
    "phi_map",
    "pixel_maps",
    "q_map",
    "q_values",
    "wavelength",
    "wavenumber",
]

Map = npt.NDArray[np.float64]

#: Ångström⁻¹ per unit.
_PER_ANGSTROM = {"A^-1": 1.0, "nm^-1": 0.1}


def wavelength(energy: float) -> float:
    """Convert photon energy (keV) to wavelength (Å)."""
    return HC / (1e3 * energy)


def wavenumber(metadata: GeometryMetadata, unit: str = "nm^-1") -> float:
    """Return k₀ = 2π/λ in `unit` (``nm^-1`` or ``A^-1``)."""
    return 2.0 * math.pi / metadata.lambda_ / _per_angstrom(unit)


def convert_q(q: Map, unit: str, wanted: str) -> Map:
    """Convert q from `unit` to the unit `wanted`, each ``nm^-1`` or ``A^-1``."""
    factor = _per_angstrom(unit) / _per_angstrom(wanted)
    return q if factor == 1.0 else q * factor


def q_values(
    metadata: GeometryMetadata, *, exact: bool = False, unit: str = "nm^-1"
) -> npt.NDArray[np.float64]:
    """Return q of each pixel, (H, W) float64 in `unit`.

    Parameters
    ----------
    exact
        q = 2k₀·sin(α/2) instead of k₀·sin α.
    """
    rows, columns = _offsets(metadata)
    radius = np.hypot(rows[:, None], columns[None, :]) * (metadata.pix_dim / metadata.det_dist)
    k0 = wavenumber(metadata, unit)
    if exact:
        angle = np.arctan(radius, out=radius)
        return 2.0 * k0 * np.sin(0.5 * angle)
    # sin(atan x), without the loss of time of either function.
    return k0 * radius / np.sqrt(1.0 + radius * radius)


def phi_map(metadata: GeometryMetadata, *, unit: str = "rad") -> npt.NDArray[np.float64]:
    """Return the azimuth of each pixel, (H, W) float64 in ``rad`` or ``deg``.

    A rotation of the detector (`metadata.det_rotation`) is added.
    """
    if unit not in ANGLE_UNITS:
        raise ValueError(f"There is no unit {unit!r} of angles; choose one of {ANGLE_UNITS}.")
    rows, columns = _offsets(metadata)
    phi = -np.arctan2(rows[:, None], columns[None, :])
    if metadata.det_rotation:
        phi += math.radians(metadata.det_rotation) + math.pi
        phi = np.mod(phi, 2.0 * math.pi) - math.pi
    return np.degrees(phi) if unit == "deg" else phi


def q_map(
    metadata: GeometryMetadata,
    *,
    exact: bool = False,
    q_unit: str = "nm^-1",
    phi_unit: str = "rad",
    mask: npt.NDArray[Any] | None = None,
) -> QMapSchema:
    """Return the maps of q and azimuth of a detector.

    Parameters
    ----------
    metadata
        Where it stands.
    exact
        q = 2k₀·sin(α/2) instead of k₀·sin α.
    q_unit, phi_unit
        ``nm^-1`` or ``A^-1``; ``rad`` or ``deg``.
    mask
        (H, W), 1 = valid, to go with the maps.
    """
    q = q_values(metadata, exact=exact, unit=q_unit)
    phi = phi_map(metadata, unit=phi_unit)
    return QMapSchema(q, q, phi, q_unit, q_unit, phi_unit, mask)


def pixel_maps(metadata: GeometryMetadata) -> tuple[Map, Map]:
    """Return distances from the beam centre along columns (x) and rows (y), px, each (H, W)."""
    rows, columns = _offsets(metadata)
    shape = metadata.shape
    return np.broadcast_to(columns, shape).copy(), np.broadcast_to(rows[:, None], shape).copy()


def _offsets(metadata: GeometryMetadata) -> tuple[Map, Map]:
    """Return distances of rows and of columns from the beam centre, px."""
    rows, columns = metadata.shape
    return np.arange(float(rows)) - metadata.bcy, np.arange(float(columns)) - metadata.bcx


def _per_angstrom(unit: str) -> float:
    if unit not in _PER_ANGSTROM:
        raise ValueError(f"There is no unit {unit!r} of q; choose one of {Q_UNITS}.")
    return _PER_ANGSTROM[unit]
