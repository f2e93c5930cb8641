"""Fits of correlation functions whose truth is known, and of speckle drawn with it."""

import numpy as np
import pytest
from xpcs_speckle import partition, speckle

from beamline.core.errors import CorrelationError
from beamline.xpcs.fits import fit_correlation, fit_diffusion, fit_double, fit_power, fit_single
from beamline.xpcs.multitau import MultiTau

T = np.geomspace(1e-3, 10.0, 40)
D = 12.0  # nm²/frame: τ of 3 to 60 frames


@pytest.mark.parametrize("tau", [4e-3, 0.1, 3.0])
@pytest.mark.parametrize("c", [0.5, 1.0, 1.6])
def test_single_finds_its_parameters_from_anywhere(tau, c):
    truth = 0.3 * np.exp(-2.0 * (T / tau) ** c) + 1.02
    fit = fit_single(T, truth + np.random.default_rng(0).normal(0, 1e-4, len(T)), np.full(40, 1e-4))
    for name, value in (("a", 0.3), ("tau", tau), ("c", c), ("d", 1.02)):
        assert abs(fit.values[name] - value) < 5.0 * fit.errors[name]
        assert abs(fit.values[name] / value - 1.0) < 0.05
    assert fit.chi_square < 3.0 * fit.dof


def test_double_tells_fast_from_slow():
    field = 0.4 * np.exp(-T / 0.01) + 0.6 * np.exp(-T / 1.0)
    fit = fit_double(T, 0.2 * field**2 + 1.0, np.full(40, 1e-4), baseline=1.0)
    np.testing.assert_allclose(
        [fit.values[name] for name in ("a", "f", "tau1", "tau2")], [0.2, 0.4, 0.01, 1.0], rtol=1e-3
    )
    assert fit.errors["d"] == 0.0


def test_errors_are_those_of_repeated_measurements():
    rng = np.random.default_rng(1)
    truth = 0.3 * np.exp(-2.0 * T / 0.1) + 1.0
    fits = [
        fit_single(T, truth + rng.normal(0, 3e-3, len(T)), np.full(40, 3e-3)) for _ in range(40)
    ]
    for name, value in (("a", 0.3), ("tau", 0.1), ("c", 1.0), ("d", 1.0)):
        pulls = [(fit.values[name] - value) / fit.errors[name] for fit in fits]
        assert abs(np.mean(pulls)) < 0.5
        assert 0.7 < np.std(pulls) < 1.3


def test_common_noise_of_all_lags_counts_if_the_covariance_says_so():
    sigma = np.full(40, 1e-3)
    y = 0.3 * np.exp(-2.0 * T / 0.1) + 1.0
    alone = fit_single(T, y, sigma)
    common = fit_single(T, y, sigma, covariance=np.full((40, 40), 1e-6))
    assert abs(common.errors["d"] / 1e-3 - 1.0) < 0.01
    assert common.errors["tau"] < 0.1 * alone.errors["tau"]


def test_powers_and_diffusion():
    q = np.linspace(0.02, 0.2, 8)
    fit = fit_diffusion(q, 1.0 / (300.0 * q**2), 0.01 / (300.0 * q**2))
    assert abs(fit.values["D"] - 300.0) < 1e-6
    np.testing.assert_allclose(fit.errors["D"], 300.0 * 0.01 / np.sqrt(8))
    np.testing.assert_allclose(fit.curve, 300.0 * q**2)
    fit = fit_power(q, 2e-3 * q**-1.5)
    np.testing.assert_allclose([fit.values["a"], fit.values["b"]], [2e-3, -1.5])


@pytest.mark.parametrize(
    ("delays", "g2", "message"),
    [
        (T[:3], T[:3], "3 lags, expected 4 or more"),
        (T, T[:9], "equally long"),
        (T, np.where(T > 1, np.nan, T), "leave it out"),
    ],
)
def test_refuses_what_cannot_be_fitted(delays, g2, message):
    with pytest.raises(CorrelationError, match=message):
        fit_single(delays, g2)


def test_refuses_relaxation_times_that_are_none():
    with pytest.raises(CorrelationError, match="positive numbers"):
        fit_diffusion([0.1, 0.2], [1.0, -1.0])


def diffusion(mean, seed, side, frames, events=False):
    """Correlate and fit speckle of a known D; return D, its error, and the correlation."""
    dynamic, static, q = partition(side)
    rate = D * q[dynamic - 1] ** 2
    correlator = MultiTau(dynamic, static, 1.0, levels=5)
    for frame in speckle(side, frames, mean, rate, seed):
        if events:
            pixels = np.repeat(np.arange(side * side), frame.ravel())
            correlator.add_events(pixels, np.array([0]))
        else:
            correlator.add(frame)
    result = correlator.result()
    fits = fit_correlation(result, exponent=1.0)
    fit = fit_diffusion(q, [own.values["tau"] for own in fits], [own.errors["tau"] for own in fits])
    return fit.values["D"], fit.errors["D"], result


@pytest.mark.parametrize(("mean", "events"), [(1.0, False), (0.25, True)])
def test_diffusion_constant_of_simulated_speckle_within_three_percent(mean, events):
    found, error, _ = diffusion(mean, 5, 96, 400, events)
    assert abs(found / D - 1.0) < 0.03
    assert error / D < 0.02


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mean", [1.0, 0.05])
def test_pulls_over_seeds_and_coverage_of_block_errors(mean):
    found = [diffusion(mean, seed, 64, 400) for seed in range(40)]
    pulls = np.array([(value - D) / error for value, error, _ in found])
    assert abs(pulls.mean()) < 0.5
    assert 0.7 < pulls.std(ddof=1) < 1.3
    g2 = np.array([result.g2 for *_, result in found])
    block = np.array([result.g2_err_block for *_, result in found])
    ratio = np.sqrt((block**2).mean(axis=0)) / g2.std(axis=0, ddof=1)
    assert 0.85 < np.median(ratio) < 1.15
    inside = np.abs(g2 - g2.mean(axis=0)) < block
    assert 0.6 < inside.mean() < 0.76
