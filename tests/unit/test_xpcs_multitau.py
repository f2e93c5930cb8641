"""The multi-tau correlator against direct computation and against its definition."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamline.core.errors import CorrelationError, CorrelationOverflowError
from beamline.xpcs.multitau import MultiTau
from beamline.xpcs.reference import ReferenceMultiTau


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


def test_no_frames_are_no_error():
    correlator = MultiTau(np.ones((4, 4), int), np.ones((4, 4), int), 1.0)
    correlator.add(np.ones((0, 4, 4)))
    correlator.add_events(np.empty(0, np.uint32), np.empty(0, np.int64))
    with pytest.raises(CorrelationError, match="0 frames have no pair"):
        correlator.result()


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


def check_against_reference(correlator, reference):
    """Everything but g2 itself: to the accuracy of sums in another order."""
    ours, theirs = correlator.result(), reference.result()
    for name in ("lags", "n_pairs", "affected", "n_frames", "n_skipped"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    np.testing.assert_allclose(ours.g2, theirs.g2, rtol=1e-12)
    for name in ("g2_err", "g2_err_block", "intensity", "delays", "covariance"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-10, err_msg=name
        )


def events(frames):
    """The photons of frames: flat pixel indices, and where each frame begins."""
    flat = frames.reshape(len(frames), -1)
    lists = [np.repeat(np.arange(flat.shape[1]), frame) for frame in flat]
    first = np.cumsum([0] + [len(own) for own in lists])[:-1]
    return np.concatenate(lists).astype(np.uint32), first.astype(np.uint64)


steps = st.lists(
    st.tuples(st.sampled_from(["dense", "events", "single", "skip", "result"]), st.integers(1, 90)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=steps,
    mean=st.sampled_from([0.0, 0.004, 0.02, 0.3, 3.0, 60.0, 2500.0]),
    hot=st.integers(0, 300),
    shape=st.sampled_from([(3, 5), (12, 16), (16, 24), (25, 31)]),
    levels=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_any_sequence_gives_what_the_definition_gives(steps, mean, hot, shape, levels, seed):
    rng = np.random.default_rng(seed)
    static = rng.integers(0, 5, shape)
    static[0, 0] = 1
    dynamic = np.where(static > 0, (static + 1) // 2, 0)
    correlator = MultiTau(dynamic, static, 0.5, levels=levels)
    reference = ReferenceMultiTau(dynamic, static, 0.5, levels=levels)
    for what, number in steps:
        frames = rng.poisson(mean, (number, *shape)).astype(np.uint16)
        frames[number // 2, shape[0] // 2, shape[1] // 2] += hot if hot > 150 else 0
        if what == "skip":
            correlator.skip(number)
            reference.skip(number)
            continue
        if what == "result":
            if correlator.n_frames > 1:
                correlator.result()
            continue
        reference.add(frames)
        if what == "dense":
            correlator.add(frames)
        elif what == "events":
            correlator.add_events(*events(frames))
        else:
            for frame in frames:
                correlator.add(frame)
    if correlator.n_frames > 1:
        check_against_reference(correlator, reference)


@pytest.mark.parametrize("mean", [0.01, 2.0])
def test_dense_frames_and_photons_of_a_long_run_agree_with_the_definition(mean):
    rng = np.random.default_rng(3)
    maps = rings(16, 24, 2, 2)
    ours, theirs = MultiTau(*maps, 1e-3, levels=6), ReferenceMultiTau(*maps, 1e-3, levels=6)
    photons = MultiTau(*maps, 1e-3, levels=6)
    for _ in range(5):
        frames = rng.poisson(mean, (333, 16, 24))
        ours.add(frames)
        theirs.add(frames)
        photons.add_events(*events(frames))
    check_against_reference(ours, theirs)
    check_against_reference(photons, theirs)


def test_photons_in_any_order_are_packed_and_correlated_alike():
    rng = np.random.default_rng(4)
    maps = rings()
    ours, theirs = MultiTau(*maps, 1e-3, levels=5), ReferenceMultiTau(*maps, 1e-3, levels=5)
    for _ in range(5):
        frames = rng.poisson(0.02, (128, 32, 40))
        pixels, first = events(frames)
        for own in np.split(pixels, first[1:].astype(int)):
            rng.shuffle(own)
        ours.add_events(pixels, first)
        theirs.add(frames)
    assert ours._pyramid.packed
    check_against_reference(ours, theirs)


def test_counts_that_outgrow_narrow_sums_are_correlated_exactly():
    maps = rings(16, 24, 2, 2)
    ours, theirs = MultiTau(*maps, 1.0, levels=4), ReferenceMultiTau(*maps, 1.0, levels=4)
    rng = np.random.default_rng(0)
    for largest in (3, 900, 900, 65_000, 5_000_000):
        frames = rng.integers(0, largest, (160, 16, 24), dtype=np.uint32)
        ours.add(frames)
        theirs.add(frames)
        check_against_reference(ours, theirs)


def test_counts_beyond_all_sums_are_refused_in_a_sentence():
    correlator = MultiTau(*rings(), 1.0)
    frames = np.full((8, 32, 40), 2**32 - 1, np.uint32)
    with pytest.raises(CorrelationOverflowError, match=r"a pixel has more than .* mask it"):
        correlator.add(frames)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.5])
def test_refuses_what_is_no_count_and_says_where(value):
    dynamic, static = rings()
    ss, fs = np.argwhere(static > 0)[0]
    correlator = MultiTau(dynamic, static, 1.0)
    frames = np.ones((3, 32, 40))
    frames[1, ss, fs] = value
    frames[:, 0, 0] = np.nan  # masked: nobody minds
    with pytest.raises(CorrelationError, match=f"frame 1 has .* ss {ss}, fs {fs}, .* mask it"):
        correlator.add(frames)
    assert correlator.n_frames == 0
    correlator.add(frames[:1])


def test_refuses_photons_outside_the_frame_and_offsets_that_are_none():
    correlator = MultiTau(*rings(), 1.0)
    with pytest.raises(CorrelationError, match="expected 0 to 1279"):
        correlator.add_events(np.array([5, 1280]), np.array([0]))
    with pytest.raises(CorrelationError, match="the index of the first photon"):
        correlator.add_events(np.array([5, 6]), np.array([0, 3, 1]))
    with pytest.raises(CorrelationError, match="come with no frames"):
        correlator.add_events(np.array([5, 6]), np.array([], np.uint64))


def test_masked_pixels_of_any_value_change_nothing():
    maps = rings()
    frames = np.random.default_rng(0).poisson(1.0, (50, 32, 40)).astype(np.uint32)
    clean, dirty = MultiTau(*maps, 1.0), MultiTau(*maps, 1.0)
    clean.add(frames)
    frames[:, maps[1] == 0] = 2**32 - 1
    dirty.add(frames)
    np.testing.assert_array_equal(clean.result().g2, dirty.result().g2)


def test_steep_intensity_is_normalised_away():
    """Whole-bin normalisation gives far too much on a steep I(q)."""
    rng = np.random.default_rng(5)
    height, width, tau = 64, 64, 40.0
    static = np.repeat(np.arange(1, width + 1)[None], height, axis=0)
    mean = 40.0 * np.exp(-np.arange(width) / 12.0)
    decay = np.exp(-1.0 / tau)
    field = rng.normal(size=(2, height, width)) * np.sqrt(0.5)
    correlator = MultiTau(np.ones_like(static), static, 1.0, levels=2)
    whole = MultiTau(np.ones_like(static), np.ones_like(static), 1.0, levels=2)
    for _ in range(10):
        frames = np.empty((200, height, width))
        for frame in frames:
            field = decay * field + np.sqrt((1 - decay**2) / 2) * rng.normal(size=field.shape)
            frame[:] = rng.poisson(mean * (field**2).sum(axis=0))
        correlator.add(frames)
        whole.add(frames)
    truth = 1.0 + np.exp(-2.0 / tau)
    assert abs(correlator.result().g2[0, 0] / truth - 1.0) < 0.02
    assert whole.result().g2[0, 0] > 1.5 * truth


def test_state_stays_within_its_bound_at_half_a_megapixel_side():
    dynamic = np.ones((512, 512), np.int32)
    correlator = MultiTau(dynamic, dynamic, 1e-3)
    rng = np.random.default_rng(0)
    for frame in rng.poisson(1.0, (40, 512, 512)).astype(np.uint16):
        correlator.add(frame)
    pixels = rng.integers(0, 512 * 512, 96 * 2600)
    correlator.add_events(pixels, np.arange(0, len(pixels), 2600))
    assert correlator.nbytes <= 128 * 2**20
