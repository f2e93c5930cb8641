r"""Bytes of a journal file: framing, checksums, the footer, and whether somebody is writing it.

A file is a plain stream of msgpack objects, laid out so that a reader needs no parser to find its
way and notices every damaged byte::

    "beamline journal 1\n"                           20 bytes, msgpack str
    [crc32 (uint32), [name, doc] packed (bin32)]     11 bytes and the payload, once per document
    [crc32 (uint32), offset of stop (uint64)]        15 bytes, only after the stop document

A file without the footer belongs to a run that is going on, or was cut off.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from beamline.core.closing import Closing
from beamline.core.disk import locked_by_writer
from beamline.core.errors import FileFormatError
from beamline.documents._encoding import pack, unpack

__all__ = [
    "MAGIC",
    "SUFFIX",
    "Damage",
    "JournalReader",
    "footer",
    "framed",
    "read_journal",
    "record",
]

_log = logging.getLogger(__name__)

SUFFIX = ".journal"
MAGIC = pack("beamline journal 1\n")
_RECORD = struct.Struct(">BBIBI")
_FOOTER = struct.Struct(">BBIBQ")
_ARRAY2, _UINT32, _BIN32, _UINT64 = 0x92, 0xCE, 0xC6, 0xCF
_HEAD = bytes((_ARRAY2, _UINT32))
_BLOCK = 1 << 20


def record(name: str, doc: Any) -> bytes:
    """Frame one document.

    Raises
    ------
    TypeError, ValueError
        For a document that cannot be recorded.
    """
    payload = pack([name, doc])
    if len(payload) >= 2**32:
        raise ValueError(f"it takes {len(payload) / 2**30:.1f} GiB, the limit is 4")
    return framed(payload)


def framed(payload: bytes) -> bytes:
    """Return the record that holds a packed document."""
    return _RECORD.pack(_ARRAY2, _UINT32, zlib.crc32(payload), _BIN32, len(payload)) + payload


def footer(stop_offset: int) -> bytes:
    """Return the end mark, which tells where the stop document is."""
    crc = zlib.crc32(struct.pack(">Q", stop_offset))
    return _FOOTER.pack(_ARRAY2, _UINT32, crc, _UINT64, stop_offset)


@dataclass(frozen=True)
class Damage:
    """A stretch of a journal file that holds no readable record.

    Attributes
    ----------
    begin, end
        Where it is in the file, bytes.
    reason
        What is wrong with it.
    records
        How many records there were, where there is something sound behind it; None at the end of
        the file, where it is mostly one that was never written in full.
    exact
        Whether `records` is their number, and not the smallest that it can be.
    """

    begin: int
    end: int
    reason: str
    records: int | None = None
    exact: bool = True

    def __str__(self) -> str:
        size = self.end - self.begin
        if self.records is None:
            return f"{size} bytes from byte {self.begin} on are unreadable: {self.reason}"
        lost = "1 record is lost" if self.records == 1 else f"{self.records} records are lost"
        return (
            f"{'' if self.exact else 'at least '}{lost}: {size} bytes from byte {self.begin} on "
            f"are unreadable ({self.reason})"
        )


class JournalReader(Closing):
    """One journal file, open for reading.

    Parameters
    ----------
    path
        The file. It may be growing: what is there when it is read is what comes out.

    Attributes
    ----------
    damages : list[Damage]
        After iteration: what could not be read. At the end of the file it is expected, if the
        writer was killed or lost its power; anywhere else the disk has lost something.
    length : int
        Bytes of the document that was read last.
    begin, end : int
        Where the record that was read last begins and ends in the file.

    Raises
    ------
    FileFormatError
        If the file can't be opened or is not a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damages: list[Damage] = []
        self.length = 0
        self.begin = self.end = len(MAGIC)
        try:
            self._stream: BinaryIO = path.open("rb")
        except OSError as error:
            raise FileFormatError(f"cannot read the journal {path}: {error.strerror}.") from None
        try:
            head = self._stream.read(len(MAGIC))
        except OSError as error:
            self._stream.close()
            raise FileFormatError(f"cannot read the journal {path}: {error.strerror}.") from None
        if head != MAGIC:
            self._stream.close()
            found = f"it begins with {head!r}" if head else "it is empty"
            raise FileFormatError(f"{path} is not a journal of this version: {found}.")

    @property
    def damage(self) -> str | None:
        """All `damages` in words."""
        return "; ".join(map(str, self.damages)) or None

    @property
    def size(self) -> int:
        """Bytes in the file at present."""
        return self.path.stat().st_size

    @property
    def being_written(self) -> bool:
        """Whether a living process holds the file open for writing."""
        return locked_by_writer(self._stream)

    def start(self) -> dict[str, Any]:
        """Return the start document.

        Raises
        ------
        FileFormatError
            If the first record is not a whole start document.
        """
        begun = self._frame(len(MAGIC), self.size)
        found = _document(begun) if isinstance(begun, bytes) else begun
        if isinstance(found, tuple) and found[0] == "start" and "uid" in found[1]:
            return found[1]
        problem = found if isinstance(found, str) else None
        raise FileFormatError(
            f"{self.path} holds no start document"
            f"{f' ({problem})' if problem else ''}: nothing can be read from it."
        )

    def stop(self) -> dict[str, Any] | None:
        """Return the stop document, found through the footer; None where there is no footer."""
        end = self._stream.seek(0, 2) - _FOOTER.size
        if end <= len(MAGIC):
            return None
        self._stream.seek(end)
        offset = _footer_offset(self._stream.read(_FOOTER.size))
        if offset is None or not len(MAGIC) <= offset < end:
            return None
        payload = self._frame(offset, end)
        found = _document(payload) if isinstance(payload, bytes) else None
        return found[1] if isinstance(found, tuple) and found[0] == "stop" else None

    def outcome(self) -> tuple[dict[str, Any] | None, bool]:
        """Return the stop document; or None, and whether a living process goes on writing."""
        stop = self.stop()
        if stop is None and self.being_written:
            return None, True
        # A writer may have ended between the two questions.
        return stop or self.stop(), False

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, doc) in the order of recording; what is damaged is left out."""
        for payload in self.payloads():
            found = _document(payload)
            if isinstance(found, str):
                self.damages.append(Damage(self.begin, self.end, found, 1))
            else:
                yield found

    def payloads(self) -> Iterator[bytes]:
        """Yield what the sound records hold, packed."""
        self.damages = []
        size = self.size
        position = self.begin = self.end = len(MAGIC)
        while position < size:
            found = self._frame(position, size)
            if found is None:
                return
            if isinstance(found, str):
                resumed = self._resume(position + 1, size)
                self.damages.append(self._damage(position, resumed, size, found))
                if resumed is None:
                    return
                position = resumed
                continue
            self.begin, self.end = position, position + _RECORD.size + len(found)
            self.length = len(found)
            position = self.end
            yield found

    def _frame(self, position: int, size: int) -> bytes | str | None:
        """Return what the record there holds, None at the footer, or what is wrong."""
        self._stream.seek(position)
        head = self._stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return "the last record is cut off"
        array, uint32, crc, kind, length = _RECORD.unpack(head)
        if (array, uint32) != (_ARRAY2, _UINT32) or kind not in (_BIN32, _UINT64):
            return "they are not a record"
        if kind == _UINT64:
            self._stream.seek(position)
            rest = self._stream.read(_FOOTER.size + 1)
            return None if _footer_offset(rest) is not None else "the end mark is damaged"
        if position + _RECORD.size + length > size:
            return "the last record is cut off"
        payload = self._stream.read(length)
        return payload if zlib.crc32(payload) == crc else "the checksum is wrong"

    def _resume(self, position: int, size: int) -> int | None:
        """Return where the next sound record or the footer begins."""
        while position < size:
            self._stream.seek(position)
            block = self._stream.read(_BLOCK)
            inside = block.find(_HEAD)
            while inside >= 0:
                if not isinstance(self._frame(position + inside, size), str):
                    return position + inside
                inside = block.find(_HEAD, inside + 1)
            position += max(1, len(block) - 1)
        return None

    def _damage(self, begin: int, end: int | None, size: int, reason: str) -> Damage:
        """Count the records in a damaged stretch by the headers that are left."""
        if end is None:
            return Damage(begin, size, reason)
        if reason == "the last record is cut off":
            reason = "a length is wrong"
        number, position = 0, begin
        while position < end:
            number += 1
            self._stream.seek(position)
            head = self._stream.read(_RECORD.size)
            array, uint32, _, kind, length = _RECORD.unpack(head.ljust(_RECORD.size, b"\0"))
            position += _RECORD.size + length
            if (array, uint32, kind) != (_ARRAY2, _UINT32, _BIN32) or position > end:
                return Damage(begin, end, reason, max(1, number - 1), exact=False)
        return Damage(begin, end, reason, number)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_journal(
    path: str | os.PathLike[str], *, damaged: Callable[[Damage], object] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of one journal file exactly as they were recorded.

    What is damaged is left out.

    Parameters
    ----------
    path
        The file.
    damaged
        Called at the end, unless the file is being written, with each stretch that could not be
        read. By default there is a warning in the log.

    Yields
    ------
    tuple of (str, dict)
        Name and document.

    Raises
    ------
    FileFormatError
        If the file can't be opened or is not a journal.
    """
    with JournalReader(Path(path)) as reader:
        yield from reader
        if reader.damages and not reader.being_written:
            for damage in reader.damages:
                if damaged is not None:
                    damaged(damage)
                else:
                    _log.warning("journal %s: %s.", reader.path, damage)


def _document(payload: bytes) -> tuple[str, dict[str, Any]] | str:
    """Return name and document, or what is wrong."""
    try:
        found = unpack(payload)
    except ValueError as error:
        return f"{error}"
    match found:
        case [str(name), dict(doc)]:
            return name, doc
    return "they are not a document"


def _footer_offset(data: bytes) -> int | None:
    if len(data) != _FOOTER.size:
        return None
    array, uint32, crc, uint64, offset = _FOOTER.unpack(data)
    sound = (array, uint32, uint64) == (_ARRAY2, _UINT32, _UINT64)
    return offset if sound and zlib.crc32(struct.pack(">Q", offset)) == crc else None
