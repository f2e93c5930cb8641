"""Two-time correlation: how alike the speckles of any two frames are.

C(t₁, t₂) = N·Σ I₁I₂ / (ΣI₁·ΣI₂) over the N pixels of a dynamic bin. Each frame is divided by its
own mean over each static bin first, so that neither a steep I(q) nor a fluctuating beam counts.

- `TwoTime` keeps the frames and gives all pairs. Once it has as many frames as it may keep, it sums
  neighbours: the resolution halves, and the memory stays.
- `MultiTauTwoTime` keeps a few frames per level, whatever the length of the run, and gives C
  against age and lag, with the lags of `lag_grid`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs._inputs import checked_frame_time, checked_levels, checked_photons
from beamline.xpcs.adapters import host_array
from beamline.xpcs.bins import Bins
from beamline.xpcs.correlation import lag_grid

__all__ = ["MultiTauTwoTime", "MultiTauTwoTimeResult", "TwoTime", "TwoTimeResult"]

Array32 = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

#: Frames that wait to be correlated with all before them.
_BLOCK = 64
#: Successive ages of `MultiTauTwoTime` that are kept, at most.
_AGES = 1024


@dataclass(frozen=True, eq=False)
class TwoTimeResult:
    """C(t₁, t₂) of the run so far.

    Attributes
    ----------
    c2
        float32 (n_dynamic, n, n), symmetric; the diagonal holds the shot noise, too. NaN where a
        frame is missing or a bin has no light.
    times
        (n,) beginning of each frame since that of the first, s.
    stride
        Frames that are summed in each.
    """

    c2: Array32
    times: Array
    stride: int

    def g2(self) -> Array:
        """Return the mean of C along the diagonals, (n, n_dynamic); the first row is lag 0."""
        n = self.c2.shape[1]
        return np.array(
            [
                [_mean(np.diagonal(own, lag)) for own in self.c2.astype(np.float64)]
                for lag in range(n)
            ]
        )


class TwoTime:
    """Two-time correlation of a stream of frames whose number need not be known.

    Parameters
    ----------
    dynamic_roi_map, static_roi_map
        (H, W) integers: 0 is masked, labels count from 1.
    frame_time
        From one frame to the next, s.
    max_frames
        Frames that are kept at most, 2 bytes per pixel each while counts are below 65,536.
    """

    def __init__(
        self,
        dynamic_roi_map: npt.ArrayLike,
        static_roi_map: npt.ArrayLike,
        frame_time: float,
        *,
        max_frames: int = 1024,
    ) -> None:
        self.frame_time = checked_frame_time(frame_time)
        if max_frames < 2:
            raise CorrelationError(f"max_frames is {max_frames}, expected 2 or more.")
        self.bins = Bins.from_maps(dynamic_roi_map, static_roi_map)
        self._most = max_frames + max_frames % 2
        self._order = _Order(self.bins)
        self._frames: list[npt.NDArray[Any] | None] = []
        self._sums = np.zeros((self.bins.n_dynamic, 0, 0), np.float32)
        self._done = 0
        self._stride = 1
        self._part: npt.NDArray[Any] | None = None
        self._part_size = 0
        self._part_whole = True

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take the next frames, (n, H, W) or (H, W), counts."""
        for values in self._order.sorted(self.bins.check_frames(host_array(frames))):
            self._take(values)

    def add_events(self, pixels: npt.NDArray[Any], first: npt.NDArray[Any]) -> None:
        """Take the next frames as photons: flat pixel indices, and where each frame begins."""
        for frame in _dense(pixels, first, self.bins):
            for values in self._order.sorted(frame[None]):
                self._take(values)

    def skip(self, number: int) -> None:
        """Say that frames are missing here: their rows and columns are NaN."""
        for _ in range(number):
            self._take(None)

    def result(self) -> TwoTimeResult:
        """Return C of the frames so far.

        Raises
        ------
        CorrelationError
            If there are fewer than two frames.
        """
        if len(self._frames) < 2:
            raise CorrelationError(f"{len(self._frames)} frames have no pair, expected 2 or more.")
        self._advance()
        n = len(self._frames)
        return TwoTimeResult(
            c2=self._sums[:, :n, :n].copy(),
            times=host_array(np.arange(n) * (self._stride * self.frame_time)),
            stride=self._stride,
        )

    def _take(self, frame: npt.NDArray[Any] | None) -> None:
        if frame is None:
            self._part_whole = False
        elif self._part is None:
            self._part = frame
        else:
            self._part = _sum(self._part, frame)
        self._part_size += 1
        if self._part_size < self._stride:
            return
        self._frames.append(self._part if self._part_whole else None)
        self._part, self._part_size, self._part_whole = None, 0, True
        if len(self._frames) == self._most:
            pairs = zip(self._frames[::2], self._frames[1::2], strict=True)
            self._frames = [None if a is None or b is None else _sum(a, b) for a, b in pairs]
            self._stride *= 2
            self._done = 0
        elif len(self._frames) - self._done >= _BLOCK:
            self._advance()

    def _advance(self) -> None:
        """Correlate the frames that are new with all others."""
        n, done = len(self._frames), self._done
        if n == done:
            return
        if self._sums.shape[1] < n:
            size = min(self._most, max(n, 2 * self._sums.shape[1]))
            larger = np.full((self.bins.n_dynamic, size, size), np.nan, np.float32)
            old = self._sums.shape[1]
            larger[:, :old, :old] = self._sums
            self._sums = larger
        there = np.array([frame is not None for frame in self._frames])
        where = np.flatnonzero(there)
        new = int(np.count_nonzero(there[:done]))
        frames = [frame for frame in self._frames if frame is not None]
        self._sums[:, done:n, :n] = np.nan
        self._sums[:, :n, done:n] = np.nan
        if len(frames) > new:
            c2 = self._order.correlate(frames, new)
            for dynamic in range(self.bins.n_dynamic):
                self._sums[dynamic][np.ix_(where[new:], where)] = c2[dynamic]
                self._sums[dynamic][np.ix_(where, where[new:])] = c2[dynamic].T
        self._done = n


