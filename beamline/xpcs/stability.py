"""Whether the intensity holds still: intensity against time, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.adapters import host_array

__all__ = ["IntensityTrace", "MeanIntensity"]

Array = npt.NDArray[np.float64]

#: Points of a trace at most; then neighbours become one.
_POINTS = 1 << 16


@dataclass(frozen=True, eq=False)
class MeanIntensity:
    """Intensity against time.

    Attributes
    ----------
    times
        (n,) middle of each point since the beginning of the first frame, s.
    intensity
        (n,) mean counts per valid pixel and frame; NaN where all frames are missing.
    stride
        Frames per point.
    """

    times: Array
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
    """Mean intensity of a stream of frames, at most 65,536 points.

    Parameters
    ----------
    frame_time
        From one frame to the next, s.
    """

    def __init__(self, frame_time: float) -> None:
        if not (math.isfinite(frame_time) and frame_time > 0.0):
            raise CorrelationError(
                f"frame_time is {frame_time} s, expected a positive time: the period from one "
                "frame to the next."
            )
        self._frame_time = frame_time
        self._sums, self._counts = np.zeros(_POINTS), np.zeros(_POINTS)
        self._stride, self._elapsed = 1, 0

    def add(self, means: Array) -> None:
        """Take the means of the next frames, (n,)."""
        for begin in range(0, len(means), _POINTS // 2):
            part = host_array(means[begin : begin + _POINTS // 2], dtype=np.float64)
            self._reach(self._elapsed + len(part))
            point = (self._elapsed + np.arange(len(part))) // self._stride
            self._sums += np.bincount(point, part, _POINTS)
            self._counts += np.bincount(point, minlength=_POINTS)
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
            intensity=intensity,
            stride=self._stride,
        )
