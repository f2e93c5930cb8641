"""Averages over a run of unknown length, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["IntensityTrace", "ScatteringSegments"]

Array = npt.NDArray[np.float64]


class IntensityTrace:
    """Intensity over frame number; of a long run, means over more and more frames.

    Parameters
    ----------
    capacity
        Most points that are kept, an even number; beyond it, neighbours are merged.
    """

    def __init__(self, capacity: int = 1 << 18) -> None:
        self._numbers = np.empty(capacity, np.int64)
        self._values = np.empty(capacity)
        self._points = 0
        #: Frames per point.
        self.stride = 1
        self._waiting: list[tuple[int, float]] = []

    def add(self, first: int, values: Array) -> None:
        """Take the intensities of frames `first`, `first` + 1, …."""
        if self.stride == 1 and self._points + len(values) <= len(self._values):
            here = slice(self._points, self._points + len(values))
            self._numbers[here] = np.arange(first, first + len(values))
            self._values[here] = values
            self._points += len(values)
            return
        for number, value in enumerate(values.tolist(), start=first):
            self._add_one(number, value)

    def _add_one(self, number: int, value: float) -> None:
        if self._points == len(self._values):
            half = self._points // 2
            self._numbers[:half] = self._numbers[::2]
            self._values[:half] = 0.5 * (self._values[::2] + self._values[1::2])
            self._points = half
            self.stride *= 2
        self._waiting.append((number, value))
        if len(self._waiting) == self.stride:
            self._numbers[self._points] = self._waiting[0][0]
            self._values[self._points] = sum(v for _, v in self._waiting) / self.stride
            self._points += 1
            self._waiting.clear()

    def values(self) -> tuple[npt.NDArray[np.int64], Array]:
        """Return the number of the (first) frame of each point, and the mean intensities."""
        return self._numbers[: self._points].copy(), self._values[: self._points].copy()


class ScatteringSegments:
    """Mean counts in each bin, of consecutive parts of equal length.

    Parameters
    ----------
    bins
        How many bins there are.
    most
        Most parts, an even number; beyond it, neighbours are merged.
    """

    def __init__(self, bins: int, most: int = 20) -> None:
        self._most = most
        self._length = 1
        self._sums: list[Array] = []
        self._frames: list[int] = []
        self._bins = bins

    def add(self, counts: Array) -> None:
        """Take the counts of frames, (n, bins)."""
        while len(counts):
            if not self._frames or self._frames[-1] == self._length:
                if len(self._frames) == self._most:
                    self._merge()
                    continue
                self._sums.append(np.zeros(self._bins))
                self._frames.append(0)
            taken = min(len(counts), self._length - self._frames[-1])
            self._sums[-1] += counts[:taken].sum(axis=0)
            self._frames[-1] += taken
            counts = counts[taken:]

    def _merge(self) -> None:
        self._sums = [a + b for a, b in zip(self._sums[::2], self._sums[1::2], strict=True)]
        self._frames = [a + b for a, b in zip(self._frames[::2], self._frames[1::2], strict=True)]
        self._length *= 2

    def values(self) -> Array:
        """Return the means of the parts, (parts, bins); the last may be of fewer frames."""
        if not self._frames:
            return np.zeros((0, self._bins))
        return np.stack(self._sums) / np.array(self._frames)[:, None]

    def mean(self) -> Array:
        """Return the mean of all frames, (bins,)."""
        return np.sum(self._sums, axis=0) / max(sum(self._frames), 1)
