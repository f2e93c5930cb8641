"""The head of an HDF5 file: whether it is marked as open for writing, and how long it should be.

A process that is killed while it writes a file of a recent format (SWMR, ``libver="latest"``)
leaves marks that keep everybody from opening it; HDF5's own ``h5clear`` takes them away. So does
this, without that program.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from beamline.core.errors import FileFormatError

__all__ = ["Superblock", "clear_flags", "flags", "read_superblock"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: A user block may precede the superblock: it is looked for at 0, 512, 1024, ….
_LAST_OFFSET = 2**20
_HEAD = struct.Struct("<8sBBBB")
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Superblock:
    """What is of interest in a superblock.

    Attributes
    ----------
    offset
        Where it is in the file, bytes.
    version
        0 to 3; only 2 and 3 have a checksum, only 3 has marks.
    flags
        Marks: 1 = open for writing, 4 = in SWMR mode; 0 where there are none.
    end
        How long the file should be, bytes.
    """

    offset: int
    version: int
    flags: int
    end: int


def read_superblock(path: str | os.PathLike[str]) -> Superblock:
    """Read the superblock of a file.

    Raises
    ------
    FileFormatError
        If it has none, or its checksum is wrong.
    OSError
        If it can't be read.
    """
    with Path(path).open("rb") as stream:
        return _read(stream, Path(path))


def flags(path: str | os.PathLike[str]) -> int:
    """Return the marks of a file; 0 for a file that is none of HDF5's."""
    try:
        return read_superblock(path).flags
    except (OSError, FileFormatError):
        return 0


def clear_flags(path: str | os.PathLike[str]) -> bool:
    """Take the marks of a killed writer from a file, and make it as long as it says it is.

    The file is changed in place: work on a copy.

    Returns
    -------
    bool
        Whether anything was changed.

    Raises
    ------
    FileFormatError, OSError
        As `read_superblock`.
    """
    path = Path(path)
    with path.open("r+b") as stream:
        block = _read(stream, path)
        changed = False
        if block.version == 3 and block.flags:
            stream.seek(block.offset)
            head = bytearray(stream.read(_HEAD.size + 4 * 8))
            head[11] = 0
            stream.seek(block.offset)
            stream.write(head + struct.pack("<I", lookup3(bytes(head))))
            changed = True
        size = stream.seek(0, os.SEEK_END)
        if size < block.end:
            stream.truncate(block.end)
            changed = True
        stream.flush()
        os.fsync(stream.fileno())
    return changed


def _read(stream: BinaryIO, path: Path) -> Superblock:
    offset = 0
    while offset <= _LAST_OFFSET:
        stream.seek(offset)
        head = stream.read(8)
        if head == _SIGNATURE:
            return _parse(stream, offset, path)
        if len(head) < 8:
            break
        offset = max(512, offset * 2)
    raise FileFormatError(f"{path} is not an HDF5 file.")


def _parse(stream: BinaryIO, offset: int, path: Path) -> Superblock:
    stream.seek(offset)
    data = stream.read(100)
    cut = FileFormatError(f"the head of the HDF5 file {path} is cut off.")
    if len(data) < 16:
        raise cut
    version = data[8]
    if version in (2, 3):
        if len(data) < 48:
            raise cut
        if data[9] != 8:
            raise FileFormatError(f"{path} has addresses of {data[9]} bytes, expected 8.")
        (checksum,) = struct.unpack_from("<I", data, 44)
        if checksum != lookup3(data[:44]):
            raise FileFormatError(f"the head of the HDF5 file {path} has a wrong checksum.")
        (end,) = struct.unpack_from("<Q", data, 28)
        return Superblock(offset, version, data[11] if version == 3 else 0, end)
    if version in (0, 1):
        at = (24 if version == 0 else 28) + 16
        if len(data) < at + 8 or data[13] != 8:
            raise cut
        (end,) = struct.unpack_from("<Q", data, at)
        return Superblock(offset, version, 0, end)
    raise FileFormatError(f"{path} has a superblock of version {version}, known are 0 to 3.")


def lookup3(data: bytes) -> int:
    """Return Bob Jenkins' lookup3 hash (``hashlittle``, initial value 0), HDF5's checksum."""
    length = len(data)
    a = b = c = (0xDEADBEEF + length) & _MASK
    blocks = max(0, (length - 1) // 12)
    for number in range(blocks):
        x, y, z = struct.unpack_from("<III", data, 12 * number)
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
    rest = data[12 * blocks :]
    if not rest:
        return c
    x, y, z = struct.unpack("<III", rest.ljust(12, b"\0"))
    return _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & _MASK) ^ _rotate(c, bits)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, bits)) & _MASK
        a, b, c = b, c, a
    return b
