"""From detector frames to what a network takes, and what was done on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.streaming.items import PreprocessingMetadata

__all__ = ["FramesError", "Padding", "Preprocessor"]

Padding = Literal["bottom-right", "centred"]
Normalisation = Literal["none", "panel"]

#: A panel that is the same everywhere is divided by this.
_LEAST_DEVIATION = 1e-6


class FramesError(BeamlineError, ValueError):
    """Frames can't be brought into the shape that a model takes."""


@dataclass(frozen=True)
class Preprocessor:
    """Pad frames, and normalise them for a model.

    Attributes
    ----------
    pad_to_multiple
        Rows and columns are filled up to a multiple of this.
    pad_to_shape
        Rows and columns to fill up to, instead.
    padding
        Where the padding (zeros) goes: "bottom-right" as in peaknet-pipeline-ray, or "centred" as
        in lclstreamer.
    normalise
        "none": the model takes photons as they are; "panel": mean 0 and standard deviation 1 over
        the finite pixels of each panel.
    fill
        What the model sees in the padding: "mirror", the panel mirrored at its edge, so that there
        is no step in the background; or "zero", for networks that were trained with it. Images
        handed on have zeros there.
    image_dtype
        Of the images handed on: "float32" as the contract of Q2 has it, or "source".
    """

    pad_to_multiple: int = 1
    pad_to_shape: tuple[int, int] | None = None
    padding: Padding = "bottom-right"
    normalise: Normalisation = "none"
    fill: Literal["mirror", "zero"] = "mirror"
    image_dtype: Literal["float32", "source"] = "float32"

    def stack(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View frames (B, H, W) or (B, C, H, W) as (B, C, H, W).

        Raises
        ------
        FramesError
            If they have another rank, no pixels, or no real numbers.
        """
        if frames.ndim == 3:
            frames = frames[:, None]
        if frames.ndim != 4 or not frames.size or frames.dtype.kind not in "uifb":
            raise FramesError(
                "frames must be real numbers of shape (events, panels, ss, fs) or (events, ss, fs),"
                f" found {frames.dtype} {frames.shape}."
            )
        return frames

    def padded_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns after padding.

        Raises
        ------
        FramesError
            If a panel is larger than `pad_to_shape`.
        """
        if self.pad_to_shape is None:
            step = self.pad_to_multiple
            return -(-height // step) * step, -(-width // step) * step
        if height > self.pad_to_shape[0] or width > self.pad_to_shape[1]:
            raise FramesError(
                f"panels of {height} x {width} pixels do not fit into pad_to_shape "
                f"{self.pad_to_shape[0]} x {self.pad_to_shape[1]}."
            )
        return self.pad_to_shape

    def offset(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of padding lie before the first pixel."""
        if self.padding == "bottom-right":
            return 0, 0
        rows, columns = self.padded_shape(height, width)
        return (rows - height) // 2, (columns - width) // 2

    def images(self, frames: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], PreprocessingMetadata]:
        """Pad frames.

        Parameters
        ----------
        frames
            (B, C, H, W) or (B, H, W).

        Returns
        -------
        images
            (B·C, 1, H', W'), values unchanged; the memory of `frames` where nothing changes.
        metadata
            The shapes before and after.
        """
        stack = self.stack(frames)
        events, panels, height, width = stack.shape
        rows, columns = self.padded_shape(height, width)
        dtype = np.dtype(np.float32) if self.image_dtype == "float32" else stack.dtype
        flat = stack.reshape(events * panels, 1, height, width)
        if (rows, columns) != (height, width):
            top, left = self.offset(height, width)
            images = np.zeros((events * panels, 1, rows, columns), dtype)
            images[:, :, top : top + height, left : left + width] = flat
        else:
            images = flat.astype(dtype, copy=False)
        metadata = PreprocessingMetadata(
            original_shape=(events, panels, height, width), preprocessed_shape=images.shape
        )
        return images, metadata

    def model_input(
        self, images: npt.NDArray[Any], metadata: PreprocessingMetadata
    ) -> npt.NDArray[np.float32]:
        """Return what the model takes: float32, normalised, 0 where a pixel is not finite."""
        values = images.astype(np.float32, copy=False)
        _, _, height, width = metadata.original_shape
        top, left = self.offset(height, width)
        padded = values.shape[2:] != (height, width)
        finite = images.dtype.kind != "f" or bool(np.isfinite(values).all())
        if self.normalise == "none" and finite and not (padded and self.fill == "mirror"):
            return values
        result = np.zeros_like(values)
        border = ((top, values.shape[2] - height - top), (left, values.shape[3] - width - left))
        for panel, out in zip(values[:, 0], result[:, 0], strict=True):
            pixels = self._normalised(panel[top : top + height, left : left + width])
            if padded and self.fill == "mirror":
                out[...] = np.pad(pixels, border, mode="symmetric")
            else:
                out[top : top + height, left : left + width] = pixels
        return result

    def _normalised(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        finite = np.isfinite(pixels)
        if self.normalise == "panel" and finite.any():
            good = pixels[finite].astype(np.float64)
            deviation = max(float(good.std()), _LEAST_DEVIATION)
            pixels = ((pixels - good.mean()) / deviation).astype(np.float32)
        return np.where(finite, pixels, np.float32(0.0))
