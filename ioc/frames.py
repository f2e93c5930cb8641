"""Frames from the detector: what the device server says about one before its bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from beamline.core.errors import DeviceServerError

__all__ = ["DENSE", "EVENTS", "FrameHeader", "parse_frame_header"]

#: Frames of pixels, little-endian uint16.
DENSE = "uint16"
#: Frames of photons: the flat index of the pixel of each, ascending, little-endian uint32.
EVENTS = "events"

#: No frame is larger; a header that says so is garbage (bytes).
_FRAME_LIMIT = 1 << 30


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
    dtype
        `DENSE` or `EVENTS`: what follows.
    shape
        Sizes, slowest first: rows (ss) and columns (fs), before them perhaps panels.
    nbytes
        Size of what follows.
    energy
        Mean photon energy during the exposure, eV.
    exposure
        Exposure time, s.
    """

    number: int
    index: int
    time: float
    dtype: str
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
            dtype,
            tuple(map(int, sizes.split("x"))),
            int(nbytes),
            float(energy),
            float(exposure),
        )
    except ValueError:
        word, header = "", None
    if word != "FRAME" or header is None or not _possible(header):
        raise DeviceServerError(
            f"the device server sent a frame header that can't be read: {line[:120]!r}."
        )
    return header


def _possible(header: FrameHeader) -> bool:
    if len(header.shape) not in (2, 3) or min(header.shape) < 1:
        return False
    if not 0 <= header.nbytes <= _FRAME_LIMIT:
        return False
    if header.dtype == EVENTS:
        return header.nbytes % 4 == 0
    return header.dtype == DENSE and header.nbytes == 2 * math.prod(header.shape)
