"""Edges and normalised spectra: known answers, noise, odd grids, and what is no spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamline.analysis.xafs import XAFSProcessor
from beamline.core.errors import SpectrumError

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "cu_foil_2016_reference.npz"
E0, STEP = 8979.3, 1.62
processor = XAFSProcessor()


def grid(spacing: float = 0.5) -> np.ndarray:
    return E0 + np.concatenate(
        [np.arange(-160, -25, 5.0), np.arange(-25, 35, spacing), np.arange(35, 620, 3.0)]
    )


def absorption(energy: np.ndarray, e0: float = E0, width: float = 2.0) -> np.ndarray:
    """A sloping background, an edge of known place and height, and a wiggle that averages out."""
    x = energy - e0
    edge = 0.5 * (1 + np.tanh(2 * x / width))
    wiggle = 0.06 * np.sin(x / 6.0) * np.exp(-x / 150.0) * (x > 5)
    return -0.4 - 4e-4 * x + STEP * edge * (1 - 2e-4 * x + wiggle)


def test_finds_the_edge_between_grid_points():
    for spacing in (0.1, 0.25, 0.5, 1.0):
        e = grid(spacing) + 0.137
        assert processor.find_edge(e, absorption(e)) == pytest.approx(E0, abs=0.06), spacing
    for spacing in (2.0, 3.0):
        e = grid(spacing) + 0.137
        assert processor.find_edge(e, absorption(e)) == pytest.approx(E0, abs=0.35 * spacing)


def test_scale_offset_and_slope_do_not_move_the_edge():
    e = grid()
    plain = processor.find_edge(e, absorption(e))
    assert processor.find_edge(e, 1e-4 * absorption(e) - 7) == pytest.approx(plain, abs=1e-3)
    assert processor.find_edge(e, 1e5 * absorption(e)) == pytest.approx(plain, abs=1e-3)
    assert processor.find_edge(e, absorption(e) - 0.003 * (e - E0)) == pytest.approx(plain, abs=0.1)


@pytest.mark.parametrize(("noise", "tolerance"), [(0.001, 0.1), (0.005, 0.25), (0.02, 0.5)])
def test_noise_does_not_move_the_edge(noise, tolerance):
    e = grid(0.25)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mu = absorption(e) + rng.normal(0.0, noise * STEP, len(e))
        assert processor.find_edge(e, mu) == pytest.approx(E0, abs=tolerance), seed


def test_a_glitch_is_not_an_edge():
    e = grid(0.25)
    for position, height in ((-60.0, 3.0), (200.0, 3.0), (200.0, -3.0)):
        mu = absorption(e)
        mu[np.argmin(np.abs(e - E0 - position))] += height
        assert processor.find_edge(e, mu) == pytest.approx(E0, abs=0.1), position


def test_points_that_crowd_do_not_matter():
    e = np.sort(
        np.concatenate([grid(), E0 - 59.3 + np.arange(200) * 1e-3, E0 + 201.1 + np.arange(9) / 1e4])
    )
    rng = np.random.default_rng(3)
    mu = absorption(e) + rng.normal(0.0, 0.002, len(e))
    assert processor.find_edge(e, mu) == pytest.approx(E0, abs=0.3)


def test_normalises_a_known_step():
    e = grid()
    result = processor.normalize(e, absorption(e))
    assert result.e0 == pytest.approx(E0, abs=0.06)
    assert result.edge_step == pytest.approx(STEP, rel=0.01)
    x = e - E0
    assert np.abs(result.norm[x < -20]).max() < 1e-3
    assert result.norm[(x > 60) & (x < 300)].mean() == pytest.approx(1 - 2e-4 * 180, abs=0.01)
    np.testing.assert_allclose(result.pre, -0.4 - 4e-4 * x, atol=2e-3)
    np.testing.assert_allclose(result.norm * result.edge_step + result.pre, absorption(e))
    at_e0 = np.interp(result.e0, e, result.post - result.pre)
    assert at_e0 == pytest.approx(result.edge_step, rel=1e-6)


def test_uses_the_edge_and_ranges_it_is_given():
    e = grid()
    result = processor.normalize(
        e, absorption(e), e0=E0 + 1, pre_edge=(-100.0, -40.0), post_edge=(100.0, 600.0)
    )
    assert result.e0 == E0 + 1
    assert -100 <= result.pre_edge[0] < result.pre_edge[1] <= -40
    assert 100 <= result.post_edge[0] < result.post_edge[1] <= 600
    assert result.edge_step == pytest.approx(STEP, rel=0.02)


def test_ranges_are_cut_to_the_data():
    e = grid()
    e = e[(e > E0 - 80) & (e < E0 + 140)]
    result = processor.normalize(e, absorption(e))
    assert result.pre_edge[0] >= -80
    assert result.post_edge[1] <= 140
    assert result.edge_step == pytest.approx(STEP, rel=0.03)


@pytest.mark.parametrize(("upper", "degree"), [(90.0, 0), (300.0, 1), (600.0, 2)])
def test_degree_follows_from_the_width(upper, degree):
    e = grid()
    mu = absorption(e)
    chosen = processor.normalize(e, mu, post_edge=(50.0, upper))
    stated = processor.normalize(e, mu, post_edge=(50.0, upper), degree=degree)
    assert chosen.edge_step == stated.edge_step
    other = processor.normalize(e, mu, post_edge=(50.0, upper), degree=degree + 1)
    assert other.edge_step != stated.edge_step


E = np.linspace(8800.0, 9300.0, 501)
NO_EDGE = {
    "constant": np.zeros(501),
    "line": np.linspace(0.0, 1.0, 501),
    "falling": (E / 8800.0) ** -2.8,
    "rising curve": (E / 8800.0) ** 5,
    "noise": np.random.default_rng(1).normal(0.0, 0.1, 501),
    "hump": np.exp(-(((E - 9050.0) / 80.0) ** 2)),
    "wave": np.sin(E / 40.0),
    "glitch": np.where(E == 9000.0, 5.0, 0.0),
    "downwards": -np.arctan((E - 9000.0) / 2.0),
}


@pytest.mark.parametrize("kind", NO_EDGE)
def test_no_edge_is_an_error(kind):
    with pytest.raises(SpectrumError, match=r"no absorption edge between 8800\.0 and 9300\.0 eV"):
        processor.find_edge(E, NO_EDGE[kind])


def broken(values: np.ndarray, index: int, value: float) -> np.ndarray:
    values = values.copy()
    values[index] = value
    return values


MU = absorption(E)
NO_SPECTRUM = {
    "unsorted": (E[::-1], MU, "unsorted at points 0 and 1"),
    "duplicate": (broken(E, 5, E[4]), MU, "twice the same at points 4 and 5"),
    "short": (E[:5], MU[:5], "at least 10 points, found 5"),
    "empty": ([], [], "at least 10 points"),
    "lengths": (E, MU[:-1], "equally long"),
    "two-dimensional": (E.reshape(3, -1), MU.reshape(3, -1), "one-dimensional"),
    "NaN in energy": (broken(E, 7, np.nan), MU, "energy is nan at point 7"),
    "NaN in mu": (E, broken(MU, 7, np.nan), "µ is nan at point 7"),
    "infinite": (E, broken(MU, 9, -np.inf), "µ is -inf at point 9"),
    "words": (["a"] * 20, MU[:20], "arrays of real numbers"),
    "nothing": (None, None, "one-dimensional"),
}


@pytest.mark.parametrize("kind", NO_SPECTRUM)
def test_what_is_no_spectrum_is_an_error(kind):
    energy, mu, message = NO_SPECTRUM[kind]
    for method in (processor.find_edge, processor.normalize):
        with pytest.raises(SpectrumError, match=message) as caught:
            method(energy, mu)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"e0": 1.0}, "outside the spectrum"),
        ({"e0": float("nan")}, "outside the spectrum"),
        ({"pre_edge": (-30.0, -150.0)}, r"pre-edge range must be \(lower, upper\)"),
        ({"pre_edge": (-5000.0, -4000.0)}, "pre-edge range -5000 to -4000 eV holds 0 points"),
        ({"post_edge": (5000.0, 6000.0)}, "post-edge range 5000 to 6000 eV holds 0 points"),
        ({"e0": E0}, "edge step .* expected a positive one"),
    ],
)
def test_ranges_that_do_not_fit(arguments, message):
    mu = absorption(E) if "e0" not in arguments else -absorption(E)
    with pytest.raises(SpectrumError, match=message):
        processor.normalize(E, mu, **arguments)


@given(
    st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(-1e9, 1e9)), min_size=0, max_size=60),
    st.booleans(),
)
def test_any_arrays_give_an_answer_within_or_an_error(points, ordered):
    if ordered:
        points = sorted(points)
    energy = np.array([p[0] for p in points])
    mu = np.array([p[1] for p in points])
    try:
        result = processor.normalize(energy, mu)
    except SpectrumError:
        return
    assert energy[0] <= result.e0 <= energy[-1]
    assert np.all(np.isfinite(result.norm))


def test_the_reference_foil():
    if not REFERENCE.exists():
        pytest.skip(
            f"{REFERENCE.name} is not in {REFERENCE.parent}, which is not part of the project"
        )
    with np.load(REFERENCE, allow_pickle=False) as data:
        energy, mu, norm = data["energy"], data["mu"], data["norm"]
        e0, step = float(data["e0"]), float(data["edge_step"])
    assert processor.find_edge(energy, mu) == pytest.approx(e0, abs=0.1)
    usual = processor.normalize(energy, mu)
    assert usual.edge_step == pytest.approx(step, rel=0.02)
    same = processor.normalize(energy, mu, pre_edge=(-96.1, -30.0), post_edge=(100.0, 632.8))
    assert same.edge_step == pytest.approx(step, rel=0.01)
    assert np.sqrt(np.mean((same.norm - norm) ** 2)) < 0.005
