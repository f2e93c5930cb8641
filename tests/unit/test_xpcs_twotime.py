"""Two-time correlation against its formula, and on speckle that ages."""

import numpy as np
import pytest
from xpcs_speckle import partition, speckle

from beamline.core.errors import CorrelationError
from beamline.xpcs.twotime import MultiTauTwoTime, TwoTime


def formula(frames, dynamic, static, label):
    """C of a dynamic bin, pixel by pixel and pair by pair."""
    bins = []
    for s in np.unique(static[dynamic == label]):
        own = frames[:, (static == s) & (dynamic == label)].astype(float)
        mean = own.mean(axis=1, keepdims=True)
        bins.append(np.divide(own, mean, out=np.zeros_like(own), where=mean > 0))
    pixels = np.concatenate(bins, axis=1)
    total = pixels.sum(axis=1)
    return pixels.shape[1] * (pixels @ pixels.T) / np.outer(total, total)


@pytest.mark.parametrize("mean", [0.2, 5.0, 90_000.0])
def test_all_pairs_are_those_of_the_formula(mean):
    dynamic, static, _ = partition(20)
    frames = np.random.default_rng(0).poisson(mean, (90, 20, 20)).astype(np.uint32)
    correlator = TwoTime(dynamic, static, 0.1)
    correlator.add(frames[:70])
    correlator.result()
    for frame in frames[70:]:
        correlator.add(frame)
    result = correlator.result()
    for label in range(1, 5):
        expected = formula(frames, dynamic, static, label)
        np.testing.assert_allclose(result.c2[label - 1], expected, rtol=2e-5)
    np.testing.assert_allclose(result.times, np.arange(90) * 0.1)


def test_photons_are_as_good_as_frames_and_missing_frames_are_nan():
    dynamic, static, _ = partition(20)
    frames = np.random.default_rng(0).poisson(0.5, (30, 20, 20))
    dense, sparse = TwoTime(dynamic, static, 1.0), TwoTime(dynamic, static, 1.0)
    dense.add(frames)
    lists = [np.repeat(np.arange(400), frame.ravel()) for frame in frames]
    first = np.cumsum([0] + [len(own) for own in lists])[:-1]
    sparse.add_events(np.concatenate(lists[:10]), first[:10])
    sparse.skip(1)
    sparse.add_events(np.concatenate(lists[11:]), first[11:] - first[11])
    theirs, ours = dense.result().c2, sparse.result().c2
    there = np.arange(30) != 10
    assert np.isnan(ours[:, 10]).all()
    assert np.isnan(ours[:, :, 10]).all()
    np.testing.assert_array_equal(ours[:, there][:, :, there], theirs[:, there][:, :, there])


def test_a_run_longer_than_the_memory_is_summed():
    dynamic, static, _ = partition(20)
    frames = np.random.default_rng(0).poisson(2.0, (101, 20, 20))
    correlator = TwoTime(dynamic, static, 0.1, max_frames=32)
    for begin in range(0, 101, 9):
        correlator.add(frames[begin : begin + 9])
    result = correlator.result()
    assert result.stride == 4
    assert result.c2.shape == (4, 25, 25)
    summed = frames[:100].reshape(25, 4, 20, 20).sum(axis=1)
    np.testing.assert_allclose(result.c2[2], formula(summed, dynamic, static, 3), rtol=2e-5)


def test_multi_tau_agrees_with_all_pairs_and_keeps_to_its_memory():
    dynamic, static, _ = partition(20)
    frames = np.random.default_rng(0).poisson(2.0, (64, 20, 20))
    correlator = MultiTauTwoTime(dynamic, static, 0.1, levels=3)
    correlator.add(frames)
    result = correlator.result()
    full = formula(frames, dynamic, static, 1)
    pairs = formula(frames.reshape(32, 2, 20, 20).sum(axis=1), dynamic, static, 1)
    np.testing.assert_array_equal(result.lags[:10], [1, 2, 3, 4, 5, 6, 7, 8, 10, 12])
    # Frames 20 and 23 are centred at the age 22; the level frames 10 and 15 at 26.
    np.testing.assert_allclose(result.c2[0, 22, 2], full[20, 23], rtol=1e-5)
    np.testing.assert_allclose(result.c2[0, 26, 8], pairs[10, 15], rtol=1e-5)
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(result.c2[0, :, 2])
    np.testing.assert_allclose(mean, np.mean(np.diagonal(full, 3)), rtol=1e-5)


def test_ageing_shows_as_a_longer_time_at_a_later_age():
    dynamic, static, _ = partition(32, 1)
    fast = list(speckle(32, 60, 3.0, np.full((32, 32), 0.5), 1))
    slow = list(speckle(32, 60, 3.0, np.full((32, 32), 0.02), 2))
    c2 = TwoTime(dynamic, static, 1.0)
    c2.add(np.stack(fast + slow))
    result = c2.result().c2[0]
    early, late = np.diagonal(result, 5)[:50].mean(), np.diagonal(result, 5)[65:].mean()
    assert abs(early - 1.0) < 0.05
    assert abs(late - (1.0 + np.exp(-0.2))) < 0.1


def test_refuses_what_cannot_be_correlated():
    dynamic, static, _ = partition(20)
    with pytest.raises(CorrelationError, match="frame_time is 0 s"):
        TwoTime(dynamic, static, 0)
    correlator = TwoTime(dynamic, static, 1.0)
    with pytest.raises(CorrelationError, match="0 frames have no pair"):
        correlator.result()
    with pytest.raises(CorrelationError, match="expected counts: mask it"):
        correlator.add(np.full((20, 20), np.nan))
    with pytest.raises(CorrelationError, match=r"expected \(n, 20, 20\)"):
        correlator.add(np.zeros((2, 20, 21)))
