"""The fine structure above an absorption edge: χ(k) by a spline background, and χ(R).

k = √(2 mₑ (E − E0)) / ħ is the photoelectron's wave number in Å⁻¹. The background is the spline for
which χ has no signal at distances below `rbkg` (AUTOBK: M. Newville et al., Phys. Rev. B 47, 14126,
1993). It is linear in its coefficients, and so is the Fourier transform, so that one least-squares
solution finds it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from beamline.core.errors import SpectrumError

__all__ = ["K_STEP", "WINDOWS", "Window", "remove_background", "transform", "wave_number"]

Array = npt.NDArray[np.float64]
Window = Literal["hanning", "parzen", "welch", "sine", "kaiser"]
WINDOWS: tuple[Window, ...] = ("hanning", "parzen", "welch", "sine", "kaiser")

#: 2 mₑ / ħ², 1/(eV Å²) (CODATA 2022).
_ETOK = 0.26246842
#: Of the grid on which χ is given, Å⁻¹.
K_STEP = 0.05
_POINTS = 2048
_R_MAX = 10.0  # Å
_LEAST_K = 3.0  # Å⁻¹: less holds no shell
_CLAMPED = 3  # points at the end of χ that the background is held to
_KNOTS_EVERY = np.pi / 2.0


def wave_number(energy: Array, e0: float) -> Array:
    """Photoelectron wave number, Å⁻¹; negative below the edge."""
    x = energy - e0
    return np.sign(x) * np.sqrt(_ETOK * np.abs(x))


def remove_background(
    energy: Array, mu: Array, e0: float, edge_step: float, rbkg: float, kweight: int
) -> tuple[Array, Array]:
    """Return k and χ(k) = (µ − background) / edge_step.

    Parameters
    ----------
    energy, mu
        (n,) eV, strictly increasing, and absorption.
    e0, edge_step
        Of the edge, eV and in units of `mu`.
    rbkg
        Å; no signal is left below it.
    kweight
        Power of k by which χ is weighted in the criterion.

    Returns
    -------
    tuple of arrays
        k on an even grid from 0, Å⁻¹, and χ, (m,).

    Raises
    ------
    SpectrumError
        If the spectrum ends too soon above the edge, or has fewer points there than the spline.
    """
    from scipy.interpolate import BSpline, make_interp_spline

    raw = wave_number(energy, e0)
    above = raw >= 0.0
    k_max = float(raw[-1])
    knots_wanted = 1 + int(k_max * rbkg / _KNOTS_EVERY)
    if k_max < _LEAST_K or np.count_nonzero(above) < max(10, knots_wanted):
        raise SpectrumError(
            f"the spectrum has {np.count_nonzero(above)} points up to k = {k_max:.1f} 1/Å above "
            f"e0 = {e0:.1f} eV, expected at least {max(10, knots_wanted)} and {_LEAST_K:g} 1/Å "
            f"for rbkg = {rbkg:g} Å."
        )
    k: Array = K_STEP * np.arange(int(1.01 + k_max / K_STEP), dtype=np.float64)
    first = max(0, int(np.argmax(above)) - 2)
    order = min(3, len(raw) - first - 1)
    smooth = make_interp_spline(raw[first:], mu[first:], k=order)(k)

    number = max(5, knots_wanted)
    inner = np.linspace(0.0, k[-1], number - 2)[1:-1]
    knots = np.concatenate([[0.0] * 4, inner, [k[-1]] * 4])
    basis = BSpline.design_matrix(k, knots, 3).toarray()

    weight = _taper(k, 0.0, k[-1], 0.1, "hanning") * k**kweight
    r_step = np.pi / (K_STEP * _POINTS)
    low = np.arange(int(1 + (number - 1) * np.pi / (2.0 * r_step * k[-1])))
    kernel = np.exp(2j * np.outer(low * r_step, k)) * weight * K_STEP / np.sqrt(np.pi)
    kernel = np.concatenate([kernel.real, kernel.imag])
    # A weak hold at the end of the range, where few points say what the background is.
    hold = np.eye(len(k))[-_CLAMPED:]
    criterion = np.concatenate([kernel, hold])
    coefficients, *_ = np.linalg.lstsq(criterion @ basis, criterion @ smooth, rcond=1e-10)
    return k, (smooth - basis @ coefficients) / edge_step


def transform(
    k: Array, chi: Array, kmin: float, kmax: float, kweight: float, window: Window, dk: float
) -> tuple[Array, npt.NDArray[np.complex128]]:
    """Return R (Å) and the complex χ(R) (Å⁻⁽ᵏʷᵉⁱᵍʰᵗ⁺¹⁾) up to 10 Å.

    χ(R) = δk/√π · Σ χ(k) kʷ W(k) exp(2ikR), at multiples of π/(N δk), N = 2048.
    """
    grid: Array = K_STEP * np.arange(int(1.01 + k[-1] / K_STEP), dtype=np.float64)
    even = np.interp(grid, k, chi, left=0.0)
    weighted = even * grid**kweight * _taper(grid, kmin, kmax, dk, window)
    made = np.fft.ifft(weighted, _POINTS) * _POINTS * K_STEP / np.sqrt(np.pi)
    r: Array = np.pi / (K_STEP * _POINTS) * np.arange(_POINTS // 2, dtype=np.float64)
    shown = r <= _R_MAX
    return r[shown], made[: _POINTS // 2][shown]


def _taper(k: Array, kmin: float, kmax: float, dk: float, window: Window) -> Array:
    """Return the window, whose flanks are `dk` wide and centred at `kmin` and `kmax`."""
    half = max(dk, 1e-9) / 2.0
    if window in ("hanning", "parzen", "welch"):
        up = np.clip((k - kmin + half) / (2.0 * half), 0.0, 1.0)
        down = np.clip((kmax + half - k) / (2.0 * half), 0.0, 1.0)
        flank = up * down
        if window == "hanning":
            return np.sin(0.5 * np.pi * flank) ** 2
        return flank if window == "parzen" else 1.0 - (1.0 - flank) ** 2
    centre, reach = 0.5 * (kmin + kmax), 0.5 * (kmax - kmin) + half
    x = np.clip((k - centre) / reach, -1.0, 1.0)
    if window == "sine":
        return np.cos(0.5 * np.pi * x)
    return np.asarray(np.i0(dk * np.sqrt(1.0 - x**2)) - 1.0) / max(float(np.i0(dk)) - 1.0, 1e-12)
