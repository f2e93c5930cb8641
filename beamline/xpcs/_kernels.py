"""Compiled loops of the multi-tau correlator.

Pixels are handled in tiles of `TILE` neighbours, so that whatever a tile needs stays in the cache
while a block of frames is correlated. Sums of products of small counts are made in the narrowest
integers that hold them for sure, because a vector of those has most elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

__all__ = [
    "FIELD_MAX",
    "GROUP",
    "HISTORY",
    "PACKED_LEVELS",
    "TILE",
    "add_up",
    "as_counts",
    "correlate_block",
    "correlate_events",
    "find_events",
    "pack",
    "spread_events",
    "unpack",
]

TILE = 128
#: Level frames kept: the longest lag within a level.
HISTORY = 8
#: Levels whose last frames are packed into a word per pixel while photons are few.
PACKED_LEVELS = 3
#: Frames that make one frame of the first level that is not packed.
GROUP = 1 << PACKED_LEVELS
#: A word holds nine counts of seven bits, the newest lowest.
FIELD_BITS = 7
FIELD_MAX = (1 << FIELD_BITS) - 1
#: Pixels whose photons are handled together.
_STRETCH = 4096
_WORD = (1 << FIELD_BITS * (HISTORY + 1)) - 1

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function; keep the machine code if there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba: no directory is writable
        return numba.njit(nogil=True)(function)


@compiled
def _add_products(
    f: npt.NDArray[Any], begin: int, end: int, lag: int, total: npt.NDArray[Any]
) -> None:
    """total[i, p] += Σ_t f[t, p]·f[t − lag − i, p], i = 0…3, in the type of `total`.

    Four frames and four lags at a time, so that what was loaded is used several times.
    """
    cast = total.dtype.type
    t = begin
    while t + 4 <= end:
        e = t - lag
        for p in range(TILE):
            a0, a1, a2, a3 = cast(f[t, p]), cast(f[t + 1, p]), cast(f[t + 2, p]), cast(f[t + 3, p])
            b0, b1, b2, b3 = cast(f[e - 3, p]), cast(f[e - 2, p]), cast(f[e - 1, p]), cast(f[e, p])
            b4, b5, b6 = cast(f[e + 1, p]), cast(f[e + 2, p]), cast(f[e + 3, p])
            total[0, p] = cast(
                total[0, p] + cast(a0 * b3) + cast(a1 * b4) + cast(a2 * b5) + cast(a3 * b6)
            )
            total[1, p] = cast(
                total[1, p] + cast(a0 * b2) + cast(a1 * b3) + cast(a2 * b4) + cast(a3 * b5)
            )
            total[2, p] = cast(
                total[2, p] + cast(a0 * b1) + cast(a1 * b2) + cast(a2 * b3) + cast(a3 * b4)
            )
            total[3, p] = cast(
                total[3, p] + cast(a0 * b0) + cast(a1 * b1) + cast(a2 * b2) + cast(a3 * b3)
            )
        t += 4
    while t < end:
        for i in range(4):
            for p in range(TILE):
                total[i, p] += cast(cast(f[t, p]) * cast(f[t - lag - i, p]))
        t += 1


@compiled
def _add_large_products(
    f: npt.NDArray[Any], begin: int, end: int, lag: int, total: npt.NDArray[Any]
) -> None:
    """Do what `_add_products` does, for wider types: less code, which compiles sooner."""
    cast = total.dtype.type
    for t in range(begin, end):
        for i in range(4):
            for p in range(TILE):
                total[i, p] += cast(f[t, p]) * cast(f[t - lag - i, p])


@compiled
def correlate_block(
    frames: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    mask: npt.NDArray[Any],
    limit: int,
    first_tile: int,
    counts: npt.NDArray[np.int64],
    new: npt.NDArray[np.int64],
    exists: npt.NDArray[np.bool_],
    first_lag: npt.NDArray[np.int64],
    ring: npt.NDArray[Any],
    seen: npt.NDArray[np.uint32],
    products: npt.NDArray[Any],
    head: npt.NDArray[Any],
    tail: npt.NDArray[Any],
    lost: npt.NDArray[Any],
    total: npt.NDArray[np.uint64],
    narrow: npt.NDArray[Any],
    middle: npt.NDArray[Any],
    out: npt.NDArray[Any],
) -> int:
    """Correlate a block of frames at several levels.

    Parameters
    ----------
    frames
        (n, pixels): a tile's pixels are `TILE` from `starts[tile]` on.
    starts, mask
        (tiles,) and (tiles, TILE): 0 on pixels to leave out, else all bits set.
    limit
        Largest count that this call may take.
    first_tile
        Where to begin.
    counts, new
        (levels + 1,): how many frames there were at each level before, and how many this block
        adds; the last ones are those for `out`.
    exists
        (levels + 1, HISTORY + n): whether level frames exist, from `HISTORY` before the new ones.
    first_lag
        (levels,): 1 or 5, the first lag of each level; the last one is `HISTORY`.
    ring
        (tiles, levels, HISTORY, TILE): the last frames of each level.
    seen
        (tiles, levels): all bits that frames of a level ever had set.
    products
        (tiles, rows, TILE): sums of products, a row per lag.
    head, tail
        Shaped like `products` (`tail`: no rows unless a frame is missing): sums of frames without
        an earlier and without a later partner.
    lost
        (tiles, levels, TILE): sums of frames left over because their neighbour, with which they
        would make a frame of the next level, is missing; no levels unless a frame is missing.
    total
        (tiles, TILE): sum of all frames, or no tiles.
    narrow, middle
        (4, TILE) scratch: for sums of small products, and for larger ones.
    out
        (n_out, tiles·TILE): frames of the level after the last one, or none.

    Returns
    -------
    int
        The tile that holds a count beyond the limit and was left alone, as all after it; the number
        of tiles if there is none.
    """
    levels = ring.shape[1]
    rows = HISTORY + frames.shape[0]
    small = np.uint64(np.iinfo(narrow.dtype).max)
    kept = np.empty((levels, rows, TILE), dtype=ring.dtype)
    quick = np.empty(TILE, dtype=ring.dtype)
    cast = ring.dtype.type
    most = np.iinfo(ring.dtype).max
    for tile in range(first_tile, starts.shape[0]):
        base = kept[0]
        start = starts[tile]
        bits = cast(0)
        quick[:] = 0
        for t in range(frames.shape[0]):
            given = frames[t, start : start + TILE]
            for p in range(TILE):
                value = cast(given[p] & mask[tile, p])
                base[HISTORY + t, p] = value
                quick[p] = cast(quick[p] + value)
                bits |= value
        if bits > limit:
            return tile
        if total.shape[0] and np.uint64(bits) * frames.shape[0] <= np.uint64(most):
            for p in range(TILE):
                total[tile, p] += quick[p]
        elif total.shape[0]:
            middle[0, :] = 0
            for t in range(HISTORY, rows):
                for p in range(TILE):
                    middle[0, p] += base[t, p]
            for p in range(TILE):
                total[tile, p] += middle[0, p]
        row = 0
        for level in range(levels):
            own = kept[level]
            number = new[level]
            if number == 0:
                break
            for t in range(HISTORY):
                for p in range(TILE):
                    own[t, p] = ring[tile, level, t, p]
            seen[tile, level] |= bits
            largest = np.uint64(seen[tile, level])
            chunk = number
            if largest:
                chunk = min(number, np.int64(small // (largest * largest)))
            end = HISTORY + number
            edge = False
            for t in range(end):
                edge |= not exists[level, t]
            for lag in range(first_lag[level], HISTORY, 4):
                if chunk >= 4 or chunk == number:
                    begin = HISTORY
                    while begin < end:
                        stop = min(begin + chunk, end)
                        narrow[:] = 0
                        _add_products(own, begin, stop, lag, narrow)
                        for i in range(4):
                            for p in range(TILE):
                                products[tile, row + i, p] += narrow[i, p]
                        begin = stop
                else:
                    middle[:] = 0
                    _add_large_products(own, HISTORY, end, lag, middle)
                    for i in range(4):
                        for p in range(TILE):
                            products[tile, row + i, p] += middle[i, p]
                if edge:
                    for t in range(HISTORY, end):
                        for i in range(4):
                            e = t - lag - i
                            if exists[level, t] and not exists[level, e]:
                                for p in range(TILE):
                                    head[tile, row + i, p] += own[t, p]
                            elif exists[level, e] and not exists[level, t]:
                                for p in range(TILE):
                                    tail[tile, row + i, p] += own[e, p]
                row += 4
            # Frames of the next level begin at even indices of this one.
            t = HISTORY + 2 * counts[level + 1] - counts[level]
            bits = cast(0)
            for k in range(new[level + 1]):
                there = exists[level + 1, HISTORY + k]
                if not there:
                    for p in range(TILE):
                        lost[tile, level, p] += own[t, p] + own[t + 1, p]
                if level + 1 < levels:
                    if there:
                        for p in range(TILE):
                            value = cast(own[t, p] + own[t + 1, p])
                            kept[level + 1, HISTORY + k, p] = value
                            bits |= value
                    else:
                        for p in range(TILE):
                            kept[level + 1, HISTORY + k, p] = 0
                elif out.shape[0]:
                    given = out[k, tile * TILE : (tile + 1) * TILE]
                    if there:
                        for p in range(TILE):
                            given[p] = own[t, p] + own[t + 1, p]
                    else:
                        for p in range(TILE):
                            given[p] = 0
                t += 2
            for t in range(HISTORY):
                for p in range(TILE):
                    ring[tile, level, t, p] = own[t + number, p]
    return starts.shape[0]


@compiled
def correlate_events(
    pixels: npt.NDArray[np.uint32],
    first: npt.NDArray[np.int64],
    begin: int,
    time: int,
    place: npt.NDArray[np.int32],
    words: npt.NDArray[np.uint64],
    products: npt.NDArray[Any],
    total: npt.NDArray[np.uint64],
    out: npt.NDArray[Any],
) -> int:
    """Correlate groups of `GROUP` frames of photons at the packed levels.

    A photon meets the earlier counts of its pixel, all in one word per level; pixels without
    photons are not touched.

    Parameters
    ----------
    pixels, first
        Photons of frame i are pixels[first[i]:first[i + 1]].
    begin
        The first frame to take; the last one is given by the length of `out`.
    time
        Number of that frame in the run, a multiple of `GROUP`.
    place
        (H·W,): where each pixel is in the tiles, -1: masked.
    words
        (tiles·TILE, PACKED_LEVELS + 1): the packed counts, and the frame that was last packed.
    products, total
        As for `correlate_block`.
    out
        (groups, tiles·TILE) zeros: becomes the frames of the next level.

    Returns
    -------
    int
        How many groups were correlated. The one after them has a count that no word can hold, and
        was left alone.
    """
    seven = np.uint64(FIELD_BITS)
    field = np.uint64(FIELD_MAX)
    nine = np.uint64(HISTORY + 1)
    groups = out.shape[0]
    ordered = True
    for group in range(groups):
        low = begin + group * GROUP
        sums = out[group]
        small = True
        for frame in range(low, low + GROUP):
            last = np.uint32(0)
            for j in range(first[frame], first[frame + 1]):
                ordered &= pixels[j] >= last
                last = pixels[j]
                i = place[last]
                if i >= 0:
                    sums[i] += 1
                    small &= sums[i] <= FIELD_MAX
            if not small:
                break
        if not small:
            sums[:] = 0
            groups = group
            break
    for tile in range(total.shape[0]):
        for group in range(groups):
            sums = out[group, tile * TILE : (tile + 1) * TILE]
            for p in range(TILE):
                total[tile, p] += sums[p]
    # All frames of a stretch of pixels after each other, so that its words stay in the cache.
    frames = groups * GROUP
    cursor = first[begin : begin + frames].copy()
    stretch = _STRETCH if ordered else place.shape[0]
    for end in range(stretch, place.shape[0] + stretch, stretch):
        for frame in range(frames):
            now = np.uint64(time + frame)
            j = cursor[frame]
            while j < first[begin + frame + 1] and pixels[j] < end:
                i = place[pixels[j]]
                j += 1
                if i < 0:
                    continue
                tile, p = i // TILE, i % TILE
                before = words[i, PACKED_LEVELS]
                words[i, PACKED_LEVELS] = now
                row = 0
                for level in range(PACKED_LEVELS):
                    shift = np.uint64(level)
                    age = (now >> shift) - (before >> shift)
                    word = words[i, level]
                    # A shift by 64 bits or more is undefined.
                    word = (word << (seven * min(age, nine))) & np.uint64(_WORD)
                    lag = 1 if level == 0 else 5
                    past = word >> (seven * np.uint64(lag))
                    while past:
                        count = past & field
                        if count:
                            products[tile, row, p] += count
                        past >>= seven
                        row += 1
                        lag += 1
                    row += HISTORY + 1 - lag
                    words[i, level] = word + np.uint64(1)
            cursor[frame] = j
    return groups


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
                    word = (word << np.uint64(FIELD_BITS)) | np.uint64(ring[tile, level, t, p])
                words[i, level] = word
    return True


@compiled
def unpack(words: npt.NDArray[np.uint64], time: int, ring: npt.NDArray[Any]) -> None:
    """Unpack the last frames before frame `time`, a multiple of `GROUP`."""
    now = np.uint64(time - 1)
    field = np.uint64(FIELD_MAX)
    nine = np.uint64(HISTORY + 1)
    for tile in range(ring.shape[0]):
        for p in range(TILE):
            i = tile * TILE + p
            before = words[i, PACKED_LEVELS]
            for level in range(PACKED_LEVELS):
                shift = np.uint64(level)
                age = (now >> shift) - (before >> shift)
                word = words[i, level]
                word = (word << (np.uint64(FIELD_BITS) * min(age, nine))) & np.uint64(_WORD)
                for t in range(HISTORY):
                    ring[tile, level, HISTORY - 1 - t, p] = word & field
                    word >>= np.uint64(FIELD_BITS)


@compiled
def find_events(
    frames: npt.NDArray[np.uint16],
    quads: npt.NDArray[np.uint64],
    pixels: npt.NDArray[np.uint32],
    first: npt.NDArray[np.int64],
) -> int:
    """List the photons of frames (n, H·W), seen four pixels at a time as `quads`.

    Returns
    -------
    int
        Number of photons, or -1 if `pixels` does not hold them.
    """
    number = 0
    for frame in range(frames.shape[0]):
        first[frame] = number
        for quad in range(quads.shape[1]):
            if quads[frame, quad]:
                for pixel in range(4 * quad, 4 * quad + 4):
                    count = np.int64(frames[frame, pixel])
                    if number + count > pixels.shape[0]:
                        return -1
                    for _ in range(count):
                        pixels[number] = pixel
                        number += 1
    first[frames.shape[0]] = number
    return number


@compiled
def spread_events(
    pixels: npt.NDArray[np.uint32], first: npt.NDArray[np.int64], frames: npt.NDArray[Any]
) -> None:
    """Add photons to frames (n, H·W)."""
    for frame in range(frames.shape[0]):
        for j in range(first[frame], first[frame + 1]):
            frames[frame, pixels[j]] += 1


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
def add_up(
    products: npt.NDArray[Any],
    head: npt.NDArray[Any],
    tail: npt.NDArray[Any],
    total: npt.NDArray[np.int64],
    latest: npt.NDArray[np.int64],
    row: int,
    place: npt.NDArray[np.int64],
    cell: npt.NDArray[np.int32],
    dynamic: npt.NDArray[np.int32],
    cells: npt.NDArray[np.float64],
    ratios: npt.NDArray[np.float64],
) -> None:
    """Sum one lag over the pixels of each cell.

    Parameters
    ----------
    products, head, tail, row
        As for `correlate_block`, and which row.
    total, latest
        (tiles·TILE,): sum of all level frames, and of those at the end that have no partner yet.
    place, cell, dynamic
        Of each pixel: where in the tiles, which cell, which dynamic bin.
    cells
        (3, cells): sums of products, earlier and later counts.
    ratios
        (2, dynamic bins): sums of product/(earlier·later) and of its square.
    """
    gaps = tail.shape[1] > 0
    for j in range(place.shape[0]):
        i = place[j]
        tile, p = i // TILE, i % TILE
        product = np.float64(products[tile, row, p])
        later = np.float64(total[i]) - np.float64(head[tile, row, p])
        earlier = np.float64(total[i] - latest[i])
        if gaps:
            earlier -= np.float64(tail[tile, row, p])
        c, d = cell[j], dynamic[j]
        cells[0, c] += product
        cells[1, c] += earlier
        cells[2, c] += later
        if product > 0.0:
            ratio = product / (earlier * later)
            ratios[0, d] += ratio
            ratios[1, d] += ratio * ratio
