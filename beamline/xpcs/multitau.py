"""Multi-tau correlation of frames and photon events, as they arrive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.correlation import Correlation
from beamline.xpcs.reference import ReferenceMultiTau

__all__ = ["MultiTau"]


class MultiTau:
    """Multi-tau correlation of a stream of frames whose number need not be known.

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
        if not (math.isfinite(frame_time) and frame_time > 0.0):
            raise CorrelationError(
                f"frame_time is {frame_time} s, expected a positive time: the period from one "
                "frame to the next."
            )
        if not 1 <= levels <= 24:
            raise CorrelationError(f"levels is {levels}, expected 1 to 24.")
        self._all = ReferenceMultiTau(dynamic_roi_map, static_roi_map, frame_time, levels=levels)
        self.bins = self._all.bins

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take the next frames.

        Parameters
        ----------
        frames
            (n, H, W) or (H, W): counts, any integer type, or whole numbers as floats.
        """
        self._all.add(frames)

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
        """
        ends = np.append(first[1:], len(pixels)).astype(np.int64)
        height, width = self.bins.shape
        for begin, end in zip(first.astype(np.int64), ends, strict=True):
            frame = np.bincount(pixels[begin:end].astype(np.int64), minlength=height * width)
            self._all.add(frame.reshape(height, width))

    def skip(self, number: int) -> None:
        """Say that `number` frames are missing here."""
        self._all.skip(number)

    @property
    def n_frames(self) -> int:
        """Number of frames that were added; missing ones don't count."""
        return self._all.n_frames

    def result(self) -> Correlation:
        """Return g2 with errors of the frames so far.

        Raises
        ------
        CorrelationError
            If there are fewer than two frames.
        """
        return self._all.result()