@dataclass(frozen=True, eq=False)
class MultiTauTwoTimeResult:
    """C against age and lag.

    Attributes
    ----------
    lags, delays
        (n_delay,) in frames, and in s.
    ages
        (n_age,) middle of the ages that are averaged in each row, s: (t₁ + t₂)/2.
    c2
        float64 (n_dynamic, n_age, n_delay); NaN where there is no pair.
    """

    lags: npt.NDArray[np.int64]
    delays: Array
    ages: Array
    c2: Array


class MultiTauTwoTime:
    """Two-time correlation of a long run: age by lag, in memory that does not grow with the run.

    Frames of level L are sums of 2^L frames, as for `MultiTau`; each is correlated with those 5 to
    8 (at level 0: 1 to 8) before it. Ages are averaged in at most 1,024 steps.

    Parameters
    ----------
    dynamic_roi_map, static_roi_map, frame_time, levels
        As for `MultiTau`.
    """

    def __init__(
        self,
        dynamic_roi_map: npt.ArrayLike,
        static_roi_map: npt.ArrayLike,
        frame_time: float,
        *,
        levels: int = 8,
    ) -> None:
        self.frame_time = checked_frame_time(frame_time)
        self.levels = checked_levels(levels)
        self.bins = Bins.from_maps(dynamic_roi_map, static_roi_map)
        self._order = _Order(self.bins)
        self._lags, self._level_of = lag_grid(levels)
        shape = (_AGES, self.bins.n_dynamic, len(self._lags))
        self._sums, self._pairs = np.zeros(shape), np.zeros(shape)
        self._stride, self._elapsed = 1, 0
        self._ring: list[list[npt.NDArray[Any] | None]] = [[] for _ in range(levels)]
        self._left: list[npt.NDArray[Any] | None] = [None] * levels
        self._counts = [0] * levels

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take the next frames, (n, H, W) or (H, W), counts."""
        for values in self._order.sorted(self.bins.check_frames(host_array(frames))):
            self._take(0, values)

    def add_events(self, pixels: npt.NDArray[Any], first: npt.NDArray[Any]) -> None:
        """Take the next frames as photons: flat pixel indices, and where each frame begins."""
        for frame in _dense(pixels, first, self.bins):
            for values in self._order.sorted(frame[None]):
                self._take(0, values)

    def skip(self, number: int) -> None:
        """Say that frames are missing here; pairs with them are left out."""
        for _ in range(number):
            self._take(0, None)

    def _take(self, level: int, frame: npt.NDArray[Any] | None) -> None:
        if level == 0:
            self._elapsed += 1
            while self._elapsed > _AGES * self._stride:
                for array in (self._sums, self._pairs):
                    array[: _AGES // 2] = array[0::2] + array[1::2]
                    array[_AGES // 2 :] = 0.0
                self._stride *= 2
        ring, number = self._ring[level], self._counts[level]
        rows = np.flatnonzero(self._level_of == level)
        least = int(self._lags[rows[0]]) >> level
        past = [
            (row, ring[-lag])
            for row, lag in zip(rows, range(least, 9), strict=True)
            if lag <= len(ring)
        ]
        whole = [(row, other) for row, other in past if other is not None]
        if frame is not None and whole:
            c2 = self._order.correlate([other for _, other in whole] + [frame], len(whole))
            end = (number + 1) << level
            for k, (row, _) in enumerate(whole):
                age = end - ((1 << level) + int(self._lags[row])) / 2.0
                values = c2[:, 0, k].astype(np.float64)
                good = np.isfinite(values)
                step = min(int(age) // self._stride, _AGES - 1)
                self._sums[step, good, row] += values[good]
                self._pairs[step, good, row] += 1.0
        ring.append(frame)
        del ring[:-8]
        self._counts[level] += 1
        if level + 1 < self.levels:
            if number % 2 == 0:
                self._left[level] = frame
            else:
                other = self._left[level]
                both = None if frame is None or other is None else _sum(other, frame)
                self._take(level + 1, both)

    def result(self) -> MultiTauTwoTimeResult:
        """Return C of the frames so far.

        Raises
        ------
        CorrelationError
            If there is no pair of frames yet.
        """
        if not self._pairs.any():
            raise CorrelationError(
                f"{self._elapsed} frames (missing ones included) have no pair, expected more."
            )
        used = self._pairs.any(axis=(0, 1))
        n_age = -(-self._elapsed // self._stride)
        with np.errstate(divide="ignore", invalid="ignore"):
            c2 = (self._sums / self._pairs)[:n_age][:, :, used]
        return MultiTauTwoTimeResult(
            lags=self._lags[used],
            delays=self._lags[used].astype(np.float64) * self.frame_time,
            ages=host_array((np.arange(n_age) + 0.5) * (self._stride * self.frame_time)),
            c2=np.moveaxis(c2, 1, 0),
        )


class _Order:
    """The pixels sorted by dynamic and static bin, so that each bin is a stretch of them."""

    def __init__(self, bins: Bins) -> None:
        # Numbers of 16 bits are sorted by radix.
        few = len(bins.static_dynamic) <= 0xFFFF
        order = np.argsort(bins.static.astype(np.uint16) if few else bins.static, kind="stable")
        self.pixels = bins.pixels[order].astype(np.intp)
        static = bins.static[order]
        self.n_dynamic = bins.n_dynamic
        self.starts = np.flatnonzero(np.r_[True, static[1:] != static[:-1]])
        self.sizes = np.diff(np.r_[self.starts, len(static)])
        self.dynamic = bins.static_dynamic[static[self.starts]]
        #: Where each pixel of a frame goes; masked ones go behind the others.
        self.place = np.full(bins.shape[0] * bins.shape[1], len(order), dtype=np.uint32)
        self.place[self.pixels] = np.arange(len(order), dtype=np.uint32)

    def sorted(self, frames: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Return the valid pixels of each of frames (n, H, W) in this order, uint16 or float32."""
        for begin in range(0, len(frames), _BLOCK):
            part = frames[begin : begin + _BLOCK].reshape(-1, len(self.place))
            if part.dtype in (np.uint8, np.uint16):
                from beamline.xpcs._frame_kernels import sort_pixels

                counts = np.ascontiguousarray(part, dtype=np.uint16)
                values = np.empty((len(part), len(self.pixels) + 1), np.uint16)
                sort_pixels(counts, self.place, values)
                yield from values[:, :-1]
            else:
                yield from (self._converted(frame[self.pixels]) for frame in part)

    def _converted(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
            raise CorrelationError(f"frames hold {values.dtype}, expected counts.")
        if not (np.all(np.isfinite(values)) and values.min() >= 0):
            raise CorrelationError(
                "a frame holds a negative value or none in a pixel that is not masked, expected "
                "counts: mask it."
            )
        if np.issubdtype(values.dtype, np.integer) and values.max() <= 0xFFFF:
            return values.astype(np.uint16)
        return values.astype(np.float32)

    def correlate(self, frames: list[npt.NDArray[Any]], new: int) -> Array32:
        """Return C of frames[new:] with all frames, float32 (n_dynamic, n - new, n)."""
        n = len(frames)
        products = np.zeros((self.n_dynamic, n - new, n), np.float32)
        light = np.zeros((self.n_dynamic, n), np.float64)
        pixels = np.zeros(self.n_dynamic)
        for start, size, dynamic in zip(self.starts, self.sizes, self.dynamic, strict=True):
            part = np.empty((n, size), np.float32)
            for row, frame in zip(part, frames, strict=True):
                row[:] = frame[start : start + size]
            mean = (part @ np.ones(size, np.float32)).astype(np.float64) / size
            lit = mean > 0.0
            scale = np.where(lit, 1.0 / np.where(lit, mean, 1.0), 0.0).astype(np.float32)
            product = part[new:] @ part.T
            product *= scale[new:, None]
            product *= scale
            products[dynamic] += product
            light[dynamic] += lit * size
            pixels[dynamic] += size
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.sqrt(pixels)[:, None] / light
        weight[~np.isfinite(weight)] = np.nan
        products *= weight[:, new:, None].astype(np.float32)
        products *= weight[:, None, :].astype(np.float32)
        return products


def _sum(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if one.dtype == other.dtype == np.uint16 and int(one.max()) + int(other.max()) <= 0xFFFF:
        return host_array(one + other)
    return one.astype(np.float32) + other.astype(np.float32)


def _mean(values: npt.NDArray[Any]) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) else math.nan


def _dense(pixels: npt.NDArray[Any], first: npt.NDArray[Any], bins: Bins) -> list[npt.NDArray[Any]]:
    pixels, bounds = checked_photons(pixels, first, bins.shape)
    size = bins.shape[0] * bins.shape[1]
    return [
        np.bincount(pixels[begin:end], minlength=size).reshape(bins.shape)
        for begin, end in itertools.pairwise(bounds)
    ]
