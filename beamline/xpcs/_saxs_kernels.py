"""Compiled sums of mean scattering."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import compiled

__all__ = ["sum_frames", "sum_photons"]


@compiled
def sum_frames(
    frames: npt.NDArray[Any],
    valid: npt.NDArray[Any],
    scratch: npt.NDArray[Any],
    image: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
) -> None:
    """Add frames to an image, and their counts on valid pixels to `counts`.

    Parameters
    ----------
    frames
        (n, p).
    valid
        (p,) of the type of the frames: 1, or 0 on pixels that don't count.
    scratch
        Of a type that holds the sum of a pixel in all frames, and that of as many pixels as there
        are here in one frame; so many are summed together.
    image, counts
        (p,) and (n,).
    """
    cast = scratch.dtype.type
    for begin in range(0, frames.shape[1], scratch.shape[0]):
        end = min(begin + scratch.shape[0], frames.shape[1])
        use, own = valid[begin:end], image[begin:end]
        scratch[:] = 0
        for t in range(frames.shape[0]):
            row = frames[t, begin:end]
            number = cast(0)
            for p in range(row.shape[0]):
                scratch[p] = cast(scratch[p] + row[p])
                number = cast(number + cast(row[p] * use[p]))
            counts[t] += number
        for p in range(own.shape[0]):
            own[p] += scratch[p]


@compiled
def sum_photons(
    pixels: npt.NDArray[np.uint32],
    bounds: npt.NDArray[np.int64],
    valid: npt.NDArray[np.uint16],
    image: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
) -> None:
    """Do the same with photons: those of frame t are pixels[bounds[t]:bounds[t + 1]]."""
    for t in range(len(bounds) - 1):
        number = np.int64(0)
        for pixel in pixels[bounds[t] : bounds[t + 1]]:
            image[pixel] += 1.0
            number += np.int64(valid[pixel])
        counts[t] += number
