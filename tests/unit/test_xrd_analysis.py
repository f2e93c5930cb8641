"""Powder patterns: the peaks that are there, profiles as lmfit fits them, and unit cells."""

from __future__ import annotations

import itertools
import time

import lmfit
import numpy as np
import pytest

from beamline.analysis.xrd import XRDAnalyzer
from beamline.core.errors import PatternError

analyzer = XRDAnalyzer()
X = np.linspace(10, 90, 3201)
#: Silicon, Cu Kα1: 2θ and relative intensity.
SILICON = [(28.443, 100), (47.304, 55), (56.122, 30), (69.131, 6), (76.377, 11), (88.030, 12)]


def pattern(peaks=SILICON, fwhm=0.15, scale=100.0, noise=None):
    y = 300 * np.exp(-X / 25) + 40 * np.exp(-(((X - 25) / 9) ** 2)) + 20
    for center, height in peaks:
        y = y + scale * height / (1 + 4 * ((X - center) / fwhm) ** 2)
    return y if noise is None else np.random.default_rng(noise).poisson(y).astype(float)


@pytest.mark.parametrize(("prominence", "number"), [(0.5, 2), (0.1, 5), (0.05, 6), (0.02, 6)])
@pytest.mark.parametrize("noise", [None, 1, 2])
def test_peaks_are_found_by_their_share_of_the_range(prominence, number, noise):
    found = analyzer.find_peaks(X, pattern(noise=noise), prominence)
    expected = sorted(sorted(SILICON, key=lambda peak: -peak[1])[:number])
    assert [peak.two_theta for peak in found] == pytest.approx([c for c, _ in expected], abs=0.03)
    assert [peak.fwhm for peak in found] == pytest.approx([0.15] * number, rel=0.3)
    for peak, (_, height) in zip(found, expected, strict=True):
        assert peak.height == pytest.approx(100 * height, rel=0.15)


def test_noise_and_background_alone_have_no_peaks():
    rng = np.random.default_rng(5)
    for y in (np.full_like(X, 7.0), X, rng.normal(100, 10, len(X)), pattern([], noise=3)):
        assert analyzer.find_peaks(X, y, 0.05) == []


def test_a_long_pattern_takes_less_than_a_second():
    x = np.linspace(2, 132, 130_000)
    rng = np.random.default_rng(1)
    centers = np.arange(5, 130, 3.0) + rng.uniform(0, 1, 42)
    y = 50 + 200 * np.exp(-x / 30)
    for center in centers:
        y += rng.uniform(2e3, 1e4) / (1 + 4 * ((x - center) / 0.05) ** 2)
    y = rng.poisson(y).astype(float)
    begun = time.thread_time()
    found = analyzer.find_peaks(x, y)
    assert time.thread_time() - begun < 1.0
    assert [peak.two_theta for peak in found] == pytest.approx(centers, abs=2e-3)
    assert len(analyzer.find_peaks(x, y, 0.01)) == len(centers)


@pytest.mark.parametrize("model", ["gaussian", "lorentzian", "pseudo-voigt"])
@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_profiles_are_fitted_as_lmfit_does(model, fraction):
    rng = np.random.default_rng(7)
    x = np.arange(30, 32, 0.004)
    peak = lmfit.models.PseudoVoigtModel()
    values = {"center": 31.0123, "amplitude": 200.0, "sigma": 0.03, "fraction": fraction}
    y = rng.poisson(peak.eval(x=x, **values) + 90 + 3 * (x - 31)).astype(float)
    fit = analyzer.fit_peak(x, y, 31.05, 0.6, model)
    made = {
        "gaussian": lmfit.models.GaussianModel,
        "lorentzian": lmfit.models.LorentzianModel,
        "pseudo-voigt": lmfit.models.PseudoVoigtModel,
    }[model]() + lmfit.models.LinearModel(prefix="b_")
    inside = np.abs(x - 31.05) <= 0.6
    started = made.make_params(center=31, sigma=0.03, amplitude=200, b_slope=0, b_intercept=90)
    theirs = made.fit(y[inside], started, x=x[inside]).params
    assert fit.center == pytest.approx(theirs["center"].value, abs=5e-5)
    assert fit.fwhm == pytest.approx(theirs["fwhm"].value, rel=2e-3)
    assert fit.area == pytest.approx(theirs["amplitude"].value, rel=2e-3)
    assert fit.height == pytest.approx(theirs["height"].value, rel=2e-3)
    assert fit.slope == pytest.approx(theirs["b_slope"].value, rel=0.02, abs=0.5)
    at_center = theirs["b_intercept"].value + theirs["b_slope"].value * fit.center
    assert fit.background == pytest.approx(at_center, rel=2e-3)
    if model != "pseudo-voigt" or fraction == 0.4:  # at a bound lmfit has no errors
        assert fit.center_err == pytest.approx(theirs["center"].stderr, rel=0.02)
        assert fit.fwhm_err == pytest.approx(theirs["fwhm"].stderr, rel=0.02)
        assert fit.area_err == pytest.approx(theirs["amplitude"].stderr, rel=0.05)


