"""Compiled loops that turn frames into counts and photons, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import compiled

__all__ = ["as_counts", "find_photons", "sort_pixels", "spread_photons"]


@compiled
def as_counts(
    frames: npt.NDArray[Any], valid: npt.NDArray[np.bool_], counts: npt.NDArray[Any]
) -> tuple[int, int]:
    """Convert frames (n, H·W) into unsigned integers, 0 on pixels that are not valid.

    Returns
    -------
    int, int
        Frame and pixel of the first value that is no count that `counts` can hold, or -1, -1.
    """
    most = np.iinfo(counts.dtype).max
    for frame in range(frames.shape[0]):
        for pixel in range(frames.shape[1]):
            if valid[pixel]:
                value = frames[frame, pixel]
                if not (value >= 0 and value <= most) or value != np.floor(value):
                    return frame, pixel
                counts[frame, pixel] = value
            else:
                counts[frame, pixel] = 0
    return -1, -1


@compiled
def find_photons(
    quads: npt.NDArray[np.uint64],
    most: int,
    pixels: npt.NDArray[np.uint32],
    first: npt.NDArray[np.int64],
) -> int:
    """List the photons of frames of 16-bit counts.

    Parameters
    ----------
    quads
        (n, H·W/4): the frames, four pixels at a time.
    most
        Give up at a frame up to which there are more photons on average.
    pixels, first
        Become the photons, those of frame i from pixels[first[i]] on; there has to be room for
        (n + 1)·`most`.

    Returns
    -------
    int
        Number of photons, or -1 if there are too many.
    """
    number = 0
    for frame in range(quads.shape[0]):
        first[frame] = number
        room = (frame + 2) * most
        row = quads[frame]
        for quad in range(row.shape[0]):
            word = row[quad]
            if word:
                for pixel in range(4 * quad, 4 * quad + 4):
                    count = np.int64(word & np.uint64(0xFFFF))
                    word >>= np.uint64(16)
                    if number + count > room:
                        return -1
                    for _ in range(count):
                        pixels[number] = pixel
                        number += 1
    first[quads.shape[0]] = number
    return number


@compiled
def spread_photons(
    pixels: npt.NDArray[np.uint32], first: npt.NDArray[np.int64], frames: npt.NDArray[Any]
) -> None:
    """Add photons to frames (n, H·W)."""
    for frame in range(frames.shape[0]):
        for j in range(first[frame], first[frame + 1]):
            frames[frame, pixels[j]] += 1


@compiled
def sort_pixels(
    frames: npt.NDArray[np.uint16],
    place: npt.NDArray[np.uint32],
    values: npt.NDArray[np.uint16],
) -> None:
    """Write pixel p of frames (n, H·W) to values[:, place[p]].

    To read in order and write anywhere is more than twice as fast as the other way round.
    """
    for t in range(frames.shape[0]):
        frame, row = frames[t], values[t]
        for p in range(frame.shape[0]):
            row[place[p]] = frame[p]
