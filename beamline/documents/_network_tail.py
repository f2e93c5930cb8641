"""Records of a journal file as bytes, by their number, while the file grows."""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path

from beamline.core.disk import locked_by_writer
from beamline.documents._network_wire import CUT, ENDED, OPEN
from beamline.documents._records import (
    _ARRAY2,
    _BIN32,
    _RECORD,
    _UINT32,
    _UINT64,
    MAGIC,
    JournalReader,
)
from beamline.documents._store import Journal

__all__ = ["JournalTail", "summary"]

_BLOCK = 256 * 1024
_MARK = 16  # every so many records an offset is kept
_QUIET = 1.0  # seconds without growth before a file that nobody locks counts as cut off


class JournalTail:
    """One journal file, read without unpacking anything.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    uid : str
        Of its run.
    started : float
        Time of the start document, seconds since 1970.
    state : str
        "open", "ended" (the stop document is there) or "cut off".
    count : int
        Whole records so far.
    ended_at : float
        Monotonic time at which `state` was left "open".

    Raises
    ------
    FileFormatError
        If it is not a journal with a whole start document.
    """

    def __init__(self, path: Path) -> None:
        with JournalReader(path) as reader:
            start = reader.start()
        self.path = path
        self.uid = Journal.uid_of(path)
        moment = start.get("time")
        self.started = float(moment) if isinstance(moment, int | float) else 0.0
        self.state = OPEN
        self.count = 0
        self.ended_at = 0.0
        self._end = len(MAGIC)
        self._marks = array("Q")
        self._grown_at = time.monotonic()
        self._descriptor = os.open(path, os.O_RDONLY)

    def grow(self) -> bool:
        """Look for records that were added; return whether anything is new."""
        if self.state != OPEN:
            return False
        size = os.fstat(self._descriptor).st_size
        before = self.count
        if size > self._end:
            self._walk(size)
        if self.count > before or self.state != OPEN:
            self._grown_at = time.monotonic()
        elif time.monotonic() - self._grown_at > _QUIET:
            self._grown_at = time.monotonic()
            if not self.being_written() and os.fstat(self._descriptor).st_size == size:
                self._finish(CUT)
        return self.count > before or self.state != OPEN

    def _walk(self, size: int) -> None:
        block, base = b"", self._end
        while self._end + _RECORD.size <= size:
            inside = self._end - base
            if inside + _RECORD.size > len(block):
                base, inside = self._end, 0
                block = os.pread(self._descriptor, _BLOCK, base)
                if len(block) < _RECORD.size:
                    return
            first, second, _, kind, length = _RECORD.unpack_from(block, inside)
            if (first, second) == (_ARRAY2, _UINT32) and kind == _UINT64:
                self._finish(ENDED)
                return
            if (first, second, kind) != (_ARRAY2, _UINT32, _BIN32):
                self._finish(CUT)
                return
            if self._end + _RECORD.size + length > size:
                return
            if self.count % _MARK == 0:
                self._marks.append(self._end)
            self.count += 1
            self._end += _RECORD.size + length

    def _finish(self, state: str) -> None:
        self.state = state
        self.ended_at = time.monotonic()

    def being_written(self) -> bool:
        """Whether a living process holds the file open for writing."""
        return locked_by_writer(self._descriptor)

    def read(self, first: int, most: int, most_bytes: int = _BLOCK) -> tuple[bytes, int]:
        """Return records, one after the other, and how many they are.

        Parameters
        ----------
        first
            Number of the first one.
        most, most_bytes
            Not more than these; but one record always, if there is one.
        """
        most = min(most, self.count - first)
        if most <= 0 or first < 0:
            return b"", 0
        begin = self._offset(first)
        block = os.pread(self._descriptor, min(most_bytes, self._end - begin), begin)
        end = number = 0
        while number < most and end + _RECORD.size <= len(block):
            length = _RECORD.size + _RECORD.unpack_from(block, end)[4]
            if end + length > len(block):
                break
            end += length
            number += 1
        if number == 0:
            head = os.pread(self._descriptor, _RECORD.size, begin)
            length = _RECORD.size + _RECORD.unpack(head)[4]
            return os.pread(self._descriptor, length, begin), 1
        return block[:end], number

    def _offset(self, number: int) -> int:
        offset = self._marks[number // _MARK]
        for _ in range(number % _MARK):
            head = os.pread(self._descriptor, _RECORD.size, offset)
            offset += _RECORD.size + int(_RECORD.unpack(head)[4])
        return offset

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def summary(path: Path) -> tuple[float, str]:
    """Return the start time and the state of a run, without reading it through.

    Raises
    ------
    FileFormatError
        If it is not a journal with a whole start document.
    """
    with JournalReader(path) as reader:
        moment = reader.start().get("time")
        stop, alive = reader.outcome()
        state = ENDED if stop is not None else (OPEN if alive else CUT)
    return (float(moment) if isinstance(moment, int | float) else 0.0), state
