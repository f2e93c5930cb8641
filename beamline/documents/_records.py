r"""Bytes of a journal file: framing, checksums, the footer, and whether somebody is writing it.

A file is a plain stream of msgpack objects, laid out so that a reader needs no parser to find its
way and notices every damaged byte::

    "beamline journal 1\n"                           20 bytes, msgpack str
    [crc32 (uint32), [name, doc] packed (bin32)]     11 bytes and the payload, once per document
    [crc32 (uint32), offset of stop (uint64)]        15 bytes, only after the stop document

A file without the footer belongs to a run that is going on, or was cut off.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from beamline.core.errors import FileFormatError
from beamline.documents._encoding import pack, unpack

__all__ = ["MAGIC", "SUFFIX", "JournalReader", "footer", "read_journal", "record"]

_log = logging.getLogger(__name__)

SUFFIX = ".journal"
MAGIC = pack("beamline journal 1\n")
_RECORD = struct.Struct(">BBIBI")
_FOOTER = struct.Struct(">BBIBQ")
_ARRAY2, _UINT32, _BIN32, _UINT64 = 0x92, 0xCE, 0xC6, 0xCF


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
    return _RECORD.pack(_ARRAY2, _UINT32, zlib.crc32(payload), _BIN32, len(payload)) + payload


def footer(stop_offset: int) -> bytes:
    """Return the end mark, which tells where the stop document is."""
    crc = zlib.crc32(struct.pack(">Q", stop_offset))
    return _FOOTER.pack(_ARRAY2, _UINT32, crc, _UINT64, stop_offset)


class JournalReader:
    """One journal file, open for reading.

    Parameters
    ----------
    path
        The file. It may be growing: what is there when it is read is what comes out.

    Attributes
    ----------
    damage : str or None
        After iteration: what is wrong with the rest of the file, if it does not end with a whole
        record. Expected of a file whose writer was killed or lost its power.
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
        self.damage: str | None = None
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
    def size(self) -> int:
        """Bytes in the file at present."""
        return self.path.stat().st_size

    @property
    def being_written(self) -> bool:
        """Whether a living process holds the file open for writing."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks can't say
            return False
        fcntl.flock(self._stream, fcntl.LOCK_UN)
        return False

    def start(self) -> dict[str, Any]:
        """Return the start document.

        Raises
        ------
        FileFormatError
            If the first record is not a whole start document.
        """
        self._stream.seek(len(MAGIC))
        for name, doc in self:
            if name == "start" and isinstance(doc, dict) and "uid" in doc:
                return doc
            break
        raise FileFormatError(
            f"{self.path} holds no start document"
            f"{f' ({self.damage})' if self.damage else ''}: nothing can be read from it."
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
        self._stream.seek(offset)
        found = self._next(end)
        return found[1] if isinstance(found, tuple) and found[0] == "stop" else None

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, doc) in the order of recording, up to the end or the first damage."""
        self._stream.seek(len(MAGIC))
        size = self.size
        position = self.begin = self.end = len(MAGIC)
        while position < size:
            found = self._next(size)
            if isinstance(found, tuple):
                self.begin, position = position, self._stream.tell()
                self.end = position
                yield found
                # The caller may have called start() or stop() in between.
                self._stream.seek(position)
                continue
            if found is not None:
                self.damage = (
                    f"{size - position} bytes from byte {position} on are unreadable: {found}"
                )
            return

    def _next(self, size: int) -> tuple[str, dict[str, Any]] | str | None:
        """Return the record here, None at the footer, or what is wrong."""
        position = self._stream.tell()
        head = self._stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return "the last record is cut off"
        array, uint32, crc, kind, length = _RECORD.unpack(head)
        if (array, uint32) != (_ARRAY2, _UINT32) or kind not in (_BIN32, _UINT64):
            return "they are not a record"
        if kind == _UINT64:
            self._stream.seek(position)
            rest = self._stream.read()
            return None if _footer_offset(rest) is not None else "the end mark is damaged"
        if position + _RECORD.size + length > size:
            return "the last record is cut off"
        payload = self._stream.read(length)
        self.length = length
        if zlib.crc32(payload) != crc:
            return "the checksum is wrong"
        try:
            found = unpack(payload)
        except ValueError as error:
            return f"{error}"
        match found:
            case [str(name), dict(doc)]:
                return name, doc
        return "they are not a document"

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of one journal file exactly as they were recorded.

    A file whose end is missing or damaged gives all documents before the damage, and a warning in
    the log that says how many bytes were lost.

    Parameters
    ----------
    path
        The file.

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
        if reader.damage and not reader.being_written:
            _log.warning("journal %s: %s", reader.path, reader.damage)


def _footer_offset(data: bytes) -> int | None:
    if len(data) != _FOOTER.size:
        return None
    array, uint32, crc, uint64, offset = _FOOTER.unpack(data)
    sound = (array, uint32, uint64) == (_ARRAY2, _UINT32, _UINT64)
    return offset if sound and zlib.crc32(struct.pack(">Q", offset)) == crc else None
