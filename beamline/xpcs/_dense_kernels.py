"""Compiled loops that correlate blocks of dense frames at several levels.

Sums of products of small counts are made in the narrowest integers that hold them for sure, because
a vector of those has most elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import HISTORY, TILE, compiled

__all__ = ["correlate_block"]


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
def _gather(
    frames: npt.NDArray[Any],
    start: int,
    mask: npt.NDArray[Any],
    own: npt.NDArray[Any],
    bits: npt.NDArray[Any],
) -> None:
    """Take a tile of the frames, 0 where masked; `bits`: all that any count of a pixel has set."""
    bits[:] = 0
    for t in range(frames.shape[0]):
        given, row = frames[t, start : start + TILE], own[HISTORY + t]
        for p in range(TILE):
            value = given[p] & mask[p]
            row[p] = value
            bits[p] |= value


@compiled
def _add_pair(own: npt.NDArray[Any], t: int, row: npt.NDArray[Any], bits: npt.NDArray[Any]) -> None:
    """Make a frame of the next level of frames t and t + 1."""
    one, other = own[t], own[t + 1]
    for p in range(TILE):
        value = one[p] + other[p]
        row[p] = value
        bits[p] |= value


@compiled
def _add(total: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    for p in range(TILE):
        total[p] += values[p]


@compiled
def _copy(rows: npt.NDArray[Any], into: npt.NDArray[Any]) -> None:
    for t in range(rows.shape[0]):
        row, own = rows[t], into[t]
        for p in range(TILE):
            own[p] = row[p]


@compiled
def _any_bits(bits: npt.NDArray[Any]) -> np.uint64:
    every = np.uint64(0)
    for p in range(TILE):
        every |= np.uint64(bits[p])
    return every


@compiled
def _add_unpaired(
    own: npt.NDArray[Any],
    exists: npt.NDArray[np.bool_],
    end: int,
    lag: int,
    head: npt.NDArray[Any],
    tail: npt.NDArray[Any],
) -> None:
    """Add frames whose partner at a lag does not exist: `head` the earlier, `tail` the later."""
    for t in range(HISTORY, end):
        if exists[t] and not exists[t - lag]:
            _add(head, own[t])
        elif exists[t - lag] and not exists[t]:
            _add(tail, own[t - lag])


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
    early: npt.NDArray[Any],
    head: npt.NDArray[Any],
    tail: npt.NDArray[Any],
    lost: npt.NDArray[Any],
    total: npt.NDArray[np.uint64],
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
    early
        (tiles, rows, TILE): of each lag τ, the level frame τ − 1; no rows once a frame is missing.
    head, tail
        Shaped like `products`, no rows unless a frame is missing: sums of frames without an earlier
        and without a later partner.
    lost
        (tiles, levels, TILE): sums of frames left over because their neighbour, with which they
        would make a frame of the next level, is missing; no levels unless a frame is missing.
    total
        (tiles, TILE): sum of all frames, or no tiles.
    out
        (n_out, tiles·TILE): becomes the frames of the level after the last one; or no frames.

    Returns
    -------
    int
        The tile that holds a count beyond the limit and was left alone, as all after it; the number
        of tiles if there is none.
    """
    levels = ring.shape[1]
    n = frames.shape[0]
    most = np.uint64(np.iinfo(ring.dtype).max)
    kept = np.empty((levels, HISTORY + n, TILE), dtype=ring.dtype)
    narrow = np.empty((4, TILE), dtype=ring.dtype)
    bits = np.empty(TILE, dtype=ring.dtype)
    for tile in range(first_tile, starts.shape[0]):
        _gather(frames, starts[tile], mask[tile], kept[0], bits)
        every = _any_bits(bits)
        if every > np.uint64(limit):
            return tile
        if total.shape[0] and every * np.uint64(n) <= most:
            narrow[0] = 0
            for t in range(HISTORY, HISTORY + n):
                _add(narrow[0], kept[0, t])
            _add(total[tile], narrow[0])
        elif total.shape[0]:
            for t in range(HISTORY, HISTORY + n):
                _add(total[tile], kept[0, t])
        row = 0
        for level in range(levels):
            own = kept[level]
            number = new[level]
            if number == 0:
                break
            _copy(ring[tile, level], own)
            seen[tile, level] |= np.uint32(every)
            largest = np.uint64(seen[tile, level])
            chunk = number
            if largest:
                chunk = min(number, np.int64(most // (largest * largest)))
            end = HISTORY + number
            if early.shape[1]:
                for k in range(max(counts[level], first_lag[level] - 1), HISTORY):
                    if k < counts[level] + number:
                        t = HISTORY + k - counts[level]
                        early[tile, row + k + 1 - first_lag[level]] = own[t]
            for lag in range(first_lag[level], HISTORY, 4):
                sums = products[tile, row : row + 4]
                if chunk >= 4 or chunk == number:
                    begin = HISTORY
                    while begin < end:
                        stop = min(begin + chunk, end)
                        narrow[:] = 0
                        _add_products(own, begin, stop, lag, narrow)
                        for i in range(sums.shape[0]):
                            _add(sums[i], narrow[i])
                        begin = stop
                else:
                    _add_large_products(own, HISTORY, end, lag, sums)
                if head.shape[1]:
                    for i in range(sums.shape[0]):
                        _add_unpaired(
                            own,
                            exists[level],
                            end,
                            lag + i,
                            head[tile, row + i],
                            tail[tile, row + i],
                        )
                row += 4
            # Frames of the next level begin at even indices of this one.
            t = HISTORY + 2 * counts[level + 1] - counts[level]
            bits[:] = 0
            wanted = new[level + 1] if level + 1 < levels else out.shape[0]
            for k in range(wanted):
                if level + 1 < levels:
                    larger = kept[level + 1, HISTORY + k]
                else:
                    larger = out[k, tile * TILE : (tile + 1) * TILE]
                if exists[level + 1, HISTORY + k]:
                    _add_pair(own, t, larger, bits)
                else:
                    larger[:] = 0
                    _add(lost[tile, level], own[t])
                    _add(lost[tile, level], own[t + 1])
                t += 2
            every = _any_bits(bits)
            _copy(own[number : HISTORY + number], ring[tile, level])
    return starts.shape[0]
