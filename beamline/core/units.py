"""Physical constants and conversions, each with its source; one value for the whole project."""

from __future__ import annotations

import math
from typing import overload

import numpy as np
import numpy.typing as npt

__all__ = [
    "ELECTRON_MASS_TERM",
    "HC",
    "SI111_D_SPACING",
    "bragg_angle",
    "bragg_energy",
    "energy_to_k",
    "energy_to_wavelength",
    "k_to_energy",
    "wavelength_to_energy",
]

#: Planck constant times speed of light, eV Å (CODATA 2018, exact by the 2019 SI).
HC = 12398.419843
#: ħ²/2mₑ, eV Å² (CODATA 2018): E − E0 = ELECTRON_MASS_TERM · k².
ELECTRON_MASS_TERM = 3.80998211
#: Spacing of Si(111) planes at 295 K, Å (a = 5.431020511 Å, CODATA 2018, over √3).
SI111_D_SPACING = 5.431020511 / math.sqrt(3.0)

Array = npt.NDArray[np.float64]


@overload
def energy_to_wavelength(energy: float) -> float: ...
@overload
def energy_to_wavelength(energy: Array) -> Array: ...
def energy_to_wavelength(energy: float | Array) -> float | Array:
    """Convert photon energy (eV) to wavelength (Å)."""
    return HC / energy


@overload
def wavelength_to_energy(wavelength: float) -> float: ...
@overload
def wavelength_to_energy(wavelength: Array) -> Array: ...
def wavelength_to_energy(wavelength: float | Array) -> float | Array:
    """Convert wavelength (Å) to photon energy (eV)."""
    return HC / wavelength


def bragg_angle(energy: float, d_spacing: float = SI111_D_SPACING) -> float:
    """Bragg angle (degrees) at which a crystal of spacing `d_spacing` (Å) selects `energy` (eV).

    Raises
    ------
    ValueError
        If the energy is below the lowest that the crystal can select.
    """
    sine = HC / (2.0 * d_spacing * energy)
    if not 0.0 < sine <= 1.0:
        raise ValueError(
            f"a crystal of spacing {d_spacing:.4f} Å cannot select {energy} eV: "
            f"the lowest energy is {HC / (2.0 * d_spacing):.1f} eV"
        )
    return math.degrees(math.asin(sine))


def bragg_energy(angle: float, d_spacing: float = SI111_D_SPACING) -> float:
    """Energy (eV) that a crystal of spacing `d_spacing` (Å) selects at a Bragg angle (degrees)."""
    return HC / (2.0 * d_spacing * math.sin(math.radians(angle)))


@overload
def energy_to_k(energy: float, e0: float) -> float: ...
@overload
def energy_to_k(energy: Array, e0: float) -> Array: ...
def energy_to_k(energy: float | Array, e0: float) -> float | Array:
    """Photoelectron wave number k (Å⁻¹) of a photon energy (eV) above the edge `e0` (eV).

    Energies at or below the edge give 0.
    """
    k = np.sqrt(np.maximum(np.asarray(energy, dtype=float) - e0, 0.0) / ELECTRON_MASS_TERM)
    return k if isinstance(energy, np.ndarray) else float(k)


@overload
def k_to_energy(k: float, e0: float) -> float: ...
@overload
def k_to_energy(k: Array, e0: float) -> Array: ...
def k_to_energy(k: float | Array, e0: float) -> float | Array:
    """Photon energy (eV) whose photoelectron has wave number `k` (Å⁻¹) above the edge `e0` (eV)."""
    return e0 + ELECTRON_MASS_TERM * k * k
