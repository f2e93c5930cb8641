"""All levels of a multi-tau correlator: level frames move up from stage to stage."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs._compiled import HISTORY, TILE
from beamline.xpcs._levels import BLOCK, Levels
from beamline.xpcs._photon_kernels import (
    FIELD_MAX,
    GROUP,
    PACKED_LEVELS,
    correlate_photons,
    pack,
    sum_photons,
    unpack,
)
from beamline.xpcs._result_kernels import SUMS, add_up

__all__ = ["GROUP", "TILE", "Pyramid"]

#: Further levels per stage, after the packed ones.
_LEVELS_PER_STAGE = 5
#: Level frames that wait for the second stage, whose sums are then touched once for all of them;
#: and for the others.
_WAITING = (32, HISTORY)
#: Frames for which photons are taken as dense frames once a pixel had too many of them.
_DENSE_FOR = 512


class _Queue:
    """Level frames that wait until there are enough of them."""

    def __init__(self, capacity: int, size: int) -> None:
        self.frames: npt.NDArray[Any] = np.empty((capacity, size), np.uint16)
        self.exist = np.zeros(capacity, dtype=np.bool_)
        self.number = 0

    def add(self, frames: npt.NDArray[Any], exist: npt.NDArray[np.bool_]) -> None:
        """Take frames, which may stand at their place already."""
        if frames.dtype != self.frames.dtype:
            self.frames = self.frames.astype(frames.dtype)
        here = slice(self.number, self.number + len(frames))
        if not np.may_share_memory(frames, self.frames):
            self.frames[here] = frames
        self.exist[here] = exist
        self.number += len(frames)


class Pyramid:
    """Level frames and sums of all levels.

    Parameters
    ----------
    starts, mask
        (tiles,) and (tiles, TILE), as for `Levels`.
    place
        (H·W,) int32: where each pixel is in the tiles, -1: masked.
    levels
        Number of levels; there are some more than those that are packed.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        mask: npt.NDArray[np.uint16],
        place: npt.NDArray[np.int32],
        levels: int,
    ) -> None:
        levels = max(levels, PACKED_LEVELS + 1)
        self._place, self._size = place, mask.size
        self._stages = [Levels(0, PACKED_LEVELS, mask, starts, has_total=False)]
        inner = np.arange(len(starts), dtype=np.int64) * TILE
        for first in range(PACKED_LEVELS, levels, _LEVELS_PER_STAGE):
            self._stages.append(
                Levels(
                    first,
                    min(_LEVELS_PER_STAGE, levels - first),
                    np.full_like(mask, 0xFFFF),
                    inner,
                    has_total=first == PACKED_LEVELS,
                )
            )
        #: What waits for each stage but the first.
        self._queues = [
            _Queue(_WAITING[min(k, 1)], mask.size) for k in range(len(self._stages) - 1)
        ]
        self._words: npt.NDArray[np.uint64] | None = None
        self._dense_until = 0
        self._gaps = False

    @property
    def nbytes(self) -> int:
        """Memory of the state, bytes."""
        words = 0 if self._words is None else self._words.nbytes
        queues = sum(queue.frames.nbytes for queue in self._queues)
        return sum(stage.nbytes for stage in self._stages) + queues + words

    @property
    def packed(self) -> bool:
        """Whether the lower levels are packed into words."""
        return self._words is not None

    @property
    def time(self) -> int:
        """Frames so far, missing ones included."""
        return int(self._stages[0].counts[0])

    @property
    def until_photons(self) -> int:
        """Frames to come before a group of photons may begin."""
        begin = max(self.time, self._dense_until)
        return begin + -begin % GROUP - self.time

    def correlate(self, frames: npt.NDArray[Any]) -> None:
        """Take dense frames, (n, pixels)."""
        self._unpack()
        for begin in range(0, len(frames), BLOCK):
            self._process(0, frames[begin : begin + BLOCK])

    def correlate_photons(
        self, pixels: npt.NDArray[np.uint32], first: npt.NDArray[np.int64]
    ) -> int:
        """Take frames of photons, groups of `GROUP` of them, as long as pixels hold few.

        Parameters
        ----------
        pixels, first
            Photons of frame i are pixels[first[i]:first[i + 1]].

        Returns
        -------
        int
            How many frames were taken; the next `GROUP`, or what there is of it, has to be taken as
            dense frames.
        """
        taken, n = 0, len(first) - 1
        while n - taken >= GROUP and (words := self._pack()) is not None:
            groups = min((n - taken) // GROUP, len(self._queues[0].frames))
            done = self._correlate_groups(words, pixels, first[taken:], groups)
            taken += GROUP * done
            if done < groups:
                self._dense_until = self.time + _DENSE_FOR
        return taken

    def _correlate_groups(
        self,
        words: npt.NDArray[np.uint64],
        pixels: npt.NDArray[np.uint32],
        first: npt.NDArray[np.int64],
        groups: int,
    ) -> int:
        lower = self._stages[0]
        lower.make_room()
        sums = self._room(1, groups)
        done, ordered = sum_photons(pixels, first, self._place, sums)
        n = GROUP * done
        correlate_photons(pixels, first, n, self.time, ordered, self._place, words, lower.products)
        new = n >> np.arange(lower.number + 1)
        lower.counts = lower.counts + new
        for k in range(lower.number):
            lower.ceiling[k] += FIELD_MAX**2 * done
        for row, (k, _) in enumerate(lower.rows):
            lower.n_pairs[row] += new[k]
        self._queues[0].add(sums[:done], np.ones(done, dtype=np.bool_))
        return done

    def _pack(self) -> npt.NDArray[np.uint64] | None:
        """Pack the last frames of the lower levels, if all exist and their counts are small."""
        lower, time = self._stages[0], self.time
        if time < self._dense_until:
            return None
        if self._words is None and time % GROUP == 0 and lower.exists.all():
            words = np.zeros((self._size, PACKED_LEVELS + 1), np.uint64)
            if pack(lower.ring, time, words):
                self._words = words
            else:
                self._dense_until = time + _DENSE_FOR
        return self._words

    def _unpack(self) -> None:
        if self._words is not None:
            lower = self._stages[0]
            unpack(self._words, self.time, lower.ring)
            lower.seen |= np.uint32(FIELD_MAX)
            self._words = None

    def flush(self) -> None:
        """Correlate all that waits."""
        self._unpack()
        for stage in range(1, len(self._stages)):
            self._feed(stage)

    def skip(self, number: int) -> None:
        """Leave out frames."""
        self.flush()
        if not self._gaps:
            self._gaps = True
            self._expect_gaps()
        self._skip(0, number)

    def sums(
        self, lags: int, cell: npt.NDArray[np.int32], cells: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sum over the pixels of each cell, after `flush`.

        Parameters
        ----------
        lags
            How many lags.
        cell, cells
            (tiles, TILE) int32: cell of each pixel, -1: masked; and how many there are.

        Returns
        -------
        ndarray
            (lags, SUMS, cells), as `add_up` has it.
        ndarray
            (lags,) pairs of frames.
        ndarray
            (tiles, TILE) sum of all frames.
        """
        lower, second = self._stages[:2]
        total = second.total.astype(np.int64)
        for k in range(lower.number):
            if lower.odd[k]:
                total += lower.ring[:, k, -1]
            if lower.lost.shape[1]:
                total += lower.lost[:, k].astype(np.int64)
        left, prefix = total.copy(), np.zeros_like(total)
        sums = np.zeros((lags, SUMS, cells))
        row = 0
        for stage in self._stages:
            add_up(
                stage.ring,
                stage.products,
                stage.early,
                stage.head,
                stage.tail,
                stage.lost,
                stage.first_lag,
                stage.odd,
                left,
                prefix,
                cell,
                sums[row:],
            )
            row += len(stage.rows)
        n_pairs = np.concatenate([stage.n_pairs for stage in self._stages])
        return sums, n_pairs[:lags], total

    def _room(self, stage: int, number: int) -> npt.NDArray[Any]:
        """Return where `number` frames for a stage are to stand."""
        if stage == len(self._stages):
            return np.empty((0, 0), np.uint16)
        queue = self._queues[stage - 1]
        if queue.number + number > len(queue.frames):
            self._feed(stage)
        return queue.frames[queue.number : queue.number + number]

    def _process(self, stage: int, frames: npt.NDArray[Any]) -> None:
        own = self._stages[stage]
        room = self._room(stage + 1, own.completes(len(frames)))
        out, exist = own.process(frames, room)
        if len(out):
            self._queues[stage].add(out, exist)

    def _feed(self, stage: int) -> None:
        queue = self._queues[stage - 1]
        n, queue.number = queue.number, 0
        edges = [0, *(np.flatnonzero(np.diff(queue.exist[:n])) + 1), n]
        for begin, end in itertools.pairwise(edges):
            if begin == end:
                continue
            if queue.exist[begin]:
                self._process(stage, queue.frames[begin:end])
            else:
                self._skip(stage, int(end - begin))

    def _skip(self, stage: int, number: int) -> None:
        """Leave out frames of a stage's first level, and what they would have become."""
        while number and stage < len(self._stages):
            if stage:
                self._feed(stage)
            number = self._stages[stage].skip(number)
            stage += 1

    def _expect_gaps(self) -> None:
        """Sum the first frames for each lag, from which frames without earlier partner follow."""
        sums = {}
        wide = any(stage.wide for stage in self._stages)
        total = np.zeros((self._size // TILE, TILE), np.uint64 if wide else np.uint32)
        for stage in self._stages:
            for row, (k, lag) in enumerate(stage.rows):
                total = total + stage.early[:, row]
                sums[lag << (stage.first + k)] = total
        for stage in self._stages:
            stage.expect_gaps(sums)
