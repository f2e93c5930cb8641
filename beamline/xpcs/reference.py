"""The multi-tau correlator by its definition, in plain NumPy, for tests and for understanding.

It keeps every frame. `beamline.xpcs.multitau.MultiTau` gives the same results from bounded memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.bins import Bins
from beamline.xpcs.correlation import (
    CellSums,
    Correlation,
    correlation_from_sums,
    grouped,
    lag_grid,
)

__all__ = ["ReferenceMultiTau"]


class ReferenceMultiTau:
    """Multi-tau correlation of frames that are all kept in memory.

    Frame k of level L is the sum of frames k·2^L … (k+1)·2^L − 1, and it exists if all of them do.
    Lag τ·2^L is made of all pairs of frames k and k + τ of level L that exist.

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
        self.bins = Bins.from_maps(dynamic_roi_map, static_roi_map)
        self.frame_time = frame_time
        self.levels = levels
        self._frames: list[npt.NDArray[Any] | None] = []

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take frames, (n, H, W) or (H, W)."""
        for frame in self.bins.check_frames(frames):
            self._frames.append(frame.ravel()[self.bins.pixels].astype(np.float64))

    def skip(self, number: int) -> None:
        """Say that frames are missing here."""
        self._frames += [None] * number

    @property
    def n_frames(self) -> int:
        """Number of frames that were added."""
        return sum(frame is not None for frame in self._frames)

    def result(self) -> Correlation:
        """Correlate all frames so far."""
        bins, total = self.bins, len(self._frames)
        if self.n_frames < 2:
            raise CorrelationError(f"{self.n_frames} frames have no pair, expected 2 or more.")
        there = np.array([frame is not None for frame in self._frames], dtype=np.bool_)
        counts = np.zeros((total, len(bins.pixels)))
        for row, frame in zip(counts, self._frames, strict=True):
            if frame is not None:
                row[:] = frame
        sums: list[tuple[npt.NDArray[np.float64], ...]] = []
        n_pairs, lost = [], []
        for lag, level in zip(*lag_grid(self.levels), strict=True):
            tau, whole = int(lag) >> int(level), total >> int(level)
            if tau >= whole:
                break
            exists = there[: whole << level].reshape(whole, -1).min(axis=1)
            frames = counts[: whole << level].reshape(whole, 1 << level, -1).sum(axis=1)
            pair = exists[:-tau] & exists[tau:]
            earlier, later = frames[:-tau][pair], frames[tau:][pair]
            sums.append(((earlier * later).sum(axis=0), earlier.sum(axis=0), later.sum(axis=0)))
            n_pairs.append(int(np.count_nonzero(pair)))
            lost.append(whole - tau - n_pairs[-1])
        products, earlier, later = (np.stack(part) for part in zip(*sums, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.nan_to_num(products / (earlier * later))
        n_cell = len(bins.cells.static)
        return correlation_from_sums(
            bins,
            CellSums(
                products=grouped(products, bins.cells.cell, n_cell),
                earlier=grouped(earlier, bins.cells.cell, n_cell),
                later=grouped(later, bins.cells.cell, n_cell),
                ratio=grouped(ratio, bins.dynamic, bins.n_dynamic),
                ratio_square=grouped(ratio**2, bins.dynamic, bins.n_dynamic),
                counts=grouped(counts.sum(axis=0, keepdims=True), bins.cells.cell, n_cell)[0],
            ),
            n_pairs=np.array(n_pairs, dtype=np.int64),
            lost_pairs=np.array(lost, dtype=np.int64),
            frame_time=self.frame_time,
            n_frames=self.n_frames,
            n_skipped=total - self.n_frames,
        )
