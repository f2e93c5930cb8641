"""Frames from the detector: their header on the wire, and the HDF5 file they are written to."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beamline.core.errors import DeviceServerError

__all__ = ["Compression", "FrameFile", "FrameHeader", "parse_frame_header"]

Compression = Literal["none", "gzip"]

#: No frame is larger; a header that says so is garbage (bytes).
_FRAME_LIMIT = 1 << 30
DATASET = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"


@dataclass(frozen=True)
class FrameHeader:
    """What the device server says about a frame before its pixels.

    Attributes
    ----------
    number
        Since the device server started, from 0.
    index
        In its acquisition, from 0.
    time
        Start of the exposure, s since 1970.
    shape
        Sizes, slowest first: rows (ss) and columns (fs).
    nbytes
        Size of the pixels that follow, little-endian uint16.
    energy
        Mean photon energy during the exposure, eV.
    exposure
        Exposure time, s.
    """

    number: int
    index: int
    time: float
    shape: tuple[int, ...]
    nbytes: int
    energy: float
    exposure: float


def parse_frame_header(line: str) -> FrameHeader:
    """Read ``FRAME:<number>:<index>,<time>,<dtype>,<shape>,<nbytes>,<energy>,<exposure>``.

    The shape is the sizes joined by ``x``, slowest first.

    Raises
    ------
    DeviceServerError
        If the line is not of that form, or its sizes contradict each other.
    """
    try:
        word, number, rest = line.split(":", 2)
        index, time, dtype, sizes, nbytes, energy, exposure = rest.split(",")
        header = FrameHeader(
            int(number),
            int(index),
            float(time),
            tuple(map(int, sizes.split("x"))),
            int(nbytes),
            float(energy),
            float(exposure),
        )
    except ValueError:
        word, dtype, header = "", "", None
    if (
        word != "FRAME"
        or dtype != "uint16"
        or header is None
        or len(header.shape) != 2
        or min(header.shape) < 1
        or header.nbytes != 2 * math.prod(header.shape)
        or header.nbytes > _FRAME_LIMIT
    ):
        raise DeviceServerError(
            f"the device server sent a frame header that can't be read: {line[:120]!r}."
        )
    return header


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
    shape
        Rows and columns of every frame.
    compression
        ``"none"``, or ``"gzip"`` (level 1 with shuffle).

    Raises
    ------
    OSError
        If it exists or can't be created.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], *, compression: Compression = "none"
    ) -> None:
        import h5py

        self.path = path
        self.shape = shape
        self.frames = 0
        self._raw = compression == "none"
        # Without a lock, readers may open the file while it grows; exclusive creation is what
        # keeps a second writer away.
        self._file = h5py.File(path, "x", locking=False)
        self._file.attrs["complete"] = 0
        self._file.attrs["default"] = "entry"
        self._group("entry", "NXentry", default="data")
        self._group("entry/instrument", "NXinstrument")
        detector = self._group("entry/instrument/detector", "NXdetector")
        data = self._group("entry/data", "NXdata", signal="data")
        filters = {} if self._raw else {"compression": "gzip", "compression_opts": 1}
        self._images = data.create_dataset(
            "data",
            shape=(0, *shape),
            maxshape=(None, *shape),
            chunks=(1, *shape),
            dtype="<u2",
            shuffle=not self._raw,
            **filters,
        )
        self._images.attrs["units"] = "photons"
        detector["data"] = self._images
        self._attributes: dict[str, Any] = {}
        group = self._group("entry/instrument/NDAttributes", "NXcollection")
        for name, dtype, units in (
            ("NDArrayTimeStamp", "<f8", "s"),
            ("NDArrayUniqueId", "<i8", ""),
            ("PhotonEnergy", "<f8", "eV"),
            ("ExposureTime", "<f8", "s"),
        ):
            column = group.create_dataset(
                name, shape=(0,), maxshape=(None,), chunks=(1024,), dtype=dtype
            )
            if units:
                column.attrs["units"] = units
            self._attributes[name] = column
        group["NDArrayTimeStamp"].attrs["start"] = "1970-01-01T00:00:00Z"
        self._pending: list[FrameHeader] = []
        self._file.flush()

    def _group(self, name: str, nx_class: str, **attributes: str) -> Any:
        group = self._file.create_group(name)
        group.attrs["NX_class"] = nx_class
        for key, value in attributes.items():
            group.attrs[key] = value
        return group

    def append(self, header: FrameHeader, pixels: bytes | bytearray) -> None:
        """Add a frame.

        Parameters
        ----------
        header
            Its description; its shape must be the file's.
        pixels
            Little-endian uint16, rows after rows.

        Raises
        ------
        OSError, RuntimeError
            If the file can't be written.
        ValueError
            If the frame has another shape.
        """
        if header.shape != self.shape:
            raise ValueError(
                f"frame {header.number} is {header.shape}, but {self.path} holds {self.shape}"
            )
        self._images.resize(self.frames + 1, axis=0)
        if self._raw:
            self._images.id.write_direct_chunk((self.frames, 0, 0), pixels)
        else:
            import numpy as np

            self._images[self.frames] = np.frombuffer(pixels, dtype="<u2").reshape(self.shape)
        self._pending.append(header)
        self.frames += 1

    def flush(self) -> None:
        """Bring everything that was appended into the file."""
        if not self._pending:
            return
        first = self.frames - len(self._pending)
        columns = {
            "NDArrayTimeStamp": [header.time for header in self._pending],
            "NDArrayUniqueId": [header.number for header in self._pending],
            "PhotonEnergy": [header.energy for header in self._pending],
            "ExposureTime": [header.exposure for header in self._pending],
        }
        for name, values in columns.items():
            self._attributes[name].resize(self.frames, axis=0)
            self._attributes[name][first:] = values
        self._pending.clear()
        self._file.flush()

    def close(self, *, complete: bool) -> None:
        """Close the file; `complete` says whether it holds all that it was meant to."""
        try:
            self.flush()
            self._file.attrs["complete"] = int(complete)
        finally:
            self._file.close()
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
