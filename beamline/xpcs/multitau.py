"""Multi-tau correlation of frames and photon events, as they arrive."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.adapters import host_array
from beamline.xpcs.bins import Bins
from beamline.xpcs.correlation import (
    CellSums,
    Correlation,
    correlation_from_sums,
    grouped,
    lag_grid,
)

__all__ = ["MultiTau"]

#: Frames that are kept until they are worth a call: dense ones, and lists of photons.
_DENSE_BLOCK = 32
_SPARSE_BLOCK = 64
#: Photons per pixel and frame below which frames are taken as photons.
_SPARSE = 0.04
#: Frames for which photons are taken as dense frames once a pixel had too many of them.
_DENSE_FOR = 512
#: Further stages of levels, after the packed ones.
_LEVELS_PER_STAGE = 5


class MultiTau:
    """Multi-tau correlation of a stream of frames whose number need not be known.

    Frame k of level L is the sum of frames k·2^L … (k+1)·2^L − 1, and it exists if all of them do.
    Lag τ·2^L is made of all pairs of frames k and k + τ of level L that exist, so that missing
    frames cost pairs and nothing else. Sums of products are exact integers.

    Memory per pixel, bytes: 16 per lag and 16 per level, and 64 for frames that wait; twice as much
    for sums beyond 32 bits, and 8 per lag more once frames are missing.

    Parameters
    ----------
    dynamic_roi_map, static_roi_map
        (H, W) integers: 0 is masked, labels count from 1.
    frame_time
        From one frame to the next, s.
    levels
        Number of levels: the longest lag is 2^(levels + 2) frames.

    Raises
    ------
    CorrelationError
        If the maps don't fit each other or mask everything, or the frame time is not positive.
    """

    def __init__(
        self,
        dynamic_roi_map: npt.ArrayLike,
        static_roi_map: npt.ArrayLike,
        frame_time: float,
        *,
        levels: int = 8,
    ) -> None:
        from beamline.xpcs import _kernels
        from beamline.xpcs._levels import Levels

        if not (math.isfinite(frame_time) and frame_time > 0.0):
            raise CorrelationError(
                f"frame_time is {frame_time} s, expected a positive time: the period from one "
                "frame to the next."
            )
        if not 1 <= levels <= 24:
            raise CorrelationError(f"levels is {levels}, expected 1 to 24.")
        self.bins = Bins.from_maps(dynamic_roi_map, static_roi_map)
        self.frame_time = frame_time
        self.levels = levels
        self._kernels = _kernels
        self._size = max(self.bins.shape[0] * self.bins.shape[1], _kernels.TILE)
        starts, mask, self._place = self._tiles()
        self._stages = [Levels(0, _kernels.PACKED_LEVELS, mask, starts, has_total=True)]
        inner = np.arange(len(starts), dtype=np.int64) * _kernels.TILE
        while (first := self._stages[-1].first + self._stages[-1].number) < max(levels, 4):
            number = min(_LEVELS_PER_STAGE, max(levels, 4) - first)
            self._stages.append(
                Levels(first, number, np.full_like(mask, 0xFFFF), inner, has_total=False)
            )
        #: Level frames that wait for each later stage, and whether each of them exists.
        self._waiting: list[list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]] = [
            [] for _ in self._stages
        ]
        self._words: npt.NDArray[np.uint64] | None = None
        self._packed = False
        self._dense_until = 0
        self._n_frames = self._n_skipped = 0
        self._frames: npt.NDArray[np.uint16] | None = None
        self._n_waiting = 0
        self._events: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]] = []

    def _tiles(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
        tile = self._kernels.TILE
        strip = self.bins.pixels // tile
        strips, of = np.unique(strip, return_inverse=True)
        # The last strip would reach beyond the frame: it begins earlier, and masks what is twice.
        starts = np.minimum(strips * tile, self._size - tile)
        place = np.full(self._size, -1, dtype=np.int32)
        place[self.bins.pixels] = of * tile + self.bins.pixels - starts[of]
        mask = np.zeros(len(strips) * tile, dtype=np.uint16)
        mask[place[self.bins.pixels]] = 0xFFFF
        return starts, mask.reshape(-1, tile), place

    @property
    def n_frames(self) -> int:
        """Number of frames that were added; missing ones don't count."""
        return self._n_frames

    @property
    def n_skipped(self) -> int:
        """Number of frames that were missing."""
        return self._n_skipped

    @property
    def nbytes(self) -> int:
        """Memory of the state, bytes."""
        waiting = [self._frames, self._words, *(part for pair in self._events for part in pair)]
        waiting += [frames for stage in self._waiting for frames, _ in stage]
        return sum(stage.nbytes for stage in self._stages) + sum(
            array.nbytes for array in waiting if array is not None
        )

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take the next frames.

        Parameters
        ----------
        frames
            (n, H, W) or (H, W): counts, any integer type, or whole numbers as floats.

        Raises
        ------
        CorrelationError
            If the shape is wrong, or a pixel that is not masked holds no count (negative, NaN, a
            fraction). None of these frames is taken then.
        """
        frames = self.bins.check_frames(host_array(frames))
        counts = self._counts(frames.reshape(len(frames), -1))
        for begin in range(0, len(counts), _SPARSE_BLOCK):
            self._add_dense_or_sparse(counts[begin : begin + _SPARSE_BLOCK])
        self._n_frames += len(counts)

    def add_events(self, pixels: npt.NDArray[Any], first: npt.NDArray[Any]) -> None:
        """Take the next frames as photon events.

        Parameters
        ----------
        pixels
            Flat pixel index of each photon, the frames back to back; a pixel with two photons
            stands there twice.
        first
            (n,) index in `pixels` of the first photon of each frame; the last frame ends with
            `pixels`.

        Raises
        ------
        CorrelationError
            If these are not increasing offsets, or a pixel is outside the frame.
        """
        pixels, bounds = host_array(pixels), np.append(first, len(pixels)).astype(np.int64)
        size = self.bins.shape[0] * self.bins.shape[1]
        if bounds[0] != 0 or np.any(np.diff(bounds) < 0):
            if len(bounds) == 1:
                raise CorrelationError(
                    f"{len(pixels)} photons come with no frames, expected the index of the first "
                    "photon of each frame."
                )
            raise CorrelationError(
                f"first begins with {bounds[0]} and has to grow from 0 to the number of photons, "
                f"{len(pixels)}: expected the index of the first photon of each frame."
            )
        if len(pixels) and not 0 <= int(pixels.min()) <= int(pixels.max()) < size:
            raise CorrelationError(
                f"photons lie in the pixels {pixels.min()} to {pixels.max()}, expected 0 to "
                f"{size - 1}: flat indices in a frame of {self.bins.shape[0]} × "
                f"{self.bins.shape[1]}."
            )
        pixels = pixels.astype(np.uint32, copy=False)
        for begin in range(0, len(bounds) - 1, _SPARSE_BLOCK):
            part = bounds[begin : begin + _SPARSE_BLOCK + 1]
            self._add_events(pixels[part[0] : part[-1]].copy(), part - part[0])
        self._n_frames += len(bounds) - 1

    def skip(self, number: int) -> None:
        """Say that `number` frames are missing here.

        Pairs of which a frame is missing are left out; `Correlation.affected` marks their lags.
        """
        if number < 0:
            raise CorrelationError(f"{number} frames are missing, expected 0 or more.")
        if number:
            self._flush(entirely=True)
            self._unpack()
            self._skip(0, number)
            self._n_skipped += number

    def result(self) -> Correlation:
        """Return g2 with errors of the frames so far.

        Raises
        ------
        CorrelationError
            If there are fewer than two frames.
        """
        if self._n_frames < 2:
            raise CorrelationError(f"{self._n_frames} frames have no pair, expected 2 or more.")
        self._flush(entirely=True)
        self._unpack()
        total = self._n_frames + self._n_skipped
        lags, level_of = lag_grid(self.levels)
        # As boost_corr has it: the grid ends before the first lag for which frames are too few.
        enough = (lags >> level_of) < (total >> level_of)
        n_delay = len(lags) if enough.all() else int(np.argmin(enough))
        cells = np.zeros((n_delay, 3, len(self.bins.cell_static)))
        ratios = np.zeros((n_delay, 2, self.bins.n_dynamic))
        n_pairs = np.zeros(n_delay, dtype=np.int64)
        place = self._place[self.bins.pixels].astype(np.int64)
        counts = self._stages[0].total.astype(np.int64).ravel()
        level_total, row = counts, 0
        for stage in self._stages:
            for k in range(stage.number):
                latest = np.zeros_like(level_total)
                for own, (level, lag) in enumerate(stage.rows):
                    if level != k or row >= n_delay:
                        continue
                    latest = stage.ring[:, k, -lag:].sum(axis=1, dtype=np.int64).ravel()
                    self._kernels.add_up(
                        stage.products,
                        stage.head,
                        stage.tail,
                        level_total,
                        latest,
                        own,
                        place,
                        self.bins.cell,
                        self.bins.dynamic,
                        cells[row],
                        ratios[row],
                    )
                    n_pairs[row] = stage.n_pairs[own]
                    row += 1
                if stage.counts[k] % 2:
                    level_total = level_total - stage.ring[:, k, -1].astype(np.int64).ravel()
                if stage.lost.shape[1]:
                    level_total = level_total - stage.lost[:, k].astype(np.int64).ravel()
        possible = (total >> level_of[:n_delay]) - (lags >> level_of)[:n_delay]
        return correlation_from_sums(
            self.bins,
            CellSums(
                products=cells[:, 0],
                earlier=cells[:, 1],
                later=cells[:, 2],
                ratio=ratios[:, 0],
                ratio_square=ratios[:, 1],
                counts=grouped(
                    counts[place].astype(np.float64)[None], self.bins.cell, cells.shape[2]
                )[0],
            ),
            n_pairs=n_pairs,
            lost_pairs=possible - n_pairs,
            frame_time=self.frame_time,
            n_frames=self._n_frames,
            n_skipped=self._n_skipped,
        )

    def _counts(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return frames (n, pixels) as uint16, or as uint32 if they need it."""
        if frames.shape[1] < self._size:
            frames = np.pad(frames, ((0, 0), (0, self._size - frames.shape[1])))
        if frames.dtype in (np.uint8, np.uint16):
            return np.ascontiguousarray(frames, dtype=np.uint16)
        if not (np.issubdtype(frames.dtype, np.number) or frames.dtype == np.bool_):
            raise CorrelationError(f"frames hold {frames.dtype}, expected counts.")
        if np.iscomplexobj(frames):
            raise CorrelationError(f"frames hold {frames.dtype}, expected counts.")
        frames = np.ascontiguousarray(frames).astype(frames.dtype.newbyteorder("="), copy=False)
        if frames.dtype in (np.bool_, np.float16):
            frames = frames.astype(np.float32)
        frame = pixel = 0
        for kind in (np.uint16, np.uint32):
            counts = np.empty(frames.shape, kind)
            frame, pixel = self._kernels.as_counts(frames, self._place >= 0, counts)
            if frame < 0:
                return counts
        ss, fs = divmod(pixel, self.bins.shape[1])
        raise CorrelationError(
            f"frame {self._n_frames + frame} has {frames[frame, pixel]} in the pixel ss {ss}, fs "
            f"{fs}, which is not masked; expected a count, 0 to 2^32 − 1: mask it."
        )

    def _add_dense_or_sparse(self, counts: npt.NDArray[Any]) -> None:
        n = len(counts)
        few = np.count_nonzero(counts[0]) <= 2.0 * _SPARSE * self._size
        if few and counts.dtype == np.uint16 and self._size % 4 == 0:
            pixels = np.empty(int(_SPARSE * n * self._size), np.uint32)
            bounds = np.empty(n + 1, np.int64)
            number = self._kernels.find_events(counts, counts.view(np.uint64), pixels, bounds)
            if number >= 0:
                self._add_events(pixels[:number].copy(), bounds)
                return
        if self._events:
            self._flush_events(entirely=True)
        if n >= _DENSE_BLOCK or counts.dtype != np.uint16:
            self._flush(entirely=True)
            self._correlate(counts)
            return
        if self._frames is None:
            self._frames = np.empty((_DENSE_BLOCK, self._size), np.uint16)
        if self._n_waiting + n > _DENSE_BLOCK:
            self._flush(entirely=False)
        self._frames[self._n_waiting : self._n_waiting + n] = counts
        self._n_waiting += n

    def _add_events(self, pixels: npt.NDArray[np.uint32], bounds: npt.NDArray[np.int64]) -> None:
        if self._n_waiting:
            self._flush(entirely=True)
        self._events.append((pixels, bounds))
        if sum(len(own) - 1 for _, own in self._events) >= _SPARSE_BLOCK:
            self._flush_events(entirely=False)

    def _flush(self, *, entirely: bool) -> None:
        """Correlate what waits; `entirely`: also what is too little to be worth it."""
        if self._n_waiting and self._frames is not None:
            waiting, self._n_waiting = self._frames[: self._n_waiting], 0
            self._correlate(waiting)
        if self._events:
            self._flush_events(entirely=entirely)
        if entirely:
            for stage in range(1, len(self._stages)):
                self._feed(stage)

    def _flush_events(self, *, entirely: bool) -> None:
        pixels = np.concatenate([own for own, _ in self._events])
        offsets = np.cumsum([0] + [len(own) for own, _ in self._events])
        bounds = np.concatenate(
            [own[:-1] + at for (_, own), at in zip(self._events, offsets, strict=False)]
            + [offsets[-1:]]
        )
        self._events = []
        begin, end = 0, len(bounds) - 1
        group, lower = self._kernels.GROUP, self._stages[0]
        while begin < end:
            time, left = int(lower.counts[0]), end - begin
            if time >= self._dense_until and time % group == 0:
                if left < group and not entirely:
                    break
                if left >= group and self._pack():
                    begin += self._correlate_events(pixels, bounds, begin, left // group)
                    continue
            n = min(left, group - time % group)
            frames = np.zeros((n, self._size), np.uint16)
            part = bounds[begin : begin + n + 1]
            if np.diff(part).max() > 0xFFFF:
                frames = frames.astype(np.uint32)
            self._kernels.spread_events(pixels, part, frames)
            self._correlate(frames)
            begin += n
        if begin < end:
            rest = bounds[begin:]
            self._events = [(pixels[rest[0] :].copy(), rest - rest[0])]

    def _correlate_events(
        self,
        pixels: npt.NDArray[np.uint32],
        bounds: npt.NDArray[np.int64],
        begin: int,
        groups: int,
    ) -> int:
        """Correlate groups of frames; return the number of frames that were."""
        lower, group = self._stages[0], self._kernels.GROUP
        assert self._words is not None  # noqa: S101
        lower.make_room()
        out = np.zeros((groups, len(lower.starts) * self._kernels.TILE), lower.frame_type)
        time = int(lower.counts[0])
        done = self._kernels.correlate_events(
            pixels, bounds, begin, time, self._place, self._words, lower.products, lower.total, out
        )
        if done < groups:
            self._dense_until = time + group * done + _DENSE_FOR
        new = (group * done) >> np.arange(lower.number + 1)
        lower.counts = lower.counts + new
        for k in range(lower.number):
            lower.ceiling[k] += self._kernels.FIELD_MAX**2 * done
        for row, (k, _) in enumerate(lower.rows):
            lower.n_pairs[row] += new[k]
        self._hand_on(1, out[:done], np.ones(done, dtype=np.bool_))
        return group * done

    def _pack(self) -> bool:
        """Pack the last frames of the lower levels, if all exist and their counts are small."""
        if self._packed:
            return True
        lower = self._stages[0]
        if not lower.exists.all():
            return False
        if self._words is None:
            size = len(lower.starts) * self._kernels.TILE
            self._words = np.zeros((size, self._kernels.PACKED_LEVELS + 1), np.uint64)
        self._frames = None
        time = int(lower.counts[0])
        self._packed = bool(self._kernels.pack(lower.ring, time, self._words))
        if not self._packed:
            self._dense_until = time + _DENSE_FOR
        return self._packed

    def _unpack(self) -> None:
        if self._packed and self._words is not None:
            lower = self._stages[0]
            self._kernels.unpack(self._words, int(lower.counts[0]), lower.ring)
            lower.seen |= np.uint32(self._kernels.FIELD_MAX)
            self._words = None
            self._packed = False

    def _correlate(self, frames: npt.NDArray[Any]) -> None:
        """Correlate dense frames, (n, pixels)."""
        from beamline.xpcs._levels import BLOCK

        self._unpack()
        for begin in range(0, len(frames), BLOCK):
            self._hand_on(1, *self._stages[0].process(frames[begin : begin + BLOCK]))

    def _hand_on(self, stage: int, frames: npt.NDArray[Any], exist: npt.NDArray[np.bool_]) -> None:
        """Give level frames to a stage, which waits until there are some more."""
        if stage == len(self._stages) or not len(frames):
            return
        self._waiting[stage].append((frames, exist))
        if sum(len(own) for own, _ in self._waiting[stage]) >= self._kernels.HISTORY:
            self._feed(stage)

    def _feed(self, stage: int) -> None:
        from beamline.xpcs._levels import BLOCK

        waiting, self._waiting[stage] = self._waiting[stage], []
        if not waiting:
            return
        widest = np.result_type(*(frames.dtype for frames, _ in waiting))
        frames = np.concatenate([frames.astype(widest, copy=False) for frames, _ in waiting])
        exist = np.concatenate([own for _, own in waiting])
        edges = [0, *(np.flatnonzero(np.diff(exist)) + 1), len(exist)]
        for begin, end in itertools.pairwise(edges):
            if not exist[begin]:
                self._skip(stage, int(end - begin))
                continue
            for low in range(begin, end, BLOCK):
                out = self._stages[stage].process(frames[low : min(low + BLOCK, end)])
                self._hand_on(stage + 1, *out)

    def _skip(self, stage: int, number: int) -> None:
        """Leave out frames of a stage's first level, and what they would have become."""
        while number and stage < len(self._stages):
            self._feed(stage)
            number = self._stages[stage].skip(number)
            stage += 1
