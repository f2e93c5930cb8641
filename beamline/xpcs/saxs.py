"""The mean scattering of a run: on the detector, per static bin, and how both change with time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs._inputs import checked_missing, checked_photons
from beamline.xpcs.adapters import host_array
from beamline.xpcs.stability import IntensityTrace, MeanIntensity

__all__ = ["Saxs", "SaxsResult"]

Array = npt.NDArray[np.float64]

#: Pixels, and 16-bit frames at most, that are summed together: 32 bits hold that.
_TILE = 2048
_TOGETHER = 4096


@dataclass(frozen=True, eq=False)
class SaxsResult:
    """Means over the frames so far.

    Attributes
    ----------
    scattering_2d
        (H, W) mean counts per frame, all pixels, masked ones included.
    scattering_1d
        (n_static,) mean counts per pixel and frame of each static bin; NaN without pixels.
    scattering_1d_segments
        (n_segments, n_static) the same for successive parts of the run.
    segment_frames
        (n_segments,) frames in each part.
    intensity
        Mean counts per valid pixel against time.
    n_frames
        Number of frames.
    """

    scattering_2d: Array
    scattering_1d: Array
    scattering_1d_segments: Array
    segment_frames: npt.NDArray[np.int64]
    intensity: MeanIntensity
    n_frames: int


class Saxs:
    """Mean scattering of a stream of frames whose number need not be known.

    Parameters
    ----------
    static_roi_map
        (H, W) integers: 0 is masked, labels count from 1.
    frame_time
        From one frame to the next, s.
    segments
        At least so many parts of the run (once it has as many frames), at most twice as many: when
        there are more, neighbours become one.
    n_static
        Number of static bins, if the last ones may have no pixels.
    """

    def __init__(
        self,
        static_roi_map: npt.ArrayLike,
        frame_time: float,
        *,
        segments: int = 10,
        n_static: int = 0,
    ) -> None:
        labels = host_array(static_roi_map)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.max() < 1:
            raise CorrelationError(
                f"static_roi_map has shape {labels.shape} and type {labels.dtype}, expected (H, W) "
                "integers with labels from 1."
            )
        if segments < 1:
            raise CorrelationError(f"segments is {segments}, expected 1 or more.")
        self.shape = (int(labels.shape[0]), int(labels.shape[1]))
        self._labels = np.maximum(labels.ravel(), 0).astype(np.int32)
        self._pixels = np.bincount(self._labels, minlength=n_static + 1)[1:].astype(np.float64)
        self._valid = np.flatnonzero(self._labels)
        self._use = (self._labels > 0).astype(np.uint16)
        #: Sums of the segments that are complete, and of the frames of the last one.
        self._total = np.zeros(labels.size)
        self._image = np.zeros(labels.size)
        self._parts: list[Array] = []
        self._sizes: list[int] = []
        self._most = 2 * segments
        self._size = 1
        self._trace = IntensityTrace(frame_time)
        self.n_frames = 0

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Take the next frames, (n, H, W) or (H, W), counts.

        Raises
        ------
        CorrelationError
            If the shape is wrong, or frames hold something else than counts.
        """
        frames = host_array(frames)
        frames = frames[None] if frames.ndim == 2 else frames
        if frames.ndim != 3 or frames.shape[1:] != self.shape:
            raise CorrelationError(
                f"frames have shape {frames.shape}, expected (n, {self.shape[0]}, {self.shape[1]})."
            )
        if not len(frames):
            return
        if not np.issubdtype(frames.dtype, np.integer):
            valid = frames.reshape(len(frames), -1)[:, self._valid]
            if not np.all(np.isfinite(valid)) or np.any(valid < 0.0):
                raise CorrelationError(
                    "frames hold a value that is no count in a pixel that is not masked: mask it."
                )
            frames = np.nan_to_num(frames, nan=0.0, posinf=0.0, neginf=0.0)
        from beamline.xpcs._saxs_kernels import sum_frames

        flat = np.ascontiguousarray(frames).reshape(len(frames), -1)
        # Two types, so that there are two compiled functions and not one for each type.
        if flat.dtype in (np.uint8, np.uint16):
            flat, use = flat.astype(np.uint16, copy=False), self._use
            scratch: npt.NDArray[Any] = np.zeros(_TILE, np.uint32)
        else:
            flat, use = flat.astype(np.float64), self._use.astype(np.float64)
            scratch = np.zeros(_TILE)
        while len(flat):
            part, flat = np.split(flat, [min(self._room(), _TOGETHER)])
            counts = np.zeros(len(part))
            sum_frames(part, use, scratch, self._image, counts)
            self._took(counts)

    def add_events(self, pixels: npt.NDArray[Any], first: npt.NDArray[Any]) -> None:
        """Take the next frames as photons: flat pixel indices, and where each frame begins."""
        from beamline.xpcs._saxs_kernels import sum_photons

        pixels, bounds = checked_photons(pixels, first, self.shape)
        pixels = np.ascontiguousarray(pixels)
        while len(bounds) > 1:
            room = self._room()
            counts = np.zeros(len(bounds[: room + 1]) - 1)
            sum_photons(pixels, bounds[: room + 1], self._use, self._image, counts)
            self._took(counts)
            bounds = bounds[room:]

    def skip(self, number: int) -> None:
        """Say that frames are missing here: the time goes on."""
        self._trace.skip(checked_missing(number))

    def _room(self) -> int:
        """Return how many frames the last segment still takes, after a new one if it is full."""
        if not self._sizes or self._sizes[-1] == self._size:
            if self._sizes:
                self._parts[-1] = self._per_bin(self._image)
                self._total += self._image
                self._image[:] = 0.0
            if len(self._sizes) == self._most:
                self._parts = [a + b for a, b in zip(*[iter(self._parts)] * 2, strict=True)]
                self._sizes = [a + b for a, b in zip(*[iter(self._sizes)] * 2, strict=True)]
                self._size *= 2
            self._parts.append(np.zeros(len(self._pixels)))
            self._sizes.append(0)
        return self._size - self._sizes[-1]

    def _per_bin(self, image: Array) -> Array:
        sums = np.bincount(self._labels, image, len(self._pixels) + 1)[1:]
        return sums.astype(np.float64, copy=False)

    def _took(self, counts: Array) -> None:
        """Note frames of the last segment with so many counts on valid pixels."""
        self._sizes[-1] += len(counts)
        self._trace.add(counts / len(self._valid))
        self.n_frames += len(counts)

    @property
    def scattering_2d(self) -> Array:
        """(H, W) mean counts of the frames so far, all pixels, masked ones included."""
        return ((self._total + self._image) / max(self.n_frames, 1)).reshape(self.shape)

    def result(self) -> SaxsResult:
        """Return the means so far.

        Raises
        ------
        CorrelationError
            If there is no frame yet.
        """
        if not self.n_frames:
            raise CorrelationError("0 frames have no mean, expected 1 or more.")
        sizes = np.array(self._sizes, dtype=np.int64)
        sums = np.stack([*self._parts[:-1], self._per_bin(self._image)])
        with np.errstate(divide="ignore", invalid="ignore"):
            return SaxsResult(
                scattering_2d=self.scattering_2d,
                scattering_1d=sums.sum(axis=0) / (self._pixels * self.n_frames),
                scattering_1d_segments=sums / (self._pixels * sizes[:, None]),
                segment_frames=sizes,
                intensity=self._trace.result(),
                n_frames=self.n_frames,
            )
