"""What travels on Q2: logits of a batch, the images they were made from, and what is known of them.

The field names are those of peaknet-pipeline-ray's data classes, so that either side can read what
the other one made. Arrays are NumPy; torch tensors are taken where torch is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LARGE", "PipelineOutput", "PreprocessingMetadata", "as_array", "is_tensor"]

LARGE = 100 * 1024
"""Bytes from which an array goes by reference; Ray itself copies what is smaller into messages."""


def is_tensor(value: object) -> bool:
    """Return whether this is a torch tensor, without importing torch."""
    kind = type(value)
    return kind.__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return an array or a tensor as NumPy; numbers that NumPy lacks (bfloat16) become float32."""
    if not is_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:
        return np.asarray(tensor.float().numpy())


@dataclass
class PreprocessingMetadata:
    """How images were brought into the shape that the model takes.

    Attributes
    ----------
    original_shape
        (B, C, H, W): events, panels, rows, columns.
    preprocessed_shape
        (B·C, 1, H', W'): the same after padding.
    """

    original_shape: tuple[int, ...]
    preprocessed_shape: tuple[int, ...]


@dataclass
class PipelineOutput:
    """The result of inference on one batch: an item of Q2.

    Attributes
    ----------
    predictions
        Logits (B·C, 2, H', W') float32, class 1 = peak; an array or a torch tensor.
    predictions_ref
        Ray reference to such an array, instead of `predictions`.
    metadata
        What is known of the batch: ``photon_wavelength`` (Å) or ``photon_energy`` (eV),
        ``timestamp`` and whatever the source added.
    batch_id
        Name of the batch, unique in its run.
    original_image_ref
        Ray reference to the images (B·C, 1, H', W') float32, or the array itself.
    preprocessing_metadata
        The shapes before and after preprocessing.

    Raises
    ------
    ValueError
        Unless exactly one of `predictions` and `predictions_ref` is given.
    TypeError
        For metadata that is no dict, or a batch_id that is no str.
    """

    predictions: Any = None
    predictions_ref: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    batch_id: str = ""
    original_image_ref: Any = None
    preprocessing_metadata: PreprocessingMetadata | None = None

    def __post_init__(self) -> None:
        if (self.predictions is None) == (self.predictions_ref is None):
            raise ValueError(
                "PipelineOutput takes either predictions or predictions_ref, found "
                + ("neither." if self.predictions is None else "both.")
            )
        if not isinstance(self.metadata, dict):
            raise TypeError(f"metadata must be a dict, found {type(self.metadata).__name__}.")
        if not isinstance(self.batch_id, str):
            raise TypeError(f"batch_id must be a str, found {type(self.batch_id).__name__}.")

    def get_numpy_array(self) -> npt.NDArray[Any]:
        """Return the logits; without a copy if they are in Ray's object store."""
        return _fetched(self.predictions if self.predictions_ref is None else self.predictions_ref)

    def get_images(self) -> npt.NDArray[Any] | None:
        """Return the images, or None if there are none."""
        image = self.original_image_ref
        return None if image is None else _fetched(image)

    def by_reference(self, put: Callable[[Any], Any]) -> PipelineOutput:
        """Return the same item with large arrays replaced by references.

        Parameters
        ----------
        put
            `ray.put`, or something like it.
        """
        item = self
        if self.predictions is not None:
            array = as_array(self.predictions)
            if array.nbytes >= LARGE:
                item = replace(item, predictions=None, predictions_ref=put(array))
            elif array is not self.predictions:
                item = replace(item, predictions=array)
        image = self.original_image_ref
        if is_tensor(image) or isinstance(image, np.ndarray):
            array = as_array(image)
            item = replace(item, original_image_ref=put(array) if array.nbytes >= LARGE else array)
        return item


def _fetched(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if is_tensor(value):
        return as_array(value)
    import ray

    return as_array(ray.get(value))
