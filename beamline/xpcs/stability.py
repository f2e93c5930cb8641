"""Whether the intensity holds still: intensity against time, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beamline.xpcs._inputs import checked_frame_time
from beamline.xpcs.adapters import host_array

__all__ = ["IntensityTrace", "MeanIntensity"]

Array = npt.NDArray[np.float64]

#: Points of a trace at most; then neighbours become one.
_POINTS = 1 << 18


@dataclass(frozen=True, eq=False)
class MeanIntensity:
    """Intensity against time.

    Attributes
    ----------
    times
        (n,) middle of each point since the beginning of the first frame, s.
    frame_numbers
        int64 (n,): the first frame of each point, missing ones count.
    intensity
        (n,) mean counts per valid pixel and frame; NaN where all frames are missing.
    stride
        Frames per point.
    """

    times: Array
    frame_numbers: npt.NDArray[np.int64]
    intensity: Array
    stride: int

    @property
    def fluctuation(self) -> float:
        """Standard deviation of the points over their mean."""
        return float(np.nanstd(self.intensity) / np.nanmean(self.intensity))

    @property
    def drift(self) -> float:
        """Change from the first to the last quarter of the points, over the mean."""
        quarter = max(1, len(self.intensity) // 4)
        change = np.nanmean(self.intensity[-quarter:]) - np.nanmean(self.intensity[:quarter])
        return float(change / np.nanmean(self.intensity))


class IntensityTrace:
    """Mean intensity of a stream of frames, at most 262,144 points.

    Parameters
    ----------
    frame_time
        From one frame to the next, s.
    """

    def __init__(self, frame_time: float) -> None:
        self._frame_time = checked_frame_time(frame_time)
        self._sums, self._counts = np.zeros(_POINTS), np.zeros(_POINTS)
        self._stride, self._elapsed = 1, 0

    def add(self, means: Array) -> None:
        """Take the means of the next frames, (n,)."""
        for begin in range(0, len(means), _POINTS // 2):
            part = host_array(means[begin : begin + _POINTS // 2], dtype=np.float64)
            self._reach(self._elapsed + len(part))
            point = (self._elapsed + np.arange(len(part))) // self._stride
            here = slice(int(point[0]), int(point[-1]) + 1)
            self._sums[here] += np.bincount(point - point[0], part)
            self._counts[here] += np.bincount(point - point[0])
            self._elapsed += len(part)

    def skip(self, number: int) -> None:
        """Say that frames are missing here."""
        self._reach(self._elapsed + number)
        self._elapsed += number

    def _reach(self, elapsed: int) -> None:
        while elapsed > _POINTS * self._stride:
            for array in (self._sums, self._counts):
                array[: _POINTS // 2] = array.reshape(-1, 2).sum(axis=1)
                array[_POINTS // 2 :] = 0.0
            self._stride *= 2

    def result(self) -> MeanIntensity:
        """Return the intensity so far."""
        n = -(-self._elapsed // self._stride)
        ends = np.minimum((np.arange(n) + 1) * self._stride, self._elapsed)
        with np.errstate(divide="ignore", invalid="ignore"):
            intensity = self._sums[:n] / self._counts[:n]
        return MeanIntensity(
            times=host_array((np.arange(n) * self._stride + ends) * (0.5 * self._frame_time)),
            frame_numbers=np.arange(n, dtype=np.int64) * self._stride,
            intensity=intensity,
            stride=self._stride,
        )