def test_uncertainties_of_a_fit_cover_the_truth():
    x = np.arange(20, 24, 0.02)
    truth = 500 * np.exp(-4 * np.log(2) * ((x - 22.013) / 0.4) ** 2) + 50 + 4 * (x - 22)
    pulls = []
    for seed in range(200):
        y = truth + np.random.default_rng(seed).normal(0, 8, len(x))
        fit = analyzer.fit_peak(x, y, 22.0, 1.5)
        pulls.append(
            [
                (fit.center - 22.013) / fit.center_err,
                (fit.fwhm - 0.4) / fit.fwhm_err,
                (fit.height - 500) / fit.height_err,
                (fit.background - 50 - 4 * 0.013) / fit.background_err,
            ]
        )
    assert np.std(pulls, axis=0) == pytest.approx([1.0] * 4, abs=0.2)
    assert np.mean(pulls, axis=0) == pytest.approx([0.0] * 4, abs=0.25)


def test_spacings_and_sizes():
    assert analyzer.calculate_d_spacing(28.443) == pytest.approx(3.1355, abs=1e-4)
    angles = np.array([28.443, 47.304])
    assert analyzer.calculate_d_spacing(angles) == pytest.approx([3.1355, 1.9201], abs=1e-4)
    size = analyzer.estimate_crystallite_size(0.2, 28.443, 1.5406)
    assert size == pytest.approx(0.09 * 1.5406 / (np.radians(0.2) * np.cos(np.radians(14.2215))))
    assert analyzer.estimate_crystallite_size(0.2, 28.443, 1.5406, K=1.0) > size


def spacings(cell, hkl):
    a, b, c = cell[:3]
    alpha, beta, gamma = np.radians(cell[3:])
    metric = np.array(
        [
            [a * a, a * b * np.cos(gamma), a * c * np.cos(beta)],
            [a * b * np.cos(gamma), b * b, b * c * np.cos(alpha)],
            [a * c * np.cos(beta), b * c * np.cos(alpha), c * c],
        ]
    )
    hkl = np.asarray(hkl, dtype=float)
    return 1 / np.sqrt(np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(metric), hkl))


CELLS = {
    "cubic": (5.4310, 5.4310, 5.4310, 90, 90, 90),
    "tetragonal": (4.594, 4.594, 2.959, 90, 90, 90),
    "orthorhombic": (4.96, 7.97, 5.74, 90, 90, 90),
    "hexagonal": (3.249, 3.249, 5.207, 90, 90, 120),
    "trigonal": (4.759, 4.759, 12.993, 90, 90, 120),
    "rhombohedral": (5.128, 5.128, 5.128, 55.28, 55.28, 55.28),
    "monoclinic": (5.150, 5.212, 5.317, 90, 99.23, 90),
    "triclinic": (7.12, 7.85, 5.58, 90.1, 101.2, 106.0),
}
HKL = [
    indices
    for indices in itertools.product((-1, 0, 1, 2), (0, 1, 2), (0, 1, 3))
    if indices != (0, 0, 0)
]


