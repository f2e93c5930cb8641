"""Unit cells from lattice-plane spacings, for every crystal system.

1/d² = h² A + k² B + l² C + kl D + hl E + hk F is linear in the reciprocal metric (A = a*², D =
2 b* c* cos α*, …), in which a crystal system is a constraint; the cell and its uncertainty follow
from the solution (International Tables for Crystallography, vol. C, 1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from beamline.core.errors import PatternError

__all__ = ["CRYSTAL_SYSTEMS", "CrystalSystem", "LatticeParameters", "fit_lattice"]

Array = npt.NDArray[np.float64]
CrystalSystem = Literal[
    "cubic",
    "tetragonal",
    "orthorhombic",
    "hexagonal",
    "trigonal",
    "rhombohedral",
    "monoclinic",
    "triclinic",
]

#: For each system, which of (A, B, C, D, E, F) one parameter of the fit stands for.
_CONSTRAINTS: dict[str, list[list[float]]] = {
    "cubic": [[1, 1, 1, 0, 0, 0]],
    "tetragonal": [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
    "orthorhombic": [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
    # γ = 120°, so γ* = 60° and F = 2 a*² cos 60° = A.
    "hexagonal": [[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]],
    "trigonal": [[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]],
    "rhombohedral": [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]],
    "monoclinic": [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]],
    "triclinic": np.eye(6).tolist(),
}
CRYSTAL_SYSTEMS = tuple(_CONSTRAINTS)


@dataclass(frozen=True)
class LatticeParameters:
    """A unit cell and its standard uncertainties.

    Attributes
    ----------
    a, b, c
        Å.
    alpha, beta, gamma
        Degrees.
    volume
        Å³.
    a_err, b_err, c_err, alpha_err, beta_err, gamma_err, volume_err
        Standard uncertainties: 0 where the system fixes the value, NaN where there are no more
        reflections than parameters and no uncertainties were given.
    crystal_system
        As given.
    residual
        Root mean square of (d_observed − d_calculated) / d_observed.
    """

    a: float
    b: float
    c: float
    alpha: float
    beta: float
    gamma: float
    volume: float
    a_err: float
    b_err: float
    c_err: float
    alpha_err: float
    beta_err: float
    gamma_err: float
    volume_err: float
    crystal_system: str
    residual: float


def fit_lattice(
    d_spacings: npt.ArrayLike,
    hkl_indices: npt.ArrayLike,
    crystal_system: str,
    d_uncertainties: npt.ArrayLike | None = None,
) -> LatticeParameters:
    """Fit a cell to (n,) spacings in Å and (n, 3) Miller indices.

    See `beamline.analysis.xrd.XRDAnalyzer.calculate_lattice_parameter`.
    """
    if crystal_system not in _CONSTRAINTS:
        raise PatternError(
            f"crystal_system must be one of {', '.join(CRYSTAL_SYSTEMS)}, found {crystal_system!r}."
        )
    d, hkl, sigma = _checked(d_spacings, hkl_indices, d_uncertainties)
    constraint = np.asarray(_CONSTRAINTS[crystal_system])
    h, k, l = hkl.T  # noqa: E741  (Miller's letters)
    design = np.stack([h * h, k * k, l * l, k * l, h * l, h * k], axis=1) @ constraint.T
    if np.linalg.matrix_rank(design) < len(constraint):
        raise PatternError(
            f"the {len(d)} reflections do not determine the {len(constraint)} parameters of a "
            f"{crystal_system} cell: more of them, in other directions, are needed."
        )
    # Without uncertainties all spacings are taken to be equally good, Δd/d.
    weight = d**2 / 2.0 if sigma is None else d**3 / (2.0 * sigma)
    weighted = design * weight[:, None]
    parameters, *_ = np.linalg.lstsq(weighted, weight / d**2, rcond=None)
    covariance = np.linalg.inv(weighted.T @ weighted)
    left = len(d) - len(parameters)
    if sigma is None:
        misfit = weight * (design @ parameters - 1.0 / d**2)
        covariance = covariance * (float(misfit @ misfit) / left if left else np.nan)
    cell = _cell(constraint.T @ parameters, crystal_system)
    jacobian = np.empty((7, len(parameters)))
    for number, value in enumerate(parameters):
        step = 1e-6 * max(abs(value), 1e-3 * float(np.abs(parameters).max()))
        shifted = [parameters.copy(), parameters.copy()]
        shifted[0][number] -= step
        shifted[1][number] += step
        low, high = (_cell(constraint.T @ moved, crystal_system) for moved in shifted)
        jacobian[:, number] = (high - low) / (2.0 * step)
    # What the system fixes does not move; NaN of the covariance must not reach it.
    moving = np.any(np.abs(jacobian) > 1e-9 * np.abs(jacobian).max(), axis=1)
    errors = np.zeros(7)
    errors[moving] = np.sqrt(np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian)[moving])
    calculated = 1.0 / np.sqrt(design @ parameters)
    residual = float(np.sqrt(np.mean(((d - calculated) / d) ** 2)))
    a, b, c, alpha, beta, gamma, volume = map(float, cell)
    a_err, b_err, c_err, alpha_err, beta_err, gamma_err, volume_err = map(float, errors)
    return LatticeParameters(
        a=a,
        b=b,
        c=c,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        volume=volume,
        a_err=a_err,
        b_err=b_err,
        c_err=c_err,
        alpha_err=alpha_err,
        beta_err=beta_err,
        gamma_err=gamma_err,
        volume_err=volume_err,
        crystal_system=crystal_system,
        residual=residual,
    )


def _cell(metric: Array, crystal_system: str) -> Array:
    """Return a, b, c, α, β, γ and the volume of a reciprocal metric (A … F)."""
    aa, bb, cc, bc, ac, ab = metric
    reciprocal = np.array([[aa, ab / 2, ac / 2], [ab / 2, bb, bc / 2], [ac / 2, bc / 2, cc]])
    if np.any(np.linalg.eigvalsh(reciprocal) <= 0.0):
        raise PatternError(
            f"no {crystal_system} cell has these spacings: check which indices belong to which."
        )
    direct = np.linalg.inv(reciprocal)
    a, b, c = np.sqrt(np.diag(direct))
    angles = np.degrees(
        np.arccos([direct[1, 2] / (b * c), direct[0, 2] / (a * c), direct[0, 1] / (a * b)])
    )
    return np.array([a, b, c, *angles, np.sqrt(np.linalg.det(direct))])


def _checked(
    d_spacings: npt.ArrayLike, hkl_indices: npt.ArrayLike, d_uncertainties: npt.ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    try:
        d = np.atleast_1d(np.asarray(d_spacings, dtype=np.float64))
        hkl = np.atleast_2d(np.asarray(hkl_indices, dtype=np.float64))
        sigma = None if d_uncertainties is None else np.asarray(d_uncertainties, dtype=np.float64)
    except (TypeError, ValueError):
        raise PatternError("spacings and indices must be arrays of numbers.") from None
    if d.ndim != 1 or not len(d) or hkl.shape != (len(d), 3):
        raise PatternError(
            f"n spacings and n × 3 indices are needed, found shapes {d.shape} and {hkl.shape}."
        )
    if not np.all(np.isfinite(d) & (d > 0.0)):
        raise PatternError(f"spacings must be greater than 0 Å, found {d}.")
    if not np.all(hkl == np.round(hkl)) or np.any(np.all(hkl == 0.0, axis=1)):
        raise PatternError("Miller indices must be whole numbers, and not 0 0 0.")
    if sigma is not None:
        if sigma.ndim == 0:
            sigma = np.full(d.shape, float(sigma))
        if sigma.shape != d.shape or not np.all(np.isfinite(sigma) & (sigma > 0.0)):
            raise PatternError(
                "uncertainties must be greater than 0 Å, one for all spacings or each."
            )
    return d, hkl, sigma
