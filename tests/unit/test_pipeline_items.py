"""Items of Q2 and how queues carry them, without a cluster."""

import numpy as np
import pytest

from beamline.streaming.items import LARGE, PipelineOutput, PreprocessingMetadata, as_array
from beamline.streaming.parcel import pack, unpack


class Store:
    """What `ray.put` and `ray.get` do, in a list."""

    def __init__(self):
        self.values = []

    def put(self, value):
        self.values.append(value)
        return len(self.values) - 1

    def get(self, reference):
        return self.values[reference]


class Tensor:
    """What a torch tensor on a GPU needs to become an array."""

    def __init__(self, array, *, half=False):
        self.array, self.half = array, half

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        if self.half:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def float(self):
        return Tensor(self.array.astype(np.float32))


Tensor.__module__ = "torch"


def test_exactly_one_kind_of_predictions():
    with pytest.raises(ValueError, match="found neither"):
        PipelineOutput(batch_id="b")
    with pytest.raises(ValueError, match="found both"):
        PipelineOutput(predictions=np.zeros(1), predictions_ref=np.zeros(1))
    with pytest.raises(TypeError, match="metadata must be a dict, found list"):
        PipelineOutput(predictions=np.zeros(1), metadata=[])
    with pytest.raises(TypeError, match="batch_id must be a str, found int"):
        PipelineOutput(predictions=np.zeros(1), batch_id=1)


def test_tensors_are_arrays():
    logits = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    assert as_array(Tensor(logits)) is logits
    assert as_array(Tensor(logits.astype(np.float16), half=True)).dtype == np.float32
    output = PipelineOutput(predictions=Tensor(logits), original_image_ref=Tensor(logits[:, :1]))
    np.testing.assert_array_equal(output.get_numpy_array(), logits)
    np.testing.assert_array_equal(output.get_images(), logits[:, :1])


@pytest.mark.parametrize("side", [4, 400])
@pytest.mark.parametrize("kind", [np.asarray, Tensor])
def test_large_arrays_are_taken_out_and_put_back(side, kind):
    logits = np.random.default_rng(1).random((1, 2, side, side), np.float32)
    images = logits[:, :1] + 1
    item = PipelineOutput(
        predictions=kind(logits),
        original_image_ref=kind(images),
        metadata={"timestamp": np.uint64(5), "mask": kind(images), "none": None},
        batch_id="b",
        preprocessing_metadata=PreprocessingMetadata((1, 1, side, side), (1, 1, side, side)),
    )
    store = Store()
    packed = pack(item, store.put)
    assert len(packed.skeleton) < LARGE
    # The numbers that stand for references here are no parts; real ones are (system tests).
    assert len(packed.parts) == (0 if side == 4 else 1)
    back = unpack(packed.skeleton, packed.parts, store.get)
    if side == 4:
        np.testing.assert_array_equal(back.get_numpy_array(), logits)
    else:
        assert back.predictions is None
        np.testing.assert_array_equal(store.get(back.predictions_ref), logits)
        np.testing.assert_array_equal(store.get(back.original_image_ref), images)
    np.testing.assert_array_equal(back.metadata["mask"], images)
    assert back.metadata["timestamp"] == 5
    assert back.preprocessing_metadata == item.preprocessing_metadata
    assert item.predictions is not None, "the producer's own item is as it was"
