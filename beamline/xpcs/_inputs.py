"""What all correlators check of what they are given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.adapters import host_array

__all__ = ["checked_frame_time", "checked_levels", "checked_missing", "checked_photons"]


def checked_frame_time(frame_time: float) -> float:
    """Return the time from one frame to the next, s, or raise CorrelationError."""
    if not (math.isfinite(frame_time) and frame_time > 0.0):
        raise CorrelationError(
            f"frame_time is {frame_time} s, expected a positive time: the period from one frame to "
            "the next."
        )
    return frame_time


def checked_levels(levels: int) -> int:
    """Return the number of levels of a multi-tau scheme, or raise CorrelationError."""
    if not 1 <= levels <= 24:
        raise CorrelationError(f"levels is {levels}, expected 1 to 24.")
    return levels


def checked_missing(number: int) -> int:
    """Return how many frames are missing, or raise CorrelationError."""
    if number < 0:
        raise CorrelationError(f"{number} frames are missing, expected 0 or more.")
    return number


def checked_photons(
    pixels: npt.ArrayLike, first: npt.ArrayLike, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return photons and the bounds of their frames.

    Parameters
    ----------
    pixels
        Flat pixel index of each photon, the frames back to back.
    first
        (n,) index in `pixels` of the first photon of each frame.
    shape
        (H, W) of a frame.

    Returns
    -------
    ndarray, ndarray
        `pixels`, and (n + 1,) bounds: photons of frame i are pixels[bounds[i]:bounds[i + 1]].

    Raises
    ------
    CorrelationError
        If these are not increasing offsets, or a pixel is outside the frame.
    """
    found: npt.NDArray[Any] = host_array(pixels)
    bounds = np.append(host_array(first), len(found)).astype(np.int64)
    if bounds[0] != 0 or np.any(np.diff(bounds) < 0):
        if len(bounds) == 1:
            raise CorrelationError(
                f"{len(found)} photons come with no frames, expected the index of the first photon "
                "of each frame."
            )
        raise CorrelationError(
            f"first begins with {bounds[0]} and has to grow from 0 to the number of photons, "
            f"{len(found)}: expected the index of the first photon of each frame."
        )
    size = shape[0] * shape[1]
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < size:
        raise CorrelationError(
            f"photons lie in the pixels {found.min()} to {found.max()}, expected 0 to {size - 1}: "
            f"flat indices in a frame of {shape[0]} × {shape[1]}."
        )
    return found.astype(np.uint32, copy=False), bounds
