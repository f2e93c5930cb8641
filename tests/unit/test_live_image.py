"""The image that the frame writer makes for viewing."""

import os

import numpy as np
import pytest

from ioc.frames import DENSE, EVENTS, FrameHeader
from ioc.live_image import MAX_SIDE, ImageMemory, picture


def frame(shape, *, sparse: bool):
    counts = np.random.default_rng(1).poisson(0.01 if sparse else 3.0, shape).astype("<u2")
    payload = counts.tobytes()
    if sparse:
        payload = np.repeat(np.arange(counts.size), counts.ravel()).astype("<u4").tobytes()
    return counts, payload


def header(shape, payload: bytes, *, sparse: bool) -> FrameHeader:
    dtype = EVENTS if sparse else DENSE
    return FrameHeader(0, 0, 0.0, dtype, shape, len(payload), 9000.0, 0.1)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 60), (40, 60)), ((1030, 700), (344, 234)), ((3, 400, 300), (400, 100))],
)
def test_no_photon_is_lost_by_binning(shape, expected, sparse):
    counts, payload = frame(shape, sparse=sparse)
    image = picture(header(shape, payload, sparse=sparse), payload)
    assert image.shape == expected
    assert image.sum() == counts.sum()
    step = -(-counts.reshape(-1, shape[-1]).shape[0] // expected[0])
    assert image[1, 2] == counts.reshape(-1, shape[-1])[step : 2 * step, 2 * step : 3 * step].sum()


def test_both_ends_see_the_same_memory():
    ours = ImageMemory()
    theirs = ImageMemory(os.dup(ours.descriptor))
    image = np.arange(MAX_SIDE * MAX_SIDE, dtype=np.float32).reshape(MAX_SIDE, MAX_SIDE)
    theirs.store(image)
    copy = ours.load((MAX_SIDE, MAX_SIDE))
    theirs.store(np.zeros_like(image))
    np.testing.assert_array_equal(copy, image)
    theirs.close()
    ours.close()
