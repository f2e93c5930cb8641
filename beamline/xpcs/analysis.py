"""Everything that a result holds, gathered from frames as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.correlation import Correlation
from beamline.xpcs.multitau import MultiTau
from beamline.xpcs.partitions import QPartition
from beamline.xpcs.result import TwoTimePart, XPCSResult
from beamline.xpcs.saxs import Saxs
from beamline.xpcs.twotime import TwoTime

__all__ = ["XPCSAnalysis"]

Array = npt.NDArray[np.float64]

#: Consecutive parts of a run of which g2 is made from the two-time correlation.
_SEGMENTS = 5


class XPCSAnalysis:
    """Correlate frames with one partition, and average them.

    Parameters
    ----------
    partition
        Static bins within dynamic bins, and the geometry.
    frame_time
        From one frame to the next, s.
    exposure
        Of a frame, s.
    levels
        Of the multi-tau correlator.
    two_time
        Frames that the two-time correlation keeps at most; of longer runs, sums of neighbours are
        correlated. 0: there is none.

    Attributes
    ----------
    n_missing
        Frames that were missing.
    n_restarts
        How often the detector began anew: no frames before and after are correlated.

    Raises
    ------
    CorrelationError
        If the partition masks everything or the frame time is not positive.
    """

    def __init__(
        self,
        partition: QPartition,
        frame_time: float,
        exposure: float,
        *,
        levels: int = 8,
        two_time: int = 0,
    ) -> None:
        self.partition = partition
        self.frame_time, self.exposure, self.levels = frame_time, exposure, levels
        self.n_missing = 0
        self.n_restarts = 0
        self._multitau = MultiTau(
            partition.dynamic_roi_map, partition.static_roi_map, frame_time, levels=levels
        )
        self._twotime: TwoTime | None = None
        if two_time:
            self._twotime = TwoTime(
                partition.dynamic_roi_map, partition.static_roi_map, frame_time,
                max_frames=two_time,
            )  # fmt: skip
        self._saxs = Saxs(
            partition.static_roi_map, frame_time, n_static=len(partition.static.num_list)
        )

    @property
    def n_frames(self) -> int:
        """Frames that were correlated."""
        return self._multitau.n_frames

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take the next frames, (n, H, W) counts."""
        if frames.shape[1:] != self.partition.shape:
            raise CorrelationError(
                f"frames have the shape {frames.shape[1:]}, the partition {self.partition.shape}: "
                "take the partition of this detector."
            )
        if not len(frames):
            return
        self._multitau.add(frames)
        if self._twotime is not None:
            self._twotime.add(frames)
        self._saxs.add(frames)

    def add_events(
        self, pixels: npt.NDArray[np.uint32], first: npt.NDArray[np.unsignedinteger[Any]]
    ) -> None:
        """Take the next frames as photons: flat pixel indices, and where each frame begins."""
        self._multitau.add_events(pixels, first)
        if self._twotime is not None:
            self._twotime.add_events(pixels, first)
        self._saxs.add_events(pixels, first)

    def take(
        self,
        frames: npt.NDArray[Any] | None,
        pixels: npt.NDArray[np.uint32] | None,
        first: npt.NDArray[np.unsignedinteger[Any]] | None,
    ) -> None:
        """Take the next frames, dense ones or, where `frames` is None, photons."""
        if frames is not None:
            self.add(frames)
        elif pixels is not None and first is not None:
            self.add_events(pixels, first)

    def skip(self, number: int) -> None:
        """Say that `number` frames are missing here."""
        self.n_missing += number
        self._saxs.skip(number)
        self._multitau.skip(number)
        if self._twotime is not None:
            self._twotime.skip(number)

    def restart(self) -> None:
        """Say that the frames from here on have nothing to do with those before."""
        if not self.n_frames:
            return
        self.n_restarts += 1
        self._multitau.skip(1 << (self.levels + 3))
        if self._twotime is not None:
            # How much time has passed is not known: one empty row stands for it.
            self._twotime.skip(1)

    def scattering(self) -> Array:
        """Return the mean counts of the frames so far, (H, W)."""
        return self._saxs.scattering_2d

    def correlation(self) -> Correlation:
        """Return g2 of the frames so far.

        Raises
        ------
        CorrelationError
            If there are fewer than two frames.
        """
        return self._multitau.result()

    def result(
        self,
        start: Mapping[str, Any],
        stop: Mapping[str, Any] | None = None,
        *,
        correlation: Correlation | None = None,
        sources: tuple[str, ...] = (),
        settings: Mapping[str, Any] | None = None,
        fits: Mapping[str, Any] | None = None,
    ) -> XPCSResult:
        """Return everything for the result file.

        Parameters
        ----------
        start, stop
            Documents of the run; `stop` is None while it goes on.
        correlation
            g2 of the frames so far, if that is at hand.
        sources, settings, fits
            As `XPCSResult` has them.

        Raises
        ------
        CorrelationError
            If there are fewer than two frames.
        """
        found = self.correlation() if correlation is None else correlation
        saxs = self._saxs.result()
        there = np.isfinite(saxs.intensity.intensity)
        return XPCSResult(
            partition=self.partition,
            frame_time=self.frame_time,
            exposure=self.exposure,
            lags=found.lags,
            g2=found.g2,
            g2_err=found.g2_err,
            g2_err_block=found.g2_err_block,
            affected=found.affected,
            scattering_2d=saxs.scattering_2d,
            scattering_1d=saxs.scattering_1d,
            scattering_1d_segments=saxs.scattering_1d_segments,
            intensity_vs_time=saxs.intensity.intensity[there],
            frame_numbers=saxs.intensity.frame_numbers[there],
            start=start,
            stop=stop or {},
            sources=sources,
            n_frames=self.n_frames,
            n_missing=self.n_missing,
            settings={
                "levels": self.levels,
                "restarts": self.n_restarts,
                **(settings or {}),
            },
            fits=fits or {},
            twotime=self._twotime_part(),
        )

    def _twotime_part(self) -> TwoTimePart | None:
        if self._twotime is None:
            return None
        found = self._twotime.result()
        lit = [k for k, own in enumerate(found.c2) if np.isfinite(own).any()]
        length = len(found.times) // _SEGMENTS
        segments = [
            dataclasses.replace(
                found,
                c2=found.c2[lit, part : part + length, part : part + length],
                times=found.times[:length],
            ).g2()
            for part in range(0, length * _SEGMENTS, max(length, 1))
        ]
        return TwoTimePart(
            bins=tuple(k + 1 for k in lit),
            c2=tuple(found.c2[k].astype(np.float64) for k in lit),
            g2=found.g2()[:, lit],
            g2_segments=np.stack(segments, axis=1)
            if length
            else np.zeros((0, _SEGMENTS, len(lit))),
            avg_frame=found.stride,
        )
