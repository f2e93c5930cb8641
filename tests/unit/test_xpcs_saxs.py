"""Mean scattering and its stability."""

import numpy as np
import pytest

from beamline.core.errors import CorrelationError
from beamline.xpcs.saxs import Saxs
from beamline.xpcs.stability import IntensityTrace

STATIC = np.array([[0, 1, 1, 2], [3, 3, 2, 2], [0, 3, 5, 5]])


def test_means_are_those_of_all_frames_however_they_come():
    frames = np.random.default_rng(0).poisson(3.0, (73, 3, 4))
    dense, sparse = Saxs(STATIC, 0.1, segments=4), Saxs(STATIC, 0.1, segments=4)
    dense.add(frames[:31])
    for frame in frames[31:]:
        dense.add(frame)
    lists = [np.repeat(np.arange(12), frame.ravel()) for frame in frames]
    sparse.add_events(np.concatenate(lists), np.cumsum([0] + [len(own) for own in lists])[:-1])
    for result in (dense.result(), sparse.result()):
        np.testing.assert_allclose(result.scattering_2d, frames.mean(axis=0))
        for label in (1, 2, 3, 5):
            expected = frames[:, label == STATIC].mean()
            np.testing.assert_allclose(result.scattering_1d[label - 1], expected)
        assert np.isnan(result.scattering_1d[3])
        assert 4 <= len(result.segment_frames) <= 8
        assert result.segment_frames.sum() == 73
        begin = 0
        for row, size in zip(result.scattering_1d_segments, result.segment_frames, strict=True):
            np.testing.assert_allclose(row[1], frames[begin : begin + size, STATIC == 2].mean())
            begin += size
        np.testing.assert_allclose(result.intensity.intensity, frames[:, STATIC > 0].mean(axis=1))
        np.testing.assert_allclose(result.intensity.times, 0.1 * (np.arange(73) + 0.5))


def test_trace_of_a_long_run_is_averaged_and_gaps_are_nan():
    trace = IntensityTrace(1.0)
    trace.add(np.arange(400_000.0))
    trace.skip(4)
    trace.add(np.full(200_000, 7.0))
    result = trace.result()
    assert result.stride == 4
    assert len(result.times) == 600_004 // 4
    np.testing.assert_array_equal(result.frame_numbers[:3], [0, 4, 8])
    np.testing.assert_allclose(result.intensity[:3], [1.5, 5.5, 9.5])
    assert np.isnan(result.intensity[100_000])
    assert (result.intensity[100_001:] == 7.0).all()
    assert result.times[0] == 2.0


def test_drift_and_fluctuation():
    trace = IntensityTrace(1.0)
    trace.add(np.linspace(0.9, 1.1, 1000))
    assert abs(trace.result().drift - 0.15) < 0.001
    assert abs(trace.result().fluctuation - 0.2 / np.sqrt(12)) < 0.001


def test_refuses_what_has_no_mean():
    with pytest.raises(CorrelationError, match="labels from 1"):
        Saxs(STATIC * 0, 1.0)
    with pytest.raises(CorrelationError, match="frame_time is 0"):
        Saxs(STATIC, 0.0)
    saxs = Saxs(STATIC, 1.0)
    with pytest.raises(CorrelationError, match="0 frames have no mean"):
        saxs.result()
    with pytest.raises(CorrelationError, match=r"expected \(n, 3, 4\)"):
        saxs.add(np.zeros((4, 3)))
    with pytest.raises(CorrelationError, match="mask it"):
        saxs.add(np.full((3, 4), np.nan))


def test_no_frames_are_no_error_and_fewer_are_one():
    saxs = Saxs(np.ones((4, 4), int), 1.0)
    saxs.add(np.ones((0, 4, 4)))
    saxs.add_events(np.empty(0, np.uint32), np.empty(0, np.int64))
    with pytest.raises(CorrelationError, match="0 frames have no mean"):
        saxs.result()
    with pytest.raises(CorrelationError, match="-1 frames are missing"):
        saxs.skip(-1)
