"""Peaks from logits: the compiled and the plain way, against labels of SciPy and known spots."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from beamline.crystallography import event_peaks
from beamline.crystallography.event_peaks import EventPeaks, LogitsError, find_event_peaks


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    """Both ways, one after the other."""
    if request.param == "plain":
        monkeypatch.setattr(event_peaks, "_compiled", lambda: None)
    elif event_peaks._compiled() is None:
        pytest.skip("numba is not installed, or disabled")
    return request.param


def as_logits(mask, odds=3.0):
    """Logits that say `odds` for and against."""
    yes = np.where(mask, odds, -odds).astype(np.float32)
    return np.stack([np.zeros_like(yes), yes], axis=1)


def random_event(seed, panels=3, shape=(70, 90), dtype=np.float32, density=0.02):
    """Blobs of any size and form, on frames with a background."""
    rng = np.random.default_rng(seed)
    mask = rng.random((panels, *shape)) < density
    mask |= ndimage.binary_dilation(rng.random(mask.shape) < density / 8, np.ones((1, 3, 3)))
    images = rng.poisson(np.where(mask, 60.0, 4.0)).astype(dtype)
    logits = as_logits(mask) + rng.normal(0, 0.5, (panels, 2, *shape)).astype(np.float32)
    return logits, images


def assert_same(a, b):
    for field in dataclasses.fields(EventPeaks):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert np.asarray(left).dtype == np.asarray(right).dtype
        np.testing.assert_allclose(left, right, rtol=2e-6, atol=1e-5, err_msg=field.name)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_agree(monkeypatch, seed, connectivity):
    if event_peaks._compiled() is None:
        pytest.skip("numba is not installed, or disabled")
    logits, images = random_event(seed, density=(0.002, 0.02, 0.05, 0.2)[seed])
    rng = np.random.default_rng(seed)
    images[rng.random(images.shape) < 0.01] = np.nan
    options = {
        "padding": (seed, 3),
        "original_shape": (60, 80),
        "valid": rng.random((3, 60, 80)) < 0.98,
        "connectivity": connectivity,
        "min_pixels": 1 + seed % 2,
        "gain": 2.5,
    }
    found = find_event_peaks(logits, images, **options)
    monkeypatch.setattr(event_peaks, "_compiled", lambda: None)
    plain = find_event_peaks(logits, images, **options)
    assert_same(found, plain)
    assert found.masked_pixels > 0
    assert found.at_edge > 0
    assert found.in_padding > 0
    assert len(found) > 0


@pytest.mark.parametrize("connectivity", [4, 8])
def test_components_are_those_of_scipy(way, connectivity):
    logits, images = random_event(7, density=0.1)
    peaks = find_event_peaks(logits, images, connectivity=connectivity)
    mask = logits[:, 1] > logits[:, 0]
    structure = ndimage.generate_binary_structure(2, connectivity // 4)
    sizes = []
    for panel in mask:
        labels, number = ndimage.label(panel, structure)
        sizes += np.bincount(labels.ravel(), minlength=number + 1)[1:].tolist()
    lost = peaks.dark + peaks.at_edge
    assert len(peaks) + lost == len(sizes)
    assert lost < len(sizes) / 5
    assert sum(sizes) - lost * max(sizes) <= peaks.n_pixels.sum() <= sum(sizes)


def test_a_peak_by_hand(way):
    images = np.full((2, 40, 50), 10, np.float32)
    images[1, 20, 15:18] = [12, 16, 14]
    images[1, 21, 16] = 18
    peaks = find_event_peaks(as_logits(images > 10, odds=1.5), images)
    assert len(peaks) == 1
    assert peaks.panel.tolist() == [1]
    assert peaks.total.tolist() == [20.0]  # 2 + 6 + 4 + 8
    assert peaks.maximum.tolist() == [18.0]
    assert peaks.n_pixels.tolist() == [4]
    assert peaks.fs[0] == pytest.approx((2 * 15 + 6 * 16 + 4 * 17 + 8 * 16) / 20)
    assert peaks.ss[0] == pytest.approx((12 * 20 + 8 * 21) / 20)
    assert peaks.probability[0] == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert peaks.snr[0] == pytest.approx(20 / np.sqrt(4 * 10 + 20))
    assert (peaks.truncated, peaks.in_padding, peaks.dark, peaks.too_small) == (0, 0, 0, 0)


def test_positions_have_no_bias(way):
    rng = np.random.default_rng(3)
    shape, number = (4, 400, 400), 800
    place = np.stack(np.meshgrid(np.arange(14, 390, 26), np.arange(14, 390, 26)), -1).reshape(-1, 2)
    truth = [place + rng.uniform(-0.5, 0.5, place.shape) for _ in range(4)]
    mean = np.full(shape, 3.0)
    ss, fs = np.indices(shape[1:])
    for panel, spots in zip(mean, truth, strict=True):
        for x, y in spots:
            near = (slice(int(y) - 6, int(y) + 8), slice(int(x) - 6, int(x) + 8))
            square = (fs[near] - x) ** 2 + (ss[near] - y) ** 2
            panel[near] += 100 * np.exp(-0.5 * square / 0.95**2)
    images = rng.poisson(mean).astype(np.float32)
    peaks = find_event_peaks(as_logits(mean > 15), images)
    assert len(peaks) == sum(map(len, truth)) >= number
    errors = []
    for panel, spots in enumerate(truth):
        here = peaks.panel == panel
        found = np.c_[peaks.fs[here], peaks.ss[here]]
        distance, nearest = cKDTree(found).query(spots)
        assert distance.max() < 0.5
        errors.append(found[nearest] - spots)
    error = np.concatenate(errors)
    assert np.sqrt((error**2).mean()) < 0.12
    assert np.abs(error.mean(axis=0)).max() < 0.01


def test_nothing_is_found_where_nothing_is(way):
    images = np.ones((2, 30, 30), np.float32)
    peaks = find_event_peaks(as_logits(np.zeros(images.shape, bool)), images)
    assert len(peaks) == 0
    assert peaks.panel.dtype == np.int32
    # Equal logits are no peak.
    assert len(find_event_peaks(np.ones((2, 2, 30, 30), np.float32), images)) == 0


@pytest.mark.parametrize("padding", [(0, 0), (5, 7)])
def test_peaks_in_padding_are_dropped_and_counted(way, padding):
    top, left = padding
    image = np.full((1, 30, 40), 5.0, np.float32)
    image[0, 10, 12] = 50
    mask = np.zeros((1, 44, 58), bool)
    mask[0, top + 10, left + 12] = True
    mask[0, top + 29 : top + 33, left + 39 : left + 42] = True  # across the corner
    mask[0, 43, 56:58] = True
    image[0, 29, 39] = 20
    mask[0, top + 20, left + 37 : left + 42] = True  # reaches into the padding
    image[0, 20, 37:40] = [30, 20, 10]
    peaks = find_event_peaks(as_logits(mask), image, padding=padding)
    assert (peaks.in_padding, peaks.at_edge) == (3, 1)
    assert peaks.ss.tolist() == [10.0, 20.0]
    assert peaks.n_pixels.tolist() == [1, 3]
    padded = np.pad(image, ((0, 0), (top, 14 - top), (left, 18 - left)))
    again = find_event_peaks(as_logits(mask), padded, padding=padding, original_shape=(1, 30, 40))
    assert_same(peaks, again)


def test_padding_does_not_join_the_peaks_at_the_edge(way):
    image = np.full((1, 30, 30), 5.0, np.float32)
    image[0, 3, 28] = image[0, 20, 28] = 50
    mask = np.zeros((1, 32, 32), bool)
    mask[0, :, 30:] = mask[0, 30:, :] = True
    mask[0, 3, 28:30] = mask[0, 20, 28:30] = True
    peaks = find_event_peaks(as_logits(mask), image)
    assert sorted(peaks.ss.tolist()) == [3.0, 20.0]
    assert peaks.in_padding == 1


def test_the_strongest_are_kept_and_the_rest_is_counted(way):
    image = np.full((1, 60, 60), 2.0, np.float32)
    spots = [(y, x) for y in range(3, 60, 9) for x in range(3, 60, 9)]
    for number, (y, x) in enumerate(spots):
        image[0, y, x] = 10 + number
    every = find_event_peaks(as_logits(image > 5), image)
    some = find_event_peaks(as_logits(image > 5), image, max_num_peak=10)
    assert len(every) == len(spots)
    assert np.all(np.diff(every.total) < 0)
    assert (len(some), some.truncated) == (10, len(spots) - 10)
    assert some.total.tolist() == every.total[:10].tolist()
    assert len(some.strongest(4)) == 4


def test_small_and_dark_components_are_counted(way):
    image = np.full((1, 40, 40), 9.0, np.float32)
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 5, 5:7], image[0, 5, 5:7] = True, 30
    mask[0, 20, 20], image[0, 20, 20] = True, 30
    mask[0, 30, 30:33] = True
    peaks = find_event_peaks(as_logits(mask), image, min_pixels=2)
    assert (len(peaks), peaks.too_small, peaks.dark) == (1, 1, 1)
    everywhere = find_event_peaks(as_logits(np.ones_like(mask)), image)
    assert (len(everywhere), everywhere.dark + everywhere.at_edge) == (0, 1)


def test_bad_pixels_are_no_peaks_and_no_background(way):
    clean = np.full((2, 40, 40), 4.0, np.float32)
    clean[:, 10, 10:12] = [40.0, 20.0]
    mask = clean > 4
    want = find_event_peaks(as_logits(mask), clean)
    for bad in (np.nan, np.inf, 65535.0):
        # The peak does not touch it.
        image, spoiled = clean.copy(), mask.copy()
        image[:, 13, :] = bad
        spoiled[:, 13, :] = True
        valid = np.ones((40, 40), bool)
        valid[13] = np.isfinite(bad) and bad < 1000
        peaks = find_event_peaks(
            as_logits(spoiled), image, valid=valid if np.isfinite(bad) else None
        )
        assert peaks.masked_pixels == 80
        assert peaks.total == pytest.approx(want.total)
        assert peaks.fs == pytest.approx(want.fs)


def test_peaks_that_may_lie_beyond_the_edge_are_counted(way):
    image = np.full((1, 40, 40), 4.0, np.float32)
    for ss, fs in ((0, 9), (39, 9), (9, 0), (9, 39), (1, 20), (20, 38), (25, 25), (30, 30)):
        image[0, ss, fs] = 50
    mask = image > 4
    image[0, 25, 26] = np.nan
    valid = np.ones((1, 40, 40), bool)
    valid[0, 31, 31] = False
    peaks = find_event_peaks(as_logits(mask), image, valid=valid)
    assert sorted(zip(peaks.ss.tolist(), peaks.fs.tolist(), strict=True)) == [(1, 20), (20, 38)]
    assert peaks.at_edge == 6


def test_one_outlier_does_not_make_the_background(way):
    image = np.random.default_rng(0).poisson(3.0, (1, 40, 40)).astype(np.float32)
    image[0, 20, 20] = 500
    want = find_event_peaks(as_logits(image > 100), image)
    image[0, 16, 23] = 60_000
    mask = as_logits(image > 100)
    mask[0, :, 16, 23] = 0
    found = find_event_peaks(mask, image)
    assert found.total == pytest.approx(want.total, abs=0.2)


def test_nan_logits_are_named(way):
    logits, images = random_event(1)
    logits[1, 1, 5, 7] = np.nan
    logits[2, 0, 9] = np.nan
    with pytest.raises(LogitsError, match=r"91 pixels are NaN, the first on panel 1.*\(5, 7\)"):
        find_event_peaks(logits, images)
    logits[np.isnan(logits)] = np.inf
    assert len(find_event_peaks(logits, images)) > 0


@pytest.mark.parametrize(
    ("logits", "images", "options", "words"),
    [
        ((3, 8, 9), (3, 8, 9), {}, r"float32 \(panels, 2, ss, fs\), found float32 \(3, 8, 9\)"),
        ((3, 3, 8, 9), (3, 8, 9), {}, r"found float32 \(3, 3, 8, 9\)"),
        ((3, 2, 8, 9), (2, 8, 9), {}, r"\(3, ss, fs\), found float32 \(2, 8, 9\)"),
        ((3, 2, 8, 9), (3, 9, 8), {}, r"\(9, 8\) pixels at \(0, 0\) does not fit.*\(8, 9\)"),
        ((3, 2, 8, 9), (3, 6, 6), {"padding": (3, 0)}, r"\(6, 6\) pixels at \(3, 0\)"),
        ((3, 2, 8, 9), (3, 8, 9), {"padding": (1, 1)}, "give original_shape"),
        ((3, 2, 8, 9), (3, 6, 6), {"original_shape": (7, 7)}, r"\(7, 7\).*found \(6, 6\)"),
        ((3, 2, 8, 9), (3, 8, 9), {"valid": np.ones((9, 8), bool)}, r"bool \(3, 8, 9\)"),
        ((3, 2, 8, 9), (3, 8, 9), {"valid": np.ones((8, 9))}, "found float64"),
        ((3, 2, 8, 9), (3, 8, 9), {"connectivity": 6}, "4 or 8, found 6"),
        ((3, 2, 8, 9), (3, 8, 9), {"max_num_peak": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_named(logits, images, options, words):
    with pytest.raises(ValueError, match=words):
        find_event_peaks(np.zeros(logits, np.float32), np.zeros(images, np.float32), **options)


def test_other_types_of_logits_are_refused():
    with pytest.raises(LogitsError, match="must be float32"):
        find_event_peaks(np.zeros((1, 2, 8, 9)), np.zeros((1, 8, 9), np.float32))
    with pytest.raises(LogitsError, match="found bool"):
        find_event_peaks(np.zeros((1, 2, 8, 9), np.float32), np.zeros((1, 8, 9), bool))


@pytest.mark.parametrize("dtype", ["u2", ">u2", "f2", "i4"])
def test_any_type_of_frames_gives_the_same(monkeypatch, dtype):
    # By the plain way: every further type is a compilation of seconds.
    monkeypatch.setattr(event_peaks, "_compiled", lambda: None)
    logits, images = random_event(5)
    assert_same(find_event_peaks(logits, images.astype(dtype)), find_event_peaks(logits, images))


def test_views_and_read_only_arrays_are_taken_as_they_are(way):
    logits, images = random_event(6, panels=4)
    want = find_event_peaks(logits[1:3], images[1:3])
    batch = np.zeros((4, 2, 74, 98), np.float32)
    batch[:, :, 2:72, 4:94] = logits
    view = batch[1:3, :, 2:72, 4:94]
    images.flags.writeable = batch.flags.writeable = False
    assert_same(want, find_event_peaks(view, images[1:3]))


def test_more_peaks_than_the_scratch_holds(monkeypatch):
    images = np.ones((2, 300, 300), np.float32)
    images[:, ::2, ::2] = 9
    mask = images > 5
    peaks = find_event_peaks(as_logits(mask), images)
    # Nothing between them is background: every pixel touches one.
    assert peaks.dark + peaks.at_edge == mask.sum()
    assert len(peaks) == 0


def test_numba_can_be_disabled():
    program = (
        "import sys, numpy as np\n"
        "from beamline.crystallography.event_peaks import find_event_peaks\n"
        "image = np.ones((1, 20, 20), np.float32); image[0, 9, 9] = 50\n"
        "logits = np.stack([np.zeros_like(image), image - 10], axis=1)\n"
        "assert len(find_event_peaks(logits, image)) == 1\n"
        "assert 'beamline.crystallography._peak_kernels' not in sys.modules\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=100)


def test_importing_the_package_does_not_import_what_starts_slowly():
    program = (
        "import sys, beamline.crystallography\n"
        "assert not {'numba', 'scipy.ndimage', 'scipy.sparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
