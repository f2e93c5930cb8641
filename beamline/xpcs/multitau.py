"""Multi-tau correlation of frames and photon events, as they arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs._inputs import (
    checked_frame_time,
    checked_levels,
    checked_missing,
    checked_photons,
)
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
_DENSE_BLOCK = 40
_SPARSE_BLOCK = 256
#: Frames that are looked through for photons together.
_SEARCHED = 64
#: Photons per pixel and frame up to which frames are taken as photons.
_SPARSE = 0.04


class MultiTau:
    """Multi-tau correlation of a stream of frames whose number need not be known.

    Frame k of level L is the sum of frames k·2^L … (k+1)·2^L − 1, and it exists if all of them do.
    Lag τ·2^L is made of all pairs of frames k and k + τ of level L that exist, so that missing
    frames cost pairs and nothing else. Sums of products are exact integers.

    Memory per pixel, bytes: 6 per lag, 16 per level, and 152 for frames that wait and sums of all
    frames; twice as much for sums beyond 32 bits, and 6 per lag more once frames are missing.

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
        from beamline.xpcs import _frame_kernels
        from beamline.xpcs._pyramid import GROUP, TILE, Pyramid

        self.frame_time = checked_frame_time(frame_time)
        self.levels = checked_levels(levels)
        self.bins = Bins.from_maps(dynamic_roi_map, static_roi_map)
        self._kernels = _frame_kernels
        self._size = max(self.bins.shape[0] * self.bins.shape[1], TILE)
        starts, mask, self._place = self._tiles(TILE)
        self._tiled = mask.shape
        self._group = GROUP
        self._pyramid = Pyramid(starts, mask, self._place, levels)
        self._n_frames = self._n_skipped = 0
        self._frames: npt.NDArray[np.uint16] | None = None
        self._n_waiting = 0
        self._events: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]] = []
        #: Frames to take as dense ones before photons are looked for again.
        self._n_dense = 0

    def _tiles(
        self, tile: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
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
        events = sum(part.nbytes for pair in self._events for part in pair)
        frames = 0 if self._frames is None else self._frames.nbytes
        return self._pyramid.nbytes + events + frames

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
        if not len(frames):
            return
        counts = self._counts(frames.reshape(len(frames), -1))
        begin = 0
        while begin < len(counts):
            begin += self._add_dense_or_sparse(counts[begin:])
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
        pixels, bounds = checked_photons(pixels, first, self.bins.shape)
        for begin in range(0, len(bounds) - 1, _SPARSE_BLOCK):
            part = bounds[begin : begin + _SPARSE_BLOCK + 1]
            self._add_events(pixels[part[0] : part[-1]].copy(), part - part[0])
        self._n_frames += len(bounds) - 1

    def skip(self, number: int) -> None:
        """Say that `number` frames are missing here.

        Pairs of which a frame is missing are left out; `Correlation.affected` marks their lags.
        """
        if checked_missing(number):
            self._flush()
            self._pyramid.skip(number)
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
        self._flush()
        self._pyramid.flush()
        total = self._n_frames + self._n_skipped
        lags, level_of = lag_grid(self.levels)
        # As boost_corr has it: the grid ends before the first lag for which frames are too few.
        enough = (lags >> level_of) < (total >> level_of)
        n_delay = len(lags) if enough.all() else int(np.argmin(enough))
        cell = np.full(self._tiled, -1, dtype=np.int32)
        cell.ravel()[self._place[self.bins.pixels]] = self.bins.cells.cell
        n_cell = len(self.bins.cells.static)
        sums, n_pairs, counts = self._pyramid.sums(n_delay, cell, n_cell)
        dynamic = self.bins.static_dynamic[self.bins.cells.static]
        possible = (total >> level_of[:n_delay]) - (lags >> level_of)[:n_delay]
        valid = cell >= 0
        return correlation_from_sums(
            self.bins,
            CellSums(
                products=sums[:, 0],
                earlier=sums[:, 1],
                later=sums[:, 2],
                ratio=grouped(sums[:, 3], dynamic, self.bins.n_dynamic),
                ratio_square=grouped(sums[:, 4], dynamic, self.bins.n_dynamic),
                counts=np.bincount(cell[valid], counts[valid], n_cell).astype(np.float64),
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

    def _add_dense_or_sparse(self, counts: npt.NDArray[Any]) -> int:
        """Take the first ones of some frames; return how many."""
        if self._n_dense <= 0 and counts.dtype == np.uint16 and self._size % 4 == 0:
            searched = counts[:_SEARCHED]
            most = int(_SPARSE * self._size)
            pixels = np.empty((len(searched) + 1) * most, np.uint32)
            bounds = np.empty(len(searched) + 1, np.int64)
            number = self._kernels.find_photons(searched.view(np.uint64), most, pixels, bounds)
            if number >= 0:
                self._add_events(pixels[:number].copy(), bounds)
                return len(searched)
            self._n_dense = _SEARCHED
        self._flush_events(entirely=True)
        counts = counts[: self._n_dense] if self._n_dense > 0 else counts
        n = len(counts)
        self._n_dense -= n
        if n >= _DENSE_BLOCK or counts.dtype != np.uint16:
            self._flush_frames()
            self._pyramid.correlate(counts)
            return n
        if self._frames is None:
            self._frames = np.empty((_DENSE_BLOCK, self._size), np.uint16)
        n = min(n, _DENSE_BLOCK - self._n_waiting)
        self._frames[self._n_waiting : self._n_waiting + n] = counts[:n]
        self._n_waiting += n
        if self._n_waiting == _DENSE_BLOCK:
            self._flush_frames()
        return n

    def _add_events(self, pixels: npt.NDArray[np.uint32], bounds: npt.NDArray[np.int64]) -> None:
        self._flush_frames()
        self._events.append((pixels, bounds))
        waiting = sum(len(own) for own, _ in self._events)
        frames = sum(len(own) - 1 for _, own in self._events)
        if frames >= _SPARSE_BLOCK or waiting >= _SPARSE_BLOCK * _SPARSE * self._size:
            self._flush_events(entirely=False)

    def _flush(self) -> None:
        """Correlate what waits, however little it is."""
        self._flush_frames()
        self._flush_events(entirely=True)

    def _flush_frames(self) -> None:
        if self._n_waiting and self._frames is not None:
            waiting, self._n_waiting = self._frames[: self._n_waiting], 0
            self._pyramid.correlate(waiting)

    def _flush_events(self, *, entirely: bool) -> None:
        """Correlate the photons that wait; `entirely`: those of the last few frames, too."""
        if not self._events:
            return
        pixels = np.concatenate([own for own, _ in self._events])
        offsets = np.cumsum([0] + [len(own) for own, _ in self._events])
        bounds = np.concatenate(
            [own[:-1] + at for (_, own), at in zip(self._events, offsets, strict=False)]
            + [offsets[-1:]]
        )
        self._events = []
        begin, end = 0, len(bounds) - 1
        while begin < end:
            begin += self._pyramid.correlate_photons(pixels, bounds[begin:])
            left, wait = end - begin, self._pyramid.until_photons
            if left == 0 or (left < self._group and wait == 0 and not entirely):
                break
            n = min(left, wait or self._group, _SEARCHED)
            frames = np.zeros((n, self._size), np.uint16)
            part = bounds[begin : begin + n + 1]
            if np.diff(part).max() > 0xFFFF:
                frames = frames.astype(np.uint32)
            self._kernels.spread_photons(pixels, part, frames)
            self._pyramid.correlate(frames)
            begin += n
        if self._pyramid.packed:
            self._frames = None
        if begin < end:
            rest = bounds[begin:]
            self._events = [(pixels[rest[0] :].copy(), rest - rest[0])]
