"""Compiled sums over the pixels of each cell, when a result is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import HISTORY, TILE, compiled

__all__ = ["SUMS", "add_up"]

#: Sums per lag and cell: products, earlier and later counts, product/(earlier·later), its square.
SUMS = 5


@compiled
def add_up(
    ring: npt.NDArray[Any],
    products: npt.NDArray[Any],
    early: npt.NDArray[Any],
    head: npt.NDArray[Any],
    tail: npt.NDArray[Any],
    lost: npt.NDArray[Any],
    first_lag: npt.NDArray[np.int64],
    odd: npt.NDArray[np.bool_],
    total: npt.NDArray[np.int64],
    prefix: npt.NDArray[np.int64],
    cell: npt.NDArray[np.int32],
    sums: npt.NDArray[np.float64],
) -> None:
    """Sum the lags of a few levels.

    Parameters
    ----------
    ring, products, early, head, tail, lost, first_lag
        As for `correlate_block`.
    odd
        (levels,): whether the last frame of a level has no neighbour yet.
    total, prefix
        (tiles, TILE): sums of all frames of the first level, and of those before the ones in
        `early`; become those of the level after the last one.
    cell
        (tiles, TILE): cell of each pixel, -1: masked.
    sums
        (lags, SUMS, cells) zeros, as many lags as are wanted: become the sums.
    """
    latest = np.empty(TILE, np.int64)
    values = np.empty((SUMS, TILE))
    for tile in range(ring.shape[0]):
        all_counts, before = total[tile], prefix[tile]
        row = 0
        for level in range(ring.shape[1]):
            latest[:] = 0
            for lag in range(1, HISTORY + 1):
                newest = ring[tile, level, HISTORY - lag]
                for p in range(TILE):
                    latest[p] += np.int64(newest[p])
                if lag < first_lag[level] or row >= sums.shape[0]:
                    continue
                for p in range(TILE):
                    values[1, p] = all_counts[p] - latest[p]
                if head.shape[1]:
                    for p in range(TILE):
                        values[1, p] -= np.float64(tail[tile, row, p])
                        values[2, p] = all_counts[p] - np.int64(head[tile, row, p])
                else:
                    for p in range(TILE):
                        before[p] += np.int64(early[tile, row, p])
                        values[2, p] = all_counts[p] - before[p]
                for p in range(TILE):
                    product = np.float64(products[tile, row, p])
                    pairs = values[1, p] * values[2, p]
                    ratio = product / pairs if product > 0.0 else 0.0
                    values[0, p] = product
                    values[3, p] = ratio
                    values[4, p] = ratio * ratio
                for p in range(TILE):
                    c = cell[tile, p]
                    if c >= 0:
                        for i in range(SUMS):
                            sums[row, i, c] += values[i, p]
                row += 1
            if odd[level]:
                for p in range(TILE):
                    all_counts[p] -= np.int64(ring[tile, level, HISTORY - 1, p])
            if lost.shape[1]:
                for p in range(TILE):
                    all_counts[p] -= np.int64(lost[tile, level, p])
