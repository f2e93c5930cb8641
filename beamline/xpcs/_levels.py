"""A few neighbouring levels of a multi-tau correlator, with all that they remember."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationOverflowError
from beamline.xpcs._compiled import HISTORY, TILE
from beamline.xpcs._dense_kernels import correlate_block

__all__ = ["BLOCK", "Levels"]

#: Frames per block at most; sums of products of a block are made in the middle type.
BLOCK = 128
#: After so many gaps the sums of frames without partner might not fit into 32 bits.
_MANY_GAPS = 8192


class Levels:
    """Levels `first` to `first + number - 1`, fed with frames of level `first`.

    It starts with 16-bit frames and 32-bit sums, and goes over to 32 and 64 bits before counts or
    sums become too large.

    Parameters
    ----------
    first, number
        The levels.
    mask
        (tiles, TILE) uint16, 0 on pixels to leave out of the frames, else 65535.
    starts
        (tiles,) where tiles begin in a frame.
    has_total
        Whether to sum all frames.
    """

    def __init__(
        self,
        first: int,
        number: int,
        mask: npt.NDArray[np.uint16],
        starts: npt.NDArray[np.int64],
        *,
        has_total: bool,
    ) -> None:
        tiles = len(starts)
        self.first, self.number = first, number
        self.starts, self.mask = starts, mask
        self.first_lag = np.array([1 if first + k == 0 else 5 for k in range(number)], np.int64)
        rows = int((HISTORY + 1 - self.first_lag).sum())
        #: Level and lag, in frames of that level, of each row of sums.
        self.rows = [
            (k, lag) for k in range(number) for lag in range(int(self.first_lag[k]), HISTORY + 1)
        ]
        self.wide = False
        self.ring: npt.NDArray[Any] = np.zeros((tiles, number, HISTORY, TILE), np.uint16)
        self.products: npt.NDArray[Any] = np.zeros((tiles, rows, TILE), np.uint32)
        self.early: npt.NDArray[Any] = np.zeros((tiles, rows, TILE), np.uint16)
        self.head: npt.NDArray[Any] = np.zeros((tiles, 0, TILE), np.uint32)
        self.tail: npt.NDArray[Any] = np.zeros((tiles, 0, TILE), np.uint32)
        self.lost: npt.NDArray[Any] = np.zeros((tiles, 0, TILE), np.uint32)
        self.total = np.zeros((tiles if has_total else 0, TILE), np.uint64)
        self.seen = np.zeros((tiles, number), np.uint32)
        #: The largest sum of products that each level may hold.
        self.ceiling = [0] * number
        self.exists = np.zeros((number + 1, HISTORY), dtype=np.bool_)
        self.counts = np.zeros(number + 1, dtype=np.int64)
        self.n_pairs = np.zeros(rows, dtype=np.int64)
        self.gaps = 0

    @property
    def frame_type(self) -> type[np.uint16] | type[np.uint32]:
        """Type of the frames that `process` takes."""
        return np.uint32 if self.wide else np.uint16

    @property
    def nbytes(self) -> int:
        """Memory of the state, bytes."""
        arrays = (self.ring, self.products, self.early, self.total)
        return sum(array.nbytes for array in (*arrays, self.head, self.tail, self.lost))

    @property
    def odd(self) -> npt.NDArray[np.bool_]:
        """Whether the last frame of each level still lacks its neighbour."""
        return self.counts[:-1] % 2 == 1

    def _limit(self, n: int) -> int:
        """Return the largest count in `n` frames for which no frame and no sum can overflow."""
        frame_bits, sum_bits = (32, 62) if self.wide else (16, 31)
        limit = ((1 << frame_bits) - 1) >> self.number
        for k in range(self.number):
            frames = (n >> k) + 1
            limit = min(limit, math.isqrt((1 << sum_bits) // frames) >> k)
        return limit

    def widen(self) -> None:
        """Go over to 32-bit frames and 64-bit sums."""
        if self.wide:
            return
        self.wide = True
        self.ring, self.early = self.ring.astype(np.uint32), self.early.astype(np.uint32)
        self.mask = np.where(self.mask > 0, np.uint32(0xFFFFFFFF), np.uint32(0))
        for name in ("products", "head", "tail", "lost"):
            setattr(self, name, getattr(self, name).astype(np.uint64))

    def make_room(self) -> None:
        """Widen if a block of frames might let a sum overflow.

        Raises
        ------
        CorrelationOverflowError
            If 64 bits may be too few.
        """
        full = 1 << (62 if self.wide else 31)
        if max(self.ceiling) < full:
            return
        largest = self.products.max(axis=(0, 2))
        for k in range(self.number):
            self.ceiling[k] = max(
                int(largest[row]) for row, (level, _) in enumerate(self.rows) if level == k
            )
        if max(self.ceiling) >= full:
            if self.wide:
                raise CorrelationOverflowError(
                    "sums of products of counts reach 2^62, expected less: begin a new correlation."
                )
            self.widen()

    def completes(self, n: int) -> int:
        """Return how many frames of the level after the last one `n` more frames make."""
        last = self.number
        return int(((self.counts[0] + n) >> last) - self.counts[last])

    def process(
        self, frames: npt.NDArray[Any], out: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Correlate up to `BLOCK` frames (n, pixels) of `frame_type`; none of them is missing.

        Parameters
        ----------
        frames
            The frames.
        out
            (n_out, tiles·TILE) of `frame_type`, n_out as `completes` says or 0: for the frames of
            the level after the last one that are now complete.

        Returns
        -------
        ndarray
            `out`, or a wider array in its place.
        ndarray
            (n_out,): whether they exist, or lack frames that are missing.

        Raises
        ------
        CorrelationOverflowError
            If a count is too large.
        """
        if frames.dtype.itemsize > 2:
            self.widen()
        self.make_room()
        frames = frames.astype(self.frame_type, copy=False)
        out = out.astype(self.frame_type, copy=False)
        n = len(frames)
        after = (self.counts[0] + n) >> np.arange(self.number + 1)
        new = after - self.counts
        exists = np.zeros((self.number + 1, HISTORY + n), dtype=np.bool_)
        exists[:, :HISTORY] = self.exists
        exists[0, HISTORY:] = True
        for k in range(self.number):
            begin = HISTORY + 2 * self.counts[k + 1] - self.counts[k]
            pairs = exists[k, begin : begin + 2 * new[k + 1]].reshape(-1, 2)
            exists[k + 1, HISTORY : HISTORY + new[k + 1]] = pairs.all(axis=1)
        done = 0
        while True:
            limit = self._limit(BLOCK)
            done = correlate_block(
                frames,
                self.starts,
                self.mask,
                limit,
                done,
                self.counts,
                new,
                exists,
                self.first_lag,
                self.ring,
                self.seen,
                self.products,
                self.early,
                self.head,
                self.tail,
                self.lost,
                self.total,
                out,
            )
            if done == len(self.starts):
                break
            if self.wide:
                raise CorrelationOverflowError(
                    f"a pixel has more than {limit} counts in {1 << self.first} frames, expected "
                    "less: mask it."
                )
            self.widen()
            frames, out = frames.astype(np.uint32), out.astype(np.uint32)
        self._note(new, exists)
        self.counts = after
        return out, exists[-1, HISTORY : HISTORY + len(out)]

    def _note(self, new: npt.NDArray[np.int64], exists: npt.NDArray[np.bool_]) -> None:
        largest = self.seen.max(axis=0)
        for k in range(self.number):
            self.ceiling[k] += int(largest[k]) ** 2 * int(new[k])
        for row, (k, lag) in enumerate(self.rows):
            end = HISTORY + new[k]
            both = exists[k, HISTORY:end] & exists[k, HISTORY - lag : end - lag]
            self.n_pairs[row] += np.count_nonzero(both)
        for k in range(self.number + 1):
            self.exists[k] = exists[k, new[k] : new[k] + HISTORY]

    def expect_gaps(self, sums: dict[int, npt.NDArray[np.int64]]) -> None:
        """Make room for the sums of frames whose partner is missing.

        Parameters
        ----------
        sums
            Sums (tiles, TILE) of the first m frames of the run, by m, for each lag m that passed.
        """
        self.tail = np.zeros_like(self.products)
        self.lost = np.zeros((len(self.starts), self.number, TILE), self.products.dtype)
        self.head = np.zeros_like(self.products)
        for row, (k, lag) in enumerate(self.rows):
            frames = min(lag, int(self.counts[k])) << (self.first + k)
            if frames:
                self.head[:, row] = sums[frames]
        self.early = np.zeros((len(self.starts), 0, TILE), self.early.dtype)

    def skip(self, n: int) -> int:
        """Leave out `n` frames; return how many frames of the level after the last one that makes.

        Those are missing, too. `expect_gaps` comes first.
        """
        self.gaps += 1
        if self.gaps >= _MANY_GAPS:
            self.widen()
        after = (self.counts[0] + n) >> np.arange(self.number + 1)
        for k in range(self.number):
            missing = int(after[k] - self.counts[k])
            if not missing:
                continue
            ring = self.ring[:, k]
            for row, (level, lag) in enumerate(self.rows):
                if level == k:
                    # Position j holds the frame before which HISTORY - 1 - j others came last.
                    low, high = HISTORY - lag, HISTORY - max(0, lag - missing)
                    self.tail[:, row] += ring[:, low:high].sum(axis=1, dtype=self.tail.dtype)
            if self.counts[k] % 2 and after[k + 1] > self.counts[k + 1]:
                self.lost[:, k] += ring[:, -1]
            kept = max(0, HISTORY - missing)
            ring[:, :kept] = ring[:, HISTORY - kept :].copy()
            ring[:, kept:] = 0
            self.exists[k, :kept] = self.exists[k, HISTORY - kept :].copy()
            self.exists[k, kept:] = False
        out = int(after[-1] - self.counts[-1])
        kept = max(0, HISTORY - out)
        self.exists[-1, :kept] = self.exists[-1, HISTORY - kept :].copy()
        self.exists[-1, kept:] = False
        self.counts = after
        return out
