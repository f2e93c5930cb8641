"""Compiled loops that correlate photons at the lowest levels, where pixels mostly hold none.

A pixel's last counts are packed into a word per level; words are touched only where photons fell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import HISTORY, TILE, compiled

__all__ = [
    "FIELD_MAX",
    "GROUP",
    "PACKED_LEVELS",
    "correlate_photons",
    "pack",
    "sum_photons",
    "unpack",
]

#: Levels whose last frames are packed into a word per pixel.
PACKED_LEVELS = 3
#: Frames that make one frame of the first level that is not packed.
GROUP = 1 << PACKED_LEVELS
#: A word holds nine counts of seven bits, the newest lowest.
FIELD_BITS = 7
FIELD_MAX = (1 << FIELD_BITS) - 1
#: Pixels whose photons are handled together.
_STRETCH = 4096
_WORD = np.uint64((1 << FIELD_BITS * (HISTORY + 1)) - 1)
_SHIFT = np.uint64(FIELD_BITS)
_FIELD = np.uint64(FIELD_MAX)
_NINE = np.uint64(HISTORY + 1)


@compiled
def sum_photons(
    pixels: npt.NDArray[np.uint32],
    first: npt.NDArray[np.int64],
    place: npt.NDArray[np.int32],
    out: npt.NDArray[Any],
) -> tuple[int, bool]:
    """Sum groups of `GROUP` frames of photons.

    Parameters
    ----------
    pixels, first
        Photons of frame i are pixels[first[i]:first[i + 1]].
    place
        (H·W,): where each pixel is in the tiles, -1: masked.
    out
        (groups, tiles·TILE): becomes the sums.

    Returns
    -------
    int, bool
        How many groups were summed, up to one with a sum that no field can hold; and whether the
        pixels of each frame are in order.
    """
    ordered = True
    for group in range(out.shape[0]):
        sums = out[group]
        sums[:] = 0
        bits = np.uint64(0)
        for frame in range(group * GROUP, (group + 1) * GROUP):
            last = np.uint32(0)
            for pixel in pixels[first[frame] : first[frame + 1]]:
                ordered &= pixel >= last
                last = pixel
                i = place[pixel]
                if i >= 0:
                    # Beyond the type a sum would begin at 0 again, but its bits were seen.
                    count = np.uint64(sums[i]) + np.uint64(1)
                    sums[i] = count
                    bits |= count
        if bits > _FIELD:
            return group, ordered
    return out.shape[0], ordered


@compiled
def _aged(word: np.uint64, age: np.uint64) -> np.uint64:
    """Return a word after so many level frames."""
    # A shift by 64 bits or more is undefined.
    return (word << (_SHIFT * min(age, _NINE))) & _WORD


@compiled
def _add_past(past: np.uint64, sums: npt.NDArray[Any], row: int, p: np.uint32) -> None:
    """Add the counts that a photon meets, from the row of the first one on."""
    while past:
        count = past & _FIELD
        if count:
            sums[row, p] += count
        past >>= _SHIFT
        row += 1


@compiled
def correlate_photons(
    pixels: npt.NDArray[np.uint32],
    first: npt.NDArray[np.int64],
    n: int,
    time: int,
    ordered: bool,
    place: npt.NDArray[np.int32],
    words: npt.NDArray[np.uint64],
    products: npt.NDArray[Any],
) -> None:
    """Correlate frames of photons at the packed levels.

    A photon meets the earlier counts of its pixel, all in one word per level; pixels without
    photons are not touched.

    Parameters
    ----------
    pixels, first, place, ordered
        As `sum_photons` has them.
    n
        How many frames to take.
    time
        Number of the first of them in the run, a multiple of `GROUP`.
    words
        (tiles·TILE, PACKED_LEVELS + 1): the packed counts, and the frame that was last packed.
    products
        As for `correlate_block`.
    """
    one, two = np.uint64(1), np.uint64(2)
    fifth = _SHIFT * np.uint64(5)
    cursor = first[:n].copy()
    # All frames of a stretch of pixels after each other, so that its words stay in the cache.
    stretch = _STRETCH if ordered else place.shape[0]
    for end in range(stretch, place.shape[0] + stretch, stretch):
        for frame in range(n):
            now = np.uint64(time + frame)
            done = 0
            for pixel in pixels[cursor[frame] : first[frame + 1]]:
                if pixel >= end:
                    break
                done += 1
                if place[pixel] < 0:
                    continue
                i = np.uint32(place[pixel])
                own = words[i]
                before = own[PACKED_LEVELS]
                own[PACKED_LEVELS] = now
                level0 = _aged(own[0], now - before)
                level1 = _aged(own[1], (now >> one) - (before >> one))
                level2 = _aged(own[2], (now >> two) - (before >> two))
                own[0], own[1], own[2] = level0 + one, level1 + one, level2 + one
                past0, past1, past2 = level0 >> _SHIFT, level1 >> fifth, level2 >> fifth
                if past0 | past1 | past2:
                    sums, p = products[i // np.uint32(TILE)], i % np.uint32(TILE)
                    _add_past(past0, sums, 0, p)
                    _add_past(past1, sums, HISTORY, p)
                    _add_past(past2, sums, HISTORY + 4, p)
            cursor[frame] += done


@compiled
def pack(ring: npt.NDArray[Any], time: int, words: npt.NDArray[np.uint64]) -> bool:
    """Pack the last frames before frame `time`, a multiple of `GROUP`; False if too large."""
    for tile in range(ring.shape[0]):
        for level in range(PACKED_LEVELS):
            for t in range(HISTORY):
                for p in range(TILE):
                    if ring[tile, level, t, p] > FIELD_MAX:
                        return False
        for p in range(TILE):
            i = tile * TILE + p
            words[i, PACKED_LEVELS] = np.uint64(time - 1)
            for level in range(PACKED_LEVELS):
                word = np.uint64(0)
                for t in range(HISTORY):
                    word = (word << _SHIFT) | np.uint64(ring[tile, level, t, p])
                words[i, level] = word
    return True


@compiled
def unpack(words: npt.NDArray[np.uint64], time: int, ring: npt.NDArray[Any]) -> None:
    """Unpack the last frames before frame `time`, a multiple of `GROUP`."""
    now = np.uint64(time - 1)
    for tile in range(ring.shape[0]):
        for p in range(TILE):
            i = tile * TILE + p
            before = words[i, PACKED_LEVELS]
            for level in range(PACKED_LEVELS):
                shift = np.uint64(level)
                word = _aged(words[i, level], (now >> shift) - (before >> shift))
                for t in range(HISTORY):
                    ring[tile, level, HISTORY - 1 - t, p] = word & _FIELD
                    word >>= _SHIFT
