"""χ(k) and χ(R): a synthetic shell comes back, and a measured foil as larch evaluates it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamline.analysis.exafs import wave_number
from beamline.analysis.xafs import XAFSProcessor
from beamline.core.errors import SpectrumError

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "cu_foil_2016_reference.npz"
E0, R, STEP = 8979.0, 2.5, 1.4
processor = XAFSProcessor()


def shell(k: np.ndarray) -> np.ndarray:
    return 0.6 * np.sin(2 * R * k) * np.exp(-2 * 0.006 * k**2) / np.maximum(k, 0.5)


def spectrum() -> tuple[np.ndarray, np.ndarray]:
    energy = E0 + np.concatenate(
        [np.arange(-200, -20, 5.0), np.arange(-20, 40, 0.25), np.arange(40, 900, 1.5)]
    )
    x = energy - E0
    k = wave_number(energy, E0)
    edge = 0.5 * (1 + np.tanh(x / 0.8))
    smooth = 0.3 - 3e-4 * x + STEP * edge * (1 - 2e-4 * x + 0.02 * np.sin(x / 250.0))
    return energy, smooth + STEP * edge * np.where(k > 0, shell(k), 0.0)


def top(r: np.ndarray, magnitude: np.ndarray) -> tuple[float, float]:
    """Position and height of the first maximum, interpolated between grid points."""
    near = np.flatnonzero((r > 1.2) & (r < 4.0))
    i = near[np.argmax(magnitude[near])]
    a, b, c = np.polyfit(r[i - 1 : i + 2] - r[i], magnitude[i - 1 : i + 2], 2)
    return float(r[i] - b / (2 * a)), float(c - b**2 / (4 * a))


def test_a_shell_under_a_background_comes_back():
    k, chi = processor.extract_chi(*spectrum(), E0, edge_step=STEP)
    assert k[0] == 0.0
    assert np.diff(k) == pytest.approx(0.05)
    inner = (k > 3) & (k < 14)
    expected = shell(k)
    misfit = ((chi - expected) * k**2)[inner]
    assert np.sqrt(np.mean(misfit**2)) < 0.05 * np.sqrt(np.mean((expected * k**2)[inner] ** 2))
    place, _ = top(*processor.fourier_transform(k, chi, 3, 14))
    assert place == pytest.approx(R, abs=0.01)


def test_nothing_is_left_below_rbkg():
    k, chi = processor.extract_chi(*spectrum(), E0, rbkg=1.2)
    r, magnitude = processor.fourier_transform(k, chi, 3, 14)
    assert magnitude[r < 1.0].max() < 0.05 * magnitude.max()


def test_distances_are_those_of_half_the_phase_and_spaced_by_the_number_of_points():
    k = np.arange(0, 16, 0.05)
    r, magnitude = processor.fourier_transform(k, np.sin(2 * 3.1 * k), 2, 14, kweight=0)
    assert r[1] == pytest.approx(np.pi / (2048 * 0.05))
    assert r[-1] == pytest.approx(10.0, abs=r[1])
    assert top(r, magnitude)[0] == pytest.approx(3.1, abs=0.005)
    # Parseval's theorem fixes the scale: height = amplitude / 2 · width of the window / √π.
    assert top(r, magnitude)[1] == pytest.approx(0.5 * 12 / np.sqrt(np.pi), rel=0.01)
    uneven = np.sort(np.random.default_rng(3).uniform(0, 16, 900))
    again = processor.fourier_transform(uneven, np.sin(2 * 3.1 * uneven), 2, 14, kweight=0)
    assert top(*again)[0] == pytest.approx(3.1, abs=0.01)


@pytest.mark.parametrize("window", ["hanning", "parzen", "welch", "sine", "kaiser"])
def test_every_window_shows_the_shell_where_it_is(window):
    k = np.arange(0, 16, 0.05)
    r, magnitude = processor.fourier_transform(k, shell(k), 3, 14, window=window, dk=2)
    assert top(r, magnitude)[0] == pytest.approx(R, abs=0.02)


def test_the_measured_foil_is_evaluated_as_larch_does():
    if not REFERENCE.exists():
        pytest.skip(
            f"{REFERENCE.name} is not in {REFERENCE.parent}, which is not part of the project"
        )
    with np.load(REFERENCE, allow_pickle=False) as data:
        known = {name: data[name] for name in ("energy", "mu", "e0", "k", "chi", "r", "chir_mag")}
    for e0 in (float(known["e0"]), None):
        k, chi = processor.extract_chi(known["energy"], known["mu"], e0)
        assert k == pytest.approx(known["k"])
        ours, theirs = chi * k**2, known["chi"] * k**2
        assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.05 * np.sqrt(np.mean(theirs**2))
        r, magnitude = processor.fourier_transform(k, chi, 3, 12, 2, "hanning", 1)
        assert r == pytest.approx(known["r"])
        place, height = top(r, magnitude)
        expected_place, expected_height = top(known["r"], known["chir_mag"])
        assert place == pytest.approx(expected_place, abs=0.01)
        assert place == pytest.approx(2.24, abs=0.03)
        assert height == pytest.approx(expected_height, rel=0.01)


ENERGY, MU = spectrum()
K = np.arange(0, 13, 0.05)
CHI = shell(K)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: processor.extract_chi(ENERGY[::-1], MU), "unsorted at points 0 and 1"),
        (lambda: processor.extract_chi(ENERGY, MU, rbkg=-1), "rbkg must lie between 0 and 5"),
        (lambda: processor.extract_chi(ENERGY, MU, float("nan")), "outside the spectrum"),
        (lambda: processor.extract_chi(ENERGY, MU, edge_step=0.0), "greater than 0, found 0.0"),
        (lambda: processor.extract_chi(ENERGY[:140], MU[:140], E0, edge_step=1.0), "up to k ="),
        (lambda: processor.extract_chi(ENERGY, MU, 1.0, edge_step=1.0), "outside the spectrum"),
        (lambda: processor.fourier_transform(K, CHI, 2, 14), "the end of χ"),
        (lambda: processor.fourier_transform(K, CHI, 8, 3), "the window from kmin = 8"),
        (lambda: processor.fourier_transform(K - 1, CHI), "k begins at -1"),
        (lambda: processor.fourier_transform(K, CHI, window="box"), "window must be one of"),
        (lambda: processor.fourier_transform(K, np.where(K[7] == K, np.nan, CHI)), "χ is nan at"),
        (lambda: processor.fourier_transform(K[:4], CHI[:4]), "at least 10 points"),
        (lambda: processor.fourier_transform(K, CHI, dk=-1), "dk must be 0 or more"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(call, message):
    with pytest.raises(SpectrumError, match=message):
        call()
