"""Many consecutive frames at once, dense or sparse, from a file that may still grow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from callbacks._frames import FrameNotReadyError, FrameSource, MissingFrameError

__all__ = ["BlockSource", "FrameBlock"]

_ATTRIBUTES = "/entry/instrument/NDAttributes"
#: Photons per frame, beside the events that the IOC's file writer stores.
_PHOTONS = "/entry/data/photons"
#: Pixels of a block, and frames of a block of photons, at most.
_BLOCK_BYTES = 32 << 20
_BLOCK_FRAMES = 4096


@dataclass(frozen=True)
class FrameBlock:
    """Consecutive frames.

    Attributes
    ----------
    frames
        (n, H, W) counts; None for sparse frames.
    pixels, first
        Of sparse frames: flat pixel index of each photon, and the index of each frame's first one.
    numbers
        int64 (n,): the detector's own number of each frame; None if it stores none.
    times
        float64 (n,): its time stamps, s; None if it stores none.
    """

    frames: npt.NDArray[Any] | None
    pixels: npt.NDArray[np.uint32] | None
    first: npt.NDArray[np.uint64] | None
    numbers: npt.NDArray[np.int64] | None
    times: npt.NDArray[np.float64] | None

    def __len__(self) -> int:
        if self.frames is not None:
            return len(self.frames)
        assert self.first is not None  # noqa: S101  (a block is one or the other)
        return len(self.first)

    def part(self, start: int, stop: int) -> FrameBlock:
        """Return frames `start` to `stop` of the block."""
        rows = slice(start, stop)
        numbers = None if self.numbers is None else self.numbers[rows]
        times = None if self.times is None else self.times[rows]
        if self.frames is not None:
            return FrameBlock(self.frames[rows], None, None, numbers, times)
        assert self.first is not None  # noqa: S101
        assert self.pixels is not None  # noqa: S101
        ends = np.append(self.first, len(self.pixels)).astype(np.int64)
        pixels = self.pixels[ends[start] : ends[stop]]
        first = self.first[rows] - np.uint64(ends[start])
        return FrameBlock(None, pixels, first, numbers, times)


class BlockSource(FrameSource):
    """The frames of one resource document or file, a block at a time.

    Parameters
    ----------
    path, dataset, frames_per_datum
        As for `FrameSource`; of sparse frames `dataset` is their ``event_index``.
    event_id
        Of sparse frames: where the photons are.
    frame_shape
        Of sparse frames.
    """

    def __init__(
        self,
        path: Path,
        dataset: str,
        frames_per_datum: int = 1,
        *,
        event_id: str = "",
        frame_shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(path, dataset, frames_per_datum)
        self.event_id = event_id
        self.frame_shape = frame_shape

    @classmethod
    def from_document(cls, doc: Mapping[str, Any], frames_per_datum: int = 1) -> BlockSource:
        """Make one from a `stream_resource` or classic `resource` document.

        Raises
        ------
        MissingFrameError
            If it does not refer to a local HDF5 file.
        """
        if "uri" not in doc:
            found = FrameSource.from_resource(doc)
            return cls(found.path, found.dataset, found.frames_per_datum)
        found = FrameSource.from_stream_resource(doc, frames_per_datum)
        parameters = doc["parameters"]
        return cls(
            found.path,
            found.dataset,
            frames_per_datum,
            event_id=str(parameters.get("event_id") or ""),
            frame_shape=tuple(int(n) for n in parameters.get("frame_shape") or ()),
        )

    @property
    def sparse(self) -> bool:
        """Whether frames are lists of photons."""
        return bool(self.event_id)

    def rows(self) -> int:
        """Return how many frames are in the file now.

        Raises
        ------
        FrameNotReadyError
            If the file can't be read.
        """
        with self._reading("the number of frames") as file:
            return int(file[self.dataset].shape[0])

    def read_block(self, start: int, stop: int) -> FrameBlock:
        """Read rows from `start` on: up to `stop`, or fewer so that they are no burden.

        Raises
        ------
        FrameNotReadyError
            If row `start` is not there yet.
        MissingFrameError
            If it will not come, or the file holds no frames at all.
        """
        with self._reading(f"row {start}") as file:
            index = file[self.dataset]
            complete = bool(file.attrs.get("complete", 0))
            kind = MissingFrameError if complete else FrameNotReadyError
            rank, what = (
                (1, "event index") if self.sparse else (3, "stack of frames (rows, ss, fs)")
            )
            if not isinstance(index, h5py.Dataset) or index.ndim != rank:
                raise MissingFrameError(f"{self.dataset} in {self.path} is no {what}.")
            if start >= index.shape[0]:
                raise kind(
                    f"frame {start} is missing: {self.dataset} in {self.path} has "
                    f"{index.shape[0]} rows."
                )
            stop = min(stop, index.shape[0])
            if self.sparse:
                return self._events(file, index, start, min(stop, start + _BLOCK_FRAMES), kind)
            most = max(1, _BLOCK_BYTES // max(1, math.prod(index.shape[1:]) * index.dtype.itemsize))
            return self._stack(file, index, start, min(stop, start + most), kind)

    def _stack(
        self, file: Any, frames: Any, start: int, stop: int, kind: type[BeamlineError]
    ) -> FrameBlock:
        # A row that was never written reads as zeros: no frame at all must not pass for a dark one.
        if frames.chunks is not None and not frames.is_virtual:
            for row in range(start, stop):
                chunk = (row // frames.chunks[0] * frames.chunks[0],) + (0,) * (frames.ndim - 1)
                if frames.id.get_chunk_info_by_coord(chunk).byte_offset is None:
                    stop = row
                    break
            if stop == start:
                raise kind(
                    f"frame {start} is missing: {self.dataset} in {self.path} has its row, but "
                    f"nothing in it."
                )
        found = np.asarray(frames[start:stop])
        return FrameBlock(found, None, None, *_stored(file, start, stop))

    def _events(
        self, file: Any, index: Any, start: int, stop: int, kind: type[BeamlineError]
    ) -> FrameBlock:
        ids = file[self.event_id]
        complete = bool(file.attrs.get("complete", 0))
        first = np.asarray(index[start : stop + 1]).astype(np.uint64)
        if len(first) == stop - start:
            # The last frame of all: while the file grows, photons behind it may be the next one's.
            photons = file.get(_PHOTONS)
            if isinstance(photons, h5py.Dataset) and photons.shape[0] >= stop:
                end = first[-1] + np.uint64(photons[stop - 1])
            elif complete or "complete" not in file.attrs:
                end = np.uint64(ids.shape[0])
            elif stop - start > 1:
                stop -= 1
                end, first = first[-1], first[:-1]
            else:
                raise kind(f"frame {start} of {self.path} may not be complete yet.")
            first = np.append(first, end)
        if np.any(np.diff(first.astype(np.int64)) < 0) or first[-1] > ids.shape[0]:
            raise kind(
                f"the photons of frames {start} to {stop - 1} are not all in {self.event_id} of "
                f"{self.path}."
            )
        pixels = np.asarray(ids[int(first[0]) : int(first[-1])]).astype(np.uint32, copy=False)
        return FrameBlock(None, pixels, first[:-1] - first[0], *_stored(file, start, stop))

    def _reading(self, what: str) -> _Reading:
        return _Reading(self, what)


class _Reading:
    """An open file whose errors become those of frames."""

    def __init__(self, source: BlockSource, what: str) -> None:
        self._source, self._what = source, what

    def __enter__(self) -> Any:
        try:
            self._file = self._source._open()  # noqa: SLF001  (of the same family)
        except (OSError, RuntimeError) as error:
            raise self._translated(error) from None
        return self._file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._file.close()
        # A file that is being written may be caught between two flushes.
        if isinstance(error, OSError | RuntimeError | KeyError) and not isinstance(
            error, BeamlineError
        ):
            raise self._translated(error) from None

    def _translated(self, error: BaseException) -> FrameNotReadyError:
        reason = " ".join(str(error).split())
        source = self._source
        return FrameNotReadyError(
            f"{self._what} of {source.dataset} in {source.path} can't be read: {reason}"
        )


def _stored(
    file: Any, start: int, stop: int
) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.float64] | None]:
    """Return what the detector stored with frames: their numbers and time stamps."""
    found = []
    for name in ("NDArrayUniqueId", "NDArrayTimeStamp"):
        values = file.get(f"{_ATTRIBUTES}/{name}")
        whole = isinstance(values, h5py.Dataset) and values.shape[0] >= stop
        found.append(np.asarray(values[start:stop]) if whole else None)
    numbers, times = found
    return (
        None if numbers is None else numbers.astype(np.int64),
        None if times is None else times.astype(np.float64),
    )
