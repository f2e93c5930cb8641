"""Preprocessing and models of the inference stage, without Ray."""

import numpy as np
import pytest

from beamline.core.errors import ConfigurationError
from beamline.crystallography.segmentation import LocalThreshold
from beamline.streaming.models import check_model, load_model
from beamline.streaming.preprocessing import FramesError, Preprocessor

RNG = np.random.default_rng(5)


def doubled(scale: float = 2.0):
    """A factory of models, as users write them."""
    return lambda images: np.concatenate([0 * images, scale * images], axis=1)


@pytest.mark.parametrize("padding", ["bottom-right", "centred"])
def test_padding_keeps_every_pixel_where_the_contract_says(padding):
    frames = RNG.poisson(3.0, (3, 2, 30, 45)).astype(np.uint16)
    preprocessor = Preprocessor(pad_to_multiple=16, padding=padding)
    images, metadata = preprocessor.images(frames)
    assert (images.dtype, images.shape) == (np.float32, (6, 1, 32, 48))
    assert metadata.original_shape == (3, 2, 30, 45)
    assert metadata.preprocessed_shape == images.shape
    top, left = (0, 0) if padding == "bottom-right" else (1, 1)
    inside = images[:, 0, top : top + 30, left : left + 45]
    assert np.array_equal(inside.reshape(frames.shape), frames)
    assert images.sum() == frames.sum()


def test_frames_that_need_no_padding_are_not_copied():
    frames = RNG.normal(size=(2, 1, 32, 32)).astype(np.float32)
    images, metadata = Preprocessor(pad_to_multiple=32).images(frames)
    assert np.shares_memory(images, frames)
    assert np.shares_memory(Preprocessor().model_input(images, metadata), frames)
    counts, _ = Preprocessor(image_dtype="source").images(frames.astype(np.uint16))
    assert counts.dtype == np.uint16


def test_a_panel_is_normalised_over_its_finite_pixels_alone():
    frames = RNG.normal(7.0, 3.0, (1, 2, 40, 40)).astype(np.float32)
    frames[0, 1, :5] = np.nan
    preprocessor = Preprocessor(
        pad_to_shape=(64, 48), normalise="panel", padding="centred", fill="zero"
    )
    images, metadata = preprocessor.images(frames)
    given = preprocessor.model_input(images, metadata)
    inside = given[:, 0, 12:52, 4:44]
    assert np.isfinite(given).all()
    assert inside[0].mean() == pytest.approx(0.0, abs=1e-5)
    assert inside[1, 5:].std() == pytest.approx(1.0, abs=1e-5)
    assert np.count_nonzero(given) == np.count_nonzero(inside)
    assert np.isnan(images).sum() == 5 * 40  # what goes on to Q2 is as it was measured


def test_the_model_sees_no_step_at_the_edge_but_q2_has_zeros_there():
    frames = np.full((1, 1, 20, 20), 5.0, np.float32)
    preprocessor = Preprocessor(pad_to_multiple=16)
    images, metadata = preprocessor.images(frames)
    assert images[0, 0, 20:].max() == 0
    assert (preprocessor.model_input(images, metadata) == 5.0).all()


@pytest.mark.parametrize("shape", [(40, 40), (1, 2, 3, 40, 40), (0, 40, 40), (1, 1, 80, 40)])
def test_frames_that_do_not_fit_are_refused(shape):
    with pytest.raises(FramesError, match=r"found|do not fit"):
        Preprocessor(pad_to_shape=(64, 64)).images(np.zeros(shape, np.float32))


def test_local_background_marks_the_pixels_of_the_segmentation():
    images = RNG.poisson(2.0, (2, 1, 64, 64)).astype(np.float32)
    images[0, 0, 20:23, 30:33] += 40.0
    images[1, 0, 50:52, 5:7] += 60.0
    logits = load_model("local-background", threshold=4.5)(images)
    assert (logits.dtype, logits.shape) == (np.float32, (2, 2, 64, 64))
    for image, (background, peak) in zip(images[:, 0], logits, strict=True):
        odds = LocalThreshold(threshold=4.5)(image)
        assert np.array_equal(peak > background, odds > 0)
        assert np.allclose(peak - background, odds)
        assert (peak > background).any()


def test_a_model_of_the_user_is_found_by_module_and_name():
    model = load_model(f"{__name__}:doubled", scale=3.0)
    images = np.ones((2, 1, 4, 4), np.float32)
    assert np.array_equal(model(images)[:, 1], 3.0 * images[:, 0])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("peaknet", {}, "no model 'peaknet'"),
        ("no_such_module:model", {}, "can't be imported"),
        (f"{__name__}:nothing", {}, "can't be imported"),
        ("local-background", {"treshold": 3}, "treshold"),
        ("missing.onnx", {}, "missing.onnx"),
    ],
)
def test_a_model_that_is_none_is_refused(name, options, said):
    with pytest.raises(ConfigurationError, match=said):
        load_model(name, **options)
    # Before any worker is made, only what no machine could know is refused.
    if ":" in name or name.endswith(".onnx"):
        check_model(name, options)
    else:
        with pytest.raises(ConfigurationError, match=said):
            check_model(name, options)


def test_models_that_are_there_pass_the_check():
    check_model("local-background", {"threshold": 3})
    check_model("spot-network", {"threads": 2})
    with pytest.raises(ConfigurationError, match=r"options of model 'net\.onnx' are wrong"):
        check_model("net.onnx", {"path": "x", "gian": 2})