@pytest.mark.parametrize("system", CELLS)
def test_every_crystal_system_with_its_uncertainty(system):
    cell, exact = CELLS[system], spacings(CELLS[system], HKL)
    found = analyzer.calculate_lattice_parameter(exact, HKL, system)
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    assert [getattr(found, name) for name in names] == pytest.approx(cell, rel=1e-9)
    assert found.residual < 1e-12
    rng = np.random.default_rng(11)
    pulls = []
    for _ in range(150):
        noisy = exact * (1 + 2e-4 * rng.normal(size=len(exact)))
        fit = analyzer.calculate_lattice_parameter(noisy, HKL, system)
        pulls.append([(fit.a - cell[0]) / fit.a_err, (fit.c - cell[2]) / fit.c_err])
        for name, value in zip(names[3:], cell[3:], strict=True):
            assert (getattr(fit, f"{name}_err") == 0.0) == (value in (90, 120))
    assert np.std(pulls, axis=0) == pytest.approx([1.0, 1.0], abs=0.25)


def test_one_reflection_of_a_cubic_cell_needs_the_uncertainty_of_its_spacing():
    alone = analyzer.calculate_lattice_parameter([3.1356], [(1, 1, 1)])
    assert alone.a == pytest.approx(5.4310, abs=2e-4)
    assert np.isnan(alone.a_err)
    assert alone.alpha_err == 0.0
    known = analyzer.calculate_lattice_parameter([3.1356], [(1, 1, 1)], d_uncertainties=0.001)
    assert known.a_err == pytest.approx(0.001 * np.sqrt(3))
    assert known.volume_err == pytest.approx(3 * known.a**2 * known.a_err)


Y = pattern()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analyzer.find_peaks(X[::-1], Y), "unsorted at points 0 and 1"),
        (lambda: analyzer.find_peaks(np.where(X[5] == X, X[4], X), Y), "twice the same at points"),
        (lambda: analyzer.find_peaks(X, np.where(X[5] == X, np.nan, Y)), "intensity is nan at"),
        (lambda: analyzer.find_peaks(X, Y[:-1]), "equally long"),
        (lambda: analyzer.find_peaks([1], [2]), "at least 5 points, found 1"),
        (lambda: analyzer.find_peaks(["a"] * 9, Y[:9]), "arrays of real numbers"),
        (lambda: analyzer.find_peaks(X, Y, prominence=0), "a fraction from 0 to 1"),
        (lambda: analyzer.fit_peak(X, Y, 200.0), "there are 0 points between 199 and 201"),
        (lambda: analyzer.fit_peak(X, Y, 28.4, 0.05), "expected more than 5"),
        (lambda: analyzer.fit_peak(X, Y, 28.4, -1), "width greater than 0"),
        (lambda: analyzer.fit_peak(X, Y, 28.4, model="voigt"), "model must be one of"),
        (lambda: analyzer.fit_peak(X, np.full_like(X, 3.0), 28.4), "no gaussian peak was found"),
        (lambda: analyzer.calculate_d_spacing(0.0), "between 0 and 180"),
        (lambda: analyzer.calculate_d_spacing(np.array([20.0, np.nan])), "between 0 and 180"),
        (lambda: analyzer.calculate_d_spacing(20.0, -1.0), "wavelength must be greater than 0"),
        (lambda: analyzer.estimate_crystallite_size(0.0, 20.0), "fwhm must be greater than 0"),
        (lambda: analyzer.calculate_lattice_parameter([3.0], [(1, 1)]), r"found shapes \(1,\)"),
        (lambda: analyzer.calculate_lattice_parameter([3.0], [(0, 0, 0)]), "not 0 0 0"),
        (lambda: analyzer.calculate_lattice_parameter([-3.0], [(1, 0, 0)]), "greater than 0 Å"),
        (lambda: analyzer.calculate_lattice_parameter([3.0], [(1, 0.5, 0)]), "whole numbers"),
        (lambda: analyzer.calculate_lattice_parameter([3.0], [(1, 0, 0)], "bcc"), "one of cubic"),
        (
            lambda: analyzer.calculate_lattice_parameter(
                [3, 1.5], [(1, 0, 0), (2, 0, 0)], "hexagonal"
            ),
            "do not determine the 2 parameters",
        ),
        (
            lambda: analyzer.calculate_lattice_parameter(
                [3, 3.5], [(1, 0, 0), (1, 0, 1)], "tetragonal"
            ),
            "no tetragonal cell has these spacings",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(call, message):
    with pytest.raises(PatternError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
