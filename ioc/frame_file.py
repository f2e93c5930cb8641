"""HDF5 files of frames: pixels as a stack, or photons as NeXus events."""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from beamline.core.disk import sync
from ioc.frames import DENSE, EVENTS, FrameHeader

__all__ = [
    "FRAMES",
    "EventFile",
    "FrameFile",
    "Layout",
    "StackFile",
    "create_frame_file",
    "end_process",
]

#: Dataset of dense frames, and group of sparse ones.
FRAMES = "/entry/data/data"
_EVENT_GROUP = "entry/events"
#: Rows per chunk of a column, and events per chunk (512 KiB).
_ROWS, _EVENTS_PER_CHUNK = 1024, 1 << 17

#: Files that HDF5 must not close; see `FrameFile.close`.
_abandoned: list[FrameFile] = []


@dataclass(frozen=True)
class Layout:
    """How frames lie in a file.

    Attributes
    ----------
    dtype
        `DENSE` or `EVENTS`.
    shape
        Sizes of every frame, slowest first.
    level
        zlib level, after the shuffle filter; 0: no compression.
    chunk
        Frames per chunk of a stack.
    swmr
        Whether readers may follow the file in HDF5's single-writer-multiple-reader mode.
    """

    dtype: str
    shape: tuple[int, ...]
    level: int = 0
    chunk: int = 1
    swmr: bool = False

    def __str__(self) -> str:
        """Say what the frames are, for messages."""
        kind = "pixels" if self.dtype == DENSE else "events"
        return f"{'x'.join(map(str, self.shape))} {kind}"


