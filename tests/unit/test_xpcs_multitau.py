"""The multi-tau correlator against direct computation and against its definition."""

import numpy as np
import pytest

from beamline.core.errors import CorrelationError
from beamline.xpcs.multitau import MultiTau


def rings(height=32, width=40, step=3, per_dynamic=2):
    ss, fs = np.indices((height, width))
    radius = np.hypot(ss - 14.3, fs - 17.8)
    static = np.where(radius < 16, (radius // step).astype(int), 0)
    return np.where(static > 0, (static - 1) // per_dynamic + 1, 0), static


def directly(frames, dynamic, static, lag):
    """g2 of one lag at full time resolution, straight from the formula."""
    counts = frames.astype(float)
    bins = []
    for d in range(1, dynamic.max() + 1):
        ratios = []
        for s in np.unique(static[dynamic == d]):
            own = counts[:, (static == s) & (dynamic == d)]
            earlier, later = own[:-lag], own[lag:]
            ratios.append((earlier * later).mean() / (earlier.mean() * later.mean()))
        bins.append(np.mean(ratios))
    return np.array(bins)


def test_lags_up_to_eight_are_those_of_direct_computation():
    frames = np.random.default_rng(1).poisson(2.0, (100, 32, 40))
    maps = rings()
    correlator = MultiTau(*maps, 0.01)
    correlator.add(frames)
    result = correlator.result()
    np.testing.assert_array_equal(result.lags[:12], [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16])
    np.testing.assert_allclose(result.delays, result.lags * 0.01)
    for row in range(8):
        np.testing.assert_allclose(result.g2[row], directly(frames, *maps, row + 1), rtol=1e-12)
    assert not result.affected.any()


@pytest.mark.parametrize("frame_time", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_frame_times_that_are_none(frame_time):
    with pytest.raises(CorrelationError, match=r"frame_time is .* expected a positive time"):
        MultiTau(*rings(), frame_time)


def test_refuses_maps_without_pixels():
    dynamic, static = rings()
    with pytest.raises(CorrelationError, match="mask every pixel"):
        MultiTau(dynamic * 0, static, 0.01)


def test_refuses_frames_of_another_shape():
    correlator = MultiTau(*rings(), 0.01)
    with pytest.raises(CorrelationError, match=r"\(5, 40, 32\), expected \(n, 32, 40\)"):
        correlator.add(np.zeros((5, 40, 32), np.uint16))


def test_refuses_to_give_a_result_of_nothing():
    with pytest.raises(CorrelationError, match="0 frames have no pair"):
        MultiTau(*rings(), 0.01).result()
