"""Peaks of simulated frames whose spots are known; independent of the simulation in C."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import erf

from beamline.crystallography.peaks import PeakFinder, measure_peaks
from beamline.crystallography.segmentation import (
    LocalThreshold,
    box_sum,
    local_background,
    log_odds_from_logits,
    significance,
)

SHAPE = (384, 512)


def spots(rng, number, shape=SHAPE, apart=9.0, margin=4.0, photons=(100.0, 20_000.0)):
    """Positions (fs, ss) at least `apart` px from each other, and photons, log-uniform."""
    found = np.empty((0, 2))
    while len(found) < number:
        new = rng.uniform(margin, np.array(shape[::-1]) - 1 - margin)
        if not len(found) or np.hypot(*(found - new).T).min() > apart:
            found = np.vstack([found, new])
    return found, np.exp(rng.uniform(*np.log(photons), number))


def draw(rng, positions, photons, background, fwhm=2.2):
    """Poisson frame: background plus Gaussian spots integrated over the pixels."""
    mean = np.array(background, dtype=float)
    sigma = fwhm / 2.3548
    edges = [np.arange(n + 1) - 0.5 for n in mean.shape]
    for (fs, ss), total in zip(positions, photons, strict=True):
        across = np.diff(erf((edges[1] - fs) / sigma / np.sqrt(2))) / 2
        down = np.diff(erf((edges[0] - ss) / sigma / np.sqrt(2))) / 2
        mean += total * np.outer(down, across)
    return rng.poisson(mean).astype(np.uint16)


def water_ring(level, shape=SHAPE, centre=(250.3, 180.6)):
    ss, fs = np.indices(shape)
    radius = np.hypot(fs - centre[0], ss - centre[1])
    return level * (0.1 + np.exp(-radius / 60) + 0.8 * np.exp(-(((radius - 150) / 25) ** 2)))


def compare(peaks, positions, tolerance=1.5):
    """Return found true spots, false peaks, and position errors of the found ones."""
    tree = cKDTree(np.c_[peaks.fs, peaks.ss])
    distance, nearest = tree.query(positions)
    hit = distance < tolerance
    errors = np.c_[peaks.fs, peaks.ss][nearest[hit]] - positions[hit]
    false = int((cKDTree(positions).query(np.c_[peaks.fs, peaks.ss])[0] >= tolerance).sum())
    return int(hit.sum()), false, errors


@pytest.mark.parametrize("level", [0.02, 0.5, 4.0, 60.0, 1000.0])
def test_finds_the_spots_of_a_known_frame(level):
    rng = np.random.default_rng(int(level * 100))
    finder = PeakFinder()
    true = hits = false = found = 0
    errors = []
    # 15 standard deviations of the background in the spot's disc of 2.2 px radius.
    weakest = max(60.0, 15 * np.sqrt(level * 15.2))
    for _ in range(6):
        positions, photons = spots(rng, 70, photons=(weakest, 200 * weakest))
        peaks = finder(draw(rng, positions, photons, water_ring(level)))
        hit, wrong, error = compare(peaks, positions)
        true, hits, false, found = (
            true + len(positions),
            hits + hit,
            false + wrong,
            found + len(peaks),
        )
        errors.append(error)
    error = np.concatenate(errors)
    assert hits >= 0.99 * true
    assert false <= 0.01 * found
    assert np.sqrt((error**2).mean()) < 0.12
    assert np.abs(error.mean(axis=0)).max() < 3.5 * error.std() / np.sqrt(len(error))


def test_total_intensity_is_that_of_the_spot_without_background():
    rng = np.random.default_rng(5)
    positions, photons = spots(rng, 60, photons=(2000.0, 20_000.0))
    peaks = PeakFinder()(draw(rng, positions, photons, np.full(SHAPE, 5.0)))
    _, nearest = cKDTree(np.c_[peaks.fs, peaks.ss]).query(positions)
    ratio = peaks.total[nearest] / photons
    assert 0.93 < np.median(ratio) < 1.0  # the tails are cut off
    assert ratio.std() < 0.05


def test_peaks_come_strongest_first_and_can_be_truncated():
    rng = np.random.default_rng(6)
    peaks = PeakFinder()(draw(rng, *spots(rng, 40), np.full(SHAPE, 2.0)))
    assert np.all(np.diff(peaks.total) <= 0)
    few = peaks.strongest(7)
    assert len(few) == 7
    assert few.total.tolist() == peaks.total[:7].tolist()
    assert len(peaks.strongest(10_000)) == len(peaks)


@pytest.mark.parametrize("level", [0.0, 0.01, 1.0, 30.0, 3000.0])
def test_noise_has_no_peaks(level):
    rng = np.random.default_rng(7)
    finder = PeakFinder()
    assert sum(len(finder(rng.poisson(level, (512, 512)).astype(np.uint16))) for _ in range(8)) == 0


def test_a_transposed_frame_has_transposed_peaks():
    rng = np.random.default_rng(8)
    positions, photons = spots(rng, 50)
    frame = draw(rng, positions, photons, np.full(SHAPE, 3.0))
    upright, turned = PeakFinder()(frame), PeakFinder()(np.ascontiguousarray(frame.T))
    assert len(upright) == len(turned)
    assert np.allclose(upright.fs[:30], turned.ss[:30], atol=0.05)
    assert np.allclose(upright.ss[:30], turned.fs[:30], atol=0.05)


def test_close_spots_are_parted():
    frame = draw(
        np.random.default_rng(9),
        np.array([[100.2, 100.0], [107.0, 100.4], [200.0, 50.0], [200.3, 57.0]]),
        [30_000.0, 20_000.0, 40_000.0, 900.0],
        np.full(SHAPE, 2.0),
    )
    peaks = PeakFinder()(frame)
    assert len(peaks) == 4
    assert np.allclose(sorted(peaks.ss), [50.0, 57.0, 100.0, 100.4], atol=0.3)


def test_a_spot_cut_by_the_edge_or_by_bad_pixels_is_left_out():
    centres = np.array([[-0.3, 50.0], [200.0, 383.3], [300.0, 200.0], [120.0, 300.0]])
    frame = draw(np.random.default_rng(10), centres, [5000.0] * 4, np.full(SHAPE, 2.0))
    valid = np.ones(SHAPE, dtype=bool)
    valid[:, 301:320] = False
    peaks = PeakFinder()(frame, valid)
    assert len(peaks) == 1
    assert (peaks.fs[0], peaks.ss[0]) == pytest.approx((120.0, 300.0), abs=0.1)


@pytest.mark.parametrize("bad", [65535.0, np.nan, np.inf])
def test_bad_pixels_are_not_seen_and_harm_nobody(bad):
    rng = np.random.default_rng(11)
    positions, photons = spots(rng, 60)
    clean = draw(rng, positions, photons, water_ring(3.0)).astype(np.float32)
    frame = clean.copy()
    valid = np.ones(SHAPE, dtype=bool)
    frame[100:120, :] = bad
    frame[::37, ::41] = bad
    valid[100:120, :] = valid[::37, ::41] = False
    away = np.ones(len(positions), dtype=bool)
    for position, keep in zip(positions, range(len(away)), strict=True):
        fs, ss = np.round(position).astype(int)
        away[keep] = valid[max(ss - 4, 0) : ss + 5, max(fs - 4, 0) : fs + 5].all()
    peaks = PeakFinder()(frame, valid if np.isfinite(bad) else None)
    hit, _, error = compare(peaks, positions[away])
    assert hit == away.sum()
    assert np.sqrt((error**2).mean()) < 0.12
    inside = (peaks.ss > 99) & (peaks.ss < 120)
    assert not inside.any()


def test_a_frame_without_good_pixels_has_no_peaks():
    assert len(PeakFinder()(np.full(SHAPE, np.nan, np.float32))) == 0
    assert len(PeakFinder()(np.full(SHAPE, 9, np.uint16), np.zeros(SHAPE, dtype=bool))) == 0


def test_gain_and_pedestal_do_not_matter_when_they_are_told():
    rng = np.random.default_rng(12)
    positions, photons = spots(rng, 60)
    counts = draw(rng, positions, photons, np.full(SHAPE, 3.0))
    noise = rng.normal(0.0, 1.5, SHAPE)
    frame = (12.0 * counts + 100.0 + noise).astype(np.float32)
    peaks = PeakFinder(LocalThreshold(gain=12.0), gain=12.0)(frame)
    hit, false, _ = compare(peaks, positions)
    assert hit >= 59
    assert false == 0
    plain = PeakFinder()(counts)
    assert np.allclose(peaks.snr[:20], plain.snr[:20], rtol=0.1)


def test_background_is_robust_against_spots_and_follows_a_slope():
    rng = np.random.default_rng(13)
    ss, fs = np.indices(SHAPE)
    truth = 5.0 + 0.02 * fs + 0.01 * ss
    frame = draw(rng, *spots(rng, 150, photons=(1000.0, 50_000.0)), truth)
    level, variance = local_background(frame)
    inner = (slice(16, -16), slice(16, -16))
    assert np.abs(level - truth)[inner].max() < 1.2
    assert np.abs((level - truth)[inner].mean()) < 0.1
    assert np.median(variance / truth) == pytest.approx(1.0, abs=0.15)


def test_significance_of_few_counts_is_that_of_poisson():
    # Gaussian statistics on 0.9 counts would fire a thousand times more often.
    rng = np.random.default_rng(14)
    sigmas, _ = significance(rng.poisson(0.1, (1024, 1024)))
    assert 0 < (sigmas > 4.0).sum() < 300
    assert (sigmas > 5.2).sum() <= 3


@pytest.mark.parametrize("size", [1, 3, 5, 15, 31])
@pytest.mark.parametrize("shape", [(40, 50), (3, 70)])
def test_sums_over_squares_are_those_of_scipy(size, shape):
    image = np.random.default_rng(17).poisson(5, shape).astype(np.float32)
    expected = ndimage.uniform_filter(image.astype(float), size, mode="constant") * size**2
    assert np.allclose(box_sum(image, size), expected)
    assert box_sum(image, size).dtype == np.float32


def test_a_window_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="odd number of pixels, found 14"):
        LocalThreshold(window=14)(np.zeros((40, 40)))


def test_measurement_of_a_component_by_hand():
    image = np.full((40, 40), 10.0, np.float32)
    image[20, 15:18] = [12.0, 16.0, 14.0]
    image[21, 16] = 18.0
    mask = image > 10.0
    odds = np.where(mask, 0.0, -5.0).astype(np.float32)
    peaks = measure_peaks(image, mask, log_odds=odds)
    assert len(peaks) == 1
    assert peaks.total[0] == 20.0  # 2 + 6 + 4 + 8
    assert peaks.maximum[0] == 18.0
    assert peaks.n_pixels[0] == 4
    assert peaks.fs[0] == pytest.approx((2 * 15 + 6 * 16 + 4 * 17 + 8 * 16) / 20)
    assert peaks.ss[0] == pytest.approx((12 * 20 + 8 * 21) / 20)
    assert peaks.probability[0] == 0.5
    assert peaks.snr[0] == pytest.approx(20 / np.sqrt(4 * 10 + 20))


def test_connectivity_and_smallest_size():
    image = np.ones((30, 30), np.uint16)
    mask = np.zeros((30, 30), dtype=bool)
    for step in range(3):  # a diagonal
        mask[10 + step, 10 + step] = True
        image[10 + step, 10 + step] = 50 + step
    assert measure_peaks(image, mask, connectivity=8).n_pixels.tolist() == [3]
    assert measure_peaks(image, mask, connectivity=4).n_pixels.tolist() == [1, 1, 1]
    assert len(measure_peaks(image, mask, connectivity=4, min_pixels=2)) == 0


def test_a_component_without_light_is_left_out():
    image = np.full((30, 30), 7, np.uint16)
    mask = np.zeros((30, 30), dtype=bool)
    mask[5:8, 5:8] = True
    assert len(measure_peaks(image, mask)) == 0


def test_two_class_logits_give_the_same_mask():
    rng = np.random.default_rng(15)
    logits = rng.normal(size=(3, 2, 8, 9)).astype(np.float32)
    assert np.array_equal(log_odds_from_logits(logits) > 0, logits[:, 1] > logits[:, 0])
    assert log_odds_from_logits(logits[0]).shape == (8, 9)
    with pytest.raises(ValueError, match=r"\(…, 2, ss, fs\).*\(3, 8, 9\)"):
        log_odds_from_logits(logits[:, 0])


def test_a_network_takes_the_place_of_the_threshold():
    def network(image, valid=None):
        logits = np.stack([np.full(image.shape, 1.0), np.where(image > 30, 3.0, 0.0)])
        return log_odds_from_logits(logits)

    rng = np.random.default_rng(16)
    positions, photons = spots(rng, 30, photons=(1000.0, 9000.0))
    peaks = PeakFinder(network)(draw(rng, positions, photons, np.full(SHAPE, 2.0)))
    hit, false, _ = compare(peaks, positions)
    assert (hit, false) == (30, 0)
    assert peaks.probability == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_wrong_shapes_are_named():
    image = np.zeros((8, 9))
    with pytest.raises(ValueError, match=r"mask has shape \(9, 8\), the image \(8, 9\)"):
        measure_peaks(image, np.zeros((9, 8), dtype=bool))
    with pytest.raises(ValueError, match=r"two dimensions"):
        PeakFinder()(np.zeros((2, 8, 9)))
    with pytest.raises(ValueError, match=r"mask has shape \(9, 8\), the image \(8, 9\)"):
        PeakFinder()(image, np.ones((9, 8), dtype=bool))
    with pytest.raises(ValueError, match="4 or 8, found 6"):
        measure_peaks(image, np.zeros((8, 9), dtype=bool), connectivity=6)