class FrameFile:
    """An HDF5 file that takes one frame after the other.

    It has its final name from the start and is created exclusively: no file is ever overwritten.
    The attribute ``complete`` of the root is 0 until the file has been closed with all that was
    meant to be in it. Reading while it grows: open it read-only (no lock is held) after an
    acquisition has been reported as finished; every frame reported by then is in it.

    Parameters
    ----------
    path
        The file.
    layout
        What its frames are like.

    Raises
    ------
    OSError
        If it exists or can't be created.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        import h5py

        self.path = path
        self.layout = layout
        self.frames = 0
        self.nbytes = 0
        self._columns: list[tuple[Any, Callable[[FrameHeader], float]]] = []
        self._pending: list[FrameHeader] = []
        # Without a lock, readers may open the file while it grows; exclusive creation is what
        # keeps a second writer away.
        self._file = h5py.File(path, "x", locking=False, libver="latest" if layout.swmr else None)
        self._file.attrs["complete"] = np.int64(0)
        self._file.attrs["default"] = "entry"
        self._group("entry", "NXentry", default="data")
        self._group("entry/instrument", "NXinstrument")
        self._group("entry/instrument/detector", "NXdetector")
        attributes = "entry/instrument/NDAttributes"
        self._group(attributes, "NXcollection")
        self._column(f"{attributes}/NDArrayTimeStamp", "<f8", "s", lambda header: header.time)
        self._column(f"{attributes}/NDArrayUniqueId", "<i8", "", lambda header: header.number)
        self._column(f"{attributes}/PhotonEnergy", "<f8", "eV", lambda header: header.energy)
        self._column(f"{attributes}/ExposureTime", "<f8", "s", lambda header: header.exposure)
        self._file[f"{attributes}/NDArrayTimeStamp"].attrs["start"] = "1970-01-01T00:00:00Z"
        self._lay_out()
        if layout.swmr:
            self._file.swmr_mode = True
        self._file.flush()

    def append(self, header: FrameHeader, payload: bytes | bytearray) -> None:
        """Add a frame.

        Parameters
        ----------
        header
            Its description; type and shape must be the file's.
        payload
            Its bytes.

        Raises
        ------
        OSError, RuntimeError
            If the file can't be written.
        ValueError
            If the frame is of another kind.
        """
        if (header.dtype, header.shape) != (self.layout.dtype, self.layout.shape):
            found = Layout(header.dtype, header.shape)
            raise ValueError(f"frame {header.number} has {found}, the file {self.layout}")
        self._add(header, payload)
        self._pending.append(header)
        self.frames += 1
        self.nbytes += header.nbytes

    def flush(self) -> None:
        """Bring everything that was appended into the file."""
        if not self._pending:
            return
        self._flush_frames()
        first = self.frames - len(self._pending)
        for column, value in self._columns:
            column.resize(self.frames, axis=0)
            column[first:] = [value(header) for header in self._pending]
        self._pending.clear()
        self._file.flush()

    def close(self, *, complete: bool) -> None:
        """Close the file; `complete` says whether it holds all that it was meant to.

        A file that can't be written is abandoned: HDF5 fails to close it, gives its memory back
        all the same, and the process has crashed of that. What was flushed before is in the file.

        Raises
        ------
        OSError, RuntimeError
            If the file can't be written.
        """
        try:
            self.flush()
            # In place: a new attribute is not allowed while readers follow.
            self._file.attrs.modify("complete", np.int64(complete))
            self._file.flush()
        except Exception:
            self._abandon()
            raise
        self._file.close()
        with contextlib.suppress(OSError):
            sync(self.path)

    def _abandon(self) -> None:
        """Let go of the file on the disk, and keep what HDF5 has of it in memory for ever."""
        _abandoned.append(self)
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), self._file.id.get_vfd_handle(), inheritable=False)

    # ---- what kinds of frames do in their ways

    def _lay_out(self) -> None:
        """Create groups and datasets."""
        raise NotImplementedError

    def _add(self, header: FrameHeader, payload: bytes | bytearray) -> None:
        """Take one frame, as row `frames`."""
        raise NotImplementedError

    def _flush_frames(self) -> None:
        """Write what `_add` has kept back."""

    # ---- helpers

    def _group(self, name: str, nx_class: str, **attributes: str) -> Any:
        group = self._file.create_group(name)
        group.attrs["NX_class"] = nx_class
        for key, value in attributes.items():
            group.attrs[key] = value
        return group

    def _column(
        self, name: str, dtype: str, units: str, value: Callable[[FrameHeader], float]
    ) -> Any:
        """Create a dataset with one number per frame."""
        column = self._file.create_dataset(
            name, shape=(0,), maxshape=(None,), chunks=(_ROWS,), dtype=dtype
        )
        if units:
            column.attrs["units"] = units
        self._columns.append((column, value))
        return column


class StackFile(FrameFile):
    """Dense frames as one stack: `FRAMES`, the frame's number first."""

    def _lay_out(self) -> None:
        shape, level = self.layout.shape, self.layout.level
        data = self._group("entry/data", "NXdata", signal="data")
        filters = {"compression": "gzip", "compression_opts": level} if level else {}
        self._images = data.create_dataset(
            "data",
            shape=(0, *shape),
            maxshape=(None, *shape),
            chunks=(self.layout.chunk, *shape),
            dtype="<u2",
            shuffle=bool(level),
            **filters,
        )
        self._images.attrs["units"] = "counts"
        self._file["entry/instrument/detector/data"] = self._images
        self._chunk = bytearray()

    def _add(self, header: FrameHeader, payload: bytes | bytearray) -> None:
        self._images.resize(self.frames + 1, axis=0)
        if self.layout.chunk == 1:
            self._write_chunk(self.frames, payload)
            return
        self._chunk += payload
        if len(self._chunk) == self.layout.chunk * header.nbytes:
            self._flush_chunk(self.frames + 1)
            self._chunk.clear()

    def _flush_frames(self) -> None:
        if self._chunk:
            self._flush_chunk(self.frames)

    def _flush_chunk(self, frames: int) -> None:
        nbytes = 2 * int(np.prod(self.layout.shape))
        whole = self._chunk.ljust(self.layout.chunk * nbytes, b"\0")
        self._write_chunk(frames - len(self._chunk) // nbytes, whole)

    def _write_chunk(self, first: int, pixels: bytes | bytearray) -> None:
        # Past HDF5's own filters and chunk cache, which copy every pixel and keep the GIL.
        if self.layout.level:
            shuffled = np.frombuffer(pixels, np.uint8).reshape(-1, 2).T.tobytes()
            pixels = zlib.compress(shuffled, self.layout.level)
        self._images.id.write_direct_chunk((first, *(0 for _ in self.layout.shape)), pixels)


class EventFile(FrameFile):
    """Sparse frames as NXevent_data: the photons of one frame behind those of the other.

    ``/entry/events/event_id`` holds the flat pixel index of every photon (C order over
    ``frame_shape``), ``event_index`` the place of each frame's first photon in it,
    ``event_time_zero`` the beginning of each exposure. A frame without photons is there with the
    same ``event_index`` as the next. ``/entry/data/photons`` counts them per frame.
    """

    def _lay_out(self) -> None:
        group = self._group(_EVENT_GROUP, "NXevent_data")
        level = self.layout.level
        filters = {"compression": "gzip", "compression_opts": level} if level else {}
        self._ids = group.create_dataset(
            "event_id", shape=(0,), maxshape=(None,), chunks=(_EVENTS_PER_CHUNK,), dtype="<u4",
            shuffle=bool(level), **filters,
        )  # fmt: skip
        group["frame_shape"] = np.array(self.layout.shape, dtype="<i4")
        self._first = 0
        self._column(f"{_EVENT_GROUP}/event_index", "<u8", "", self._event_index)
        zero = self._column(f"{_EVENT_GROUP}/event_time_zero", "<f8", "s", lambda h: h.time)
        zero.attrs["offset"] = "1970-01-01T00:00:00Z"
        self._group("entry/data", "NXdata", signal="photons")
        self._column("entry/data/photons", "<u4", "", lambda header: header.nbytes // 4)
        self._pixels = int(np.prod(self.layout.shape))
        self._kept: list[bytes] = []

    def _event_index(self, header: FrameHeader) -> int:
        first = self._first
        self._first += header.nbytes // 4
        return first

    def _add(self, header: FrameHeader, payload: bytes | bytearray) -> None:
        last = int.from_bytes(payload[-4:], "little")
        if last >= self._pixels:
            raise ValueError(
                f"frame {header.number} has a photon in pixel {last} of {self._pixels}"
            )
        self._kept.append(bytes(payload))

    def _flush_frames(self) -> None:
        events = np.frombuffer(b"".join(self._kept), dtype="<u4")
        self._kept.clear()
        if not len(events):
            return
        before = len(self._ids)
        self._ids.resize(before + len(events), axis=0)
        self._ids[before:] = events


def create_frame_file(path: Path, layout: Layout) -> FrameFile:
    """Create a file for frames of that kind.

    Raises
    ------
    OSError
        If it exists or can't be created.
    """
    return (EventFile if layout.dtype == EVENTS else StackFile)(path, layout)


def end_process(status: int) -> NoReturn:
    """End this process; with files that HDF5 must not close, without HDF5's own end.

    Parameters
    ----------
    status
        Exit status.
    """
    if _abandoned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
