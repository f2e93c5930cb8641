"""Points of scans: pure functions, so properties rather than examples where possible."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamline.core.units import energy_to_k
from beamline.plans.points import (
    DEFAULT_REGIONS,
    Region,
    as_region,
    line_points,
    mesh_points,
    xafs_points,
)

E0 = 8979.0


@st.composite
def region_lists(draw):
    """Contiguous regions: some in eV, then some in k, each starting where the last one ended."""
    edges = sorted(draw(st.lists(st.integers(-500, 60), min_size=2, max_size=5, unique=True)))
    regions = []
    for start, stop in pairwise(edges):
        step = draw(st.floats(0.1, max(0.1, (stop - start) / 2)))
        dwell = draw(st.none() | st.floats(0.01, 10))
        regions.append((float(start), float(stop), step, dwell))
    end = edges[-1]
    if end > 0:
        k = float(energy_to_k(E0 + end, E0))
        for width in draw(st.lists(st.floats(0.5, 5.0), max_size=2)):
            step = draw(st.floats(0.02, width / 2))
            regions.append((k, k + width, step, draw(st.floats(0.01, 10)), "k"))
            k += width
    return [tuple(v for v in region if v is not None) for region in regions]


@given(region_lists())
def test_energies_increase_and_regions_meet_in_one_point(regions):
    energy, dwell = xafs_points(E0, regions, dwell=0.25)
    assert (np.diff(energy) > 0).all()
    assert energy.shape == dwell.shape
    for region in map(as_region, regions):
        ends = np.array([region.start, region.stop])
        ends = E0 + (ends if region.unit == "eV" else 3.80998211 * ends**2)
        for end in ends:
            assert np.min(np.abs(energy - end)) < 1e-6


@given(region_lists())
def test_no_step_is_longer_than_asked_for(regions):
    energy, _ = xafs_points(E0, regions, dwell=0.25)
    for region in map(as_region, regions):
        x = energy - E0 if region.unit == "eV" else energy_to_k(energy, E0)
        inside = x[(x >= region.start - 1e-6) & (x <= region.stop + 1e-6)]
        assert np.diff(inside).max() <= region.step * (1 + 1e-6) + 1e-9


@given(region_lists())
def test_each_region_has_its_dwell_time(regions):
    energy, dwell = xafs_points(E0, regions, dwell=0.25)
    for region in map(as_region, regions):
        stop = E0 + (region.stop if region.unit == "eV" else 3.80998211 * region.stop**2)
        at_stop = dwell[np.argmin(np.abs(energy - stop))]
        assert at_stop == (0.25 if region.dwell is None else region.dwell)


def test_a_step_that_does_not_fit_is_shortened_at_the_end():
    energy, _ = xafs_points(E0, [(0, 10, 3)])
    np.testing.assert_allclose(energy - E0, [0, 3, 6, 9, 10])


def test_exact_steps_make_no_tiny_last_step():
    energy, _ = xafs_points(E0, [(0, 0.7, 0.1)])
    np.testing.assert_allclose(energy - E0, np.arange(8) / 10, atol=1e-9)


def test_a_join_of_ev_and_k_that_nearly_meets_is_one_point():
    # k = 2.8 is 29.87 eV: 0.13 eV below the end of the first region.
    energy, dwell = xafs_points(E0, [(20, 30, 1, 0.1), (2.8, 4, 0.1, 0.5, "k")])
    join = energy[(energy > E0 + 29) & (energy < E0 + 31.5)] - E0
    np.testing.assert_allclose(join, [30.0])
    assert dwell[np.argmin(np.abs(energy - E0 - 30))] == 0.1
    assert energy[-1] == pytest.approx(E0 + 3.80998211 * 16)


def test_a_gap_between_regions_stays_a_gap():
    energy, _ = xafs_points(E0, [(0, 2, 1), (10, 12, 1)])
    np.testing.assert_allclose(energy - E0, [0, 1, 2, 10, 11, 12])


def test_without_any_dwell_time_it_is_left_open():
    _, dwell = xafs_points(E0, [(0, 2, 1), (2, 4, 1, 0.5)])
    assert np.isnan(dwell[:3]).all()
    assert (dwell[3:] == 0.5).all()


def test_default_regions_cover_a_spectrum():
    energy, _ = xafs_points(E0, DEFAULT_REGIONS)
    assert energy[0] == E0 - 200
    assert energy_to_k(float(energy[-1]), E0) == pytest.approx(12.0)
    assert np.diff(energy)[(energy[:-1] > E0 - 19) & (energy[1:] < E0 + 29)].max() <= 0.5
    assert 200 < energy.size < 500


@pytest.mark.parametrize(
    ("regions", "number", "reason"),
    [
        ([], None, "at least one region"),
        ([(0, 10)], 1, r"start, stop, step"),
        (["eV"], 1, r"start, stop, step"),
        ([(0, 10, 1), (10, 5, 1)], 2, "stop must be greater"),
        ([(0, 10, 0)], 1, "step must be greater"),
        ([(0, 10, -1)], 1, "step must be greater"),
        ([(0, 10, 1, 0.0)], 1, "dwell time must be greater"),
        ([(0, 10, 1, 0.1, "keV")], 1, 'must be "eV" or "k"'),
        ([(0, 10, 1, 0.1, 5)], 1, "only a unit may follow"),
        ([(0, math.nan, 1)], 1, "stop must be a finite number"),
        ([(0, 10, math.inf)], 1, "step must be a finite number"),
        ([(0, "10", 1)], 1, "stop must be a finite number"),
        ([Region(0, 10, math.nan)], 1, "step must be a finite number"),
        ([{"start": 0, "stop": 1}], 1, "it needs start, stop, step"),
        ([{"start": 0, "stop": 1, "step": 1, "time": 2}], 1, "it needs start, stop, step"),
        ([(-1, 5, 0.1, "k")], 1, "k starts at 0"),
        ([(0, 10, 1), (5, 20, 1)], 2, "before region 1 ends"),
        ([(0, 10, 1), (9.9, 10.2, 1)], 2, "adds no point"),
        ([(-9000, 10, 1)], 1, "below 0"),
        ([(0, 1000, 1e-9)], 1, "more than 1000000 points"),
    ],
)
def test_a_wrong_region_is_named(regions, number, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        xafs_points(E0, regions)
    if number is not None:
        assert f"region {number}," in str(caught.value)


@pytest.mark.parametrize("e0", [0, -1, math.nan, math.inf])
def test_a_wrong_edge_energy_is_refused(e0):
    with pytest.raises(ValueError, match="e0"):
        xafs_points(e0, [(0, 1, 1)])


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 1000))
def test_a_line_has_both_ends(start, stop, num):
    points = line_points(start, stop, num)
    assert points.size == num
    assert (points[0], points[-1]) == (start, stop)


@pytest.mark.parametrize("arguments", [(0, 1, 0), (0, 1, 2.5), (math.nan, 1, 3), (0, math.inf, 3)])
def test_a_wrong_line_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        line_points(*arguments)


@given(st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_a_mesh_visits_every_point_once_and_a_snake_makes_no_jumps(rows, columns, snake):
    slow, fast = np.arange(rows) * 10.0, np.arange(columns) + 0.0
    points = mesh_points(slow, fast, snake=snake)
    assert {tuple(p) for p in points.tolist()} == {(s, f) for s in slow for f in fast}
    assert len(points) == rows * columns
    assert (np.diff(points[:, 0]) >= 0).all()
    if snake:
        changed = np.count_nonzero(np.diff(points, axis=0), axis=1)
        assert (changed == 1).all()
    else:
        np.testing.assert_array_equal(points[:columns, 1], points[-columns:, 1])
