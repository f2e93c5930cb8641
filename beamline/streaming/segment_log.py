"""What a shard holds, on disk: segments of items, appended to, removed when all is acknowledged.

A segment is two files. ``N.items`` has the items as they came in, after a snapshot of the shard's
producers, so that older segments are not needed to know them; ``N.marks`` says what became of its
items (leased, back, acknowledged). Both are only ever appended to; a record cut off by a killed
process is cut off for good when the log is read again.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pickle
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import numpy.typing as npt

from beamline.core.disk import lock, sync
from beamline.core.errors import StorageError
from beamline.streaming.shard_state import Content, Part, Party, Recovered, RecoveredItem, State

__all__ = ["SegmentLog"]

_log = logging.getLogger(__name__)

_HEADER = struct.Struct("<4sIIQ")
_MAGIC = b"Q2r1"
_STATE, _ITEM = "state", "item"
_LEASED, _BACK, _DONE = "leased", "back", "done"
_PICKLE = "pickle"
_DEAD_BYTES = 1 << 20
_LOCK_SECONDS = 10.0


@dataclass
class _Segment:
    items: Path
    marks: Path
    stream: BinaryIO
    mark_stream: BinaryIO
    size: int = 0
    mark_size: int = 0
    live: int = 0


@dataclass(frozen=True)
class _Place:
    segment: _Segment
    offset: int
    skeleton: tuple[int, int]
    arrays: list[list[Any]]


class SegmentLog:
    """The log of one shard.

    Parameters
    ----------
    directory
        Its own; made if it is not there. One process at a time.
    segment_bytes
        Size from which a segment is closed.
    fsync
        Whether `sync` waits for the disk. Without, items outlive every process, but not the
        machine.

    Attributes
    ----------
    nbytes : int
        Bytes of all segments.
    recovered : Recovered
        What the log held when it was opened.

    Raises
    ------
    StorageError
        If the directory can't be used, or another process uses it.
    """

    def __init__(self, directory: Path, *, segment_bytes: int, fsync: bool = False) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._places: dict[int, _Place] = {}
        self._segments: list[_Segment] = []
        self.nbytes = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(directory / "lock")
            self.recovered = self._read()
            self._active = self._new_segment(self.recovered.state)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"a queue can't be kept in {directory}: {error.strerror}; choose another directory."
            ) from None

    # --- writing

    def append(
        self, state: State, producer: Party, sequence: int, stamp: int, content: Content
    ) -> None:
        """Write an item under `state.next_number`.

        Raises
        ------
        StorageError
            If it can't be written; then the log is as it was.
        """
        if self._active.size >= self._segment_bytes:
            self._roll(state)
        arrays = [_buffer(part.value) for part in content.parts]
        record = [
            _ITEM, state.next_number, producer.incarnation, sequence, stamp, len(content.skeleton),
            [description for description, _ in arrays],
        ]  # fmt: skip
        segment, offset = self._active, self._active.size
        start = self._write(segment, record, [content.skeleton, *(data for _, data in arrays)])
        self._place(segment, offset, record, start)

    def state_changed(self, state: State) -> None:
        """Write down a producer's begin or end.

        Raises
        ------
        StorageError
            If it can't be written.
        """
        self._write(self._active, [_STATE, state.packed()], [])
        self.sync()

    def leased(self, numbers: Iterable[int], consumer: Party, request: int) -> None:
        """Write down who has items."""
        self._mark(numbers, _LEASED, consumer.packed(), request)

    def back(self, numbers: Iterable[int]) -> None:
        """Write down that nobody has them any more."""
        self._mark(numbers, _BACK)

    def done(self, numbers: Iterable[int], state: State) -> None:
        """Forget items; remove the segments of which nothing is left."""
        numbers = list(numbers)
        self._mark(numbers, _DONE)
        for number in numbers:
            self._places.pop(number).segment.live -= 1
        for segment in [s for s in self._segments if not s.live and s is not self._active]:
            self._remove(segment)
        dead = min(_DEAD_BYTES, self._segment_bytes)
        if not self._active.live and self._active.size >= dead:
            with contextlib.suppress(StorageError):
                self._roll(state)

    def sync(self) -> None:
        """Wait for the disk, if that is asked for."""
        if self._fsync:
            os.fdatasync(self._active.stream.fileno())

    def close(self) -> None:
        """Close all files; nothing is lost by not doing so."""
        for segment in self._segments:
            segment.stream.close()
            segment.mark_stream.close()
        self._lock.close()

    # --- reading

    def read(self, number: int) -> Content:
        """Return an item; its arrays are mapped from the file."""
        place = self._places[number]
        start, length = place.skeleton
        descriptor = place.segment.stream.fileno()
        skeleton = os.pread(descriptor, length, start)
        start += length
        parts = []
        for kind, shape, nbytes in place.arrays:
            parts.append(Part(None, _mapped(descriptor, start, nbytes, kind, shape)))
            start += nbytes
        return Content(skeleton, parts)

    def _read(self) -> Recovered:
        recovered = Recovered()
        for path in sorted(self._directory.glob("*.items")):
            segment = self._open_segment(path)
            for offset, start, record in _records(segment):
                if record[0] == _STATE:
                    recovered.state = State.unpacked(record[1])
                    continue
                _, number, incarnation, sequence, stamp, skeleton, arrays = record
                nbytes = skeleton + sum(description[2] for description in arrays)
                recovered.items[number] = RecoveredItem(number, stamp, nbytes)
                recovered.state.next_number = number + 1
                recovered.state.last[incarnation] = sequence
                self._place(segment, offset, record, start)
            self.nbytes += segment.size
            self._cut(segment)
            self._apply_marks(segment, recovered)
        for segment in [s for s in self._segments if not s.live]:
            self._remove(segment)
        return recovered

    def _apply_marks(self, segment: _Segment, recovered: Recovered) -> None:
        segment.mark_stream.seek(0)
        unpacker = msgpack.Unpacker(segment.mark_stream, strict_map_key=False)
        good = 0
        try:
            for numbers, mark, *details in unpacker:
                good = unpacker.tell()
                for item in [i for i in map(recovered.items.get, numbers) if i is not None]:
                    if mark == _DONE:
                        del recovered.items[item.number]
                        self._places.pop(item.number).segment.live -= 1
                    elif mark == _BACK:
                        item.consumer = None
                    else:
                        item.consumer, item.request = Party.unpacked(details[0]), details[1]
                        item.attempt += 1
        except (ValueError, TypeError) as error:
            _log.error("%s is damaged after %d bytes: %s.", segment.marks, good, error)
        segment.mark_stream.truncate(good)
        segment.mark_size = good

    def _cut(self, segment: _Segment) -> None:
        length = segment.items.stat().st_size
        if length > segment.size:
            _log.warning(
                "%s ended in a record that was cut off (%d bytes); its producer was not answered.",
                segment.items,
                length - segment.size,
            )
            segment.stream.truncate(segment.size)

    # --- segments

    def _place(self, segment: _Segment, offset: int, record: list[Any], start: int) -> None:
        _, number, _, _, _, length, arrays = record
        self._places[number] = _Place(segment, offset, (start, length), arrays)
        segment.live += 1

    def _open_segment(self, path: Path) -> _Segment:
        marks = path.with_suffix(".marks")
        path.touch()
        marks.touch()
        # Unbuffered: what was written must be the kernel's before it is answered.
        segment = _Segment(
            path, marks, path.open("r+b", buffering=0), marks.open("r+b", buffering=0)
        )
        self._segments.append(segment)
        return segment

    def _new_segment(self, state: State) -> _Segment:
        newest = int(self._segments[-1].items.stem) + 1 if self._segments else 0
        segment = self._open_segment(self._directory / f"{newest:012d}.items")
        try:
            self._write(segment, [_STATE, state.packed()], [])
        except StorageError:
            self._remove(segment)
            raise
        if self._fsync:
            sync(self._directory)
        return segment

    def _roll(self, state: State) -> None:
        old = self._active
        self._active = self._new_segment(state)
        if not old.live:
            self._remove(old)

    def _remove(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        self.nbytes -= segment.size
        segment.stream.close()
        segment.mark_stream.close()
        # Marks without items mean nothing; items without marks would all come again.
        segment.items.unlink(missing_ok=True)
        segment.marks.unlink(missing_ok=True)

    def _write(self, segment: _Segment, record: list[Any], payload: list[Any]) -> int:
        """Append a record; return where its payload starts."""
        meta = msgpack.packb(record)
        views = [memoryview(data).cast("B") for data in payload if len(data)]
        length = sum(view.nbytes for view in views)
        header = _HEADER.pack(_MAGIC, zlib.crc32(meta), len(meta), length)
        try:
            _write_all(segment.stream.fileno(), segment.size, [memoryview(header + meta), *views])
        except OSError as error:
            with contextlib.suppress(OSError):
                segment.stream.truncate(segment.size)
            raise StorageError(
                f"a queue can't write to {segment.items}: {error.strerror}; make room."
            ) from None
        start = segment.size + len(header) + len(meta)
        segment.size = start + length
        self.nbytes += len(header) + len(meta) + length
        return start

    def _mark(self, numbers: Iterable[int], *mark: Any) -> None:
        by_segment: dict[int, tuple[_Segment, list[int]]] = {}
        for number in numbers:
            segment = self._places[number].segment
            by_segment.setdefault(id(segment), (segment, []))[1].append(number)
        for segment, mine in by_segment.values():
            data = memoryview(msgpack.packb([mine, *mark]))
            try:
                _write_all(segment.mark_stream.fileno(), segment.mark_size, [data])
                segment.mark_size += data.nbytes
            except OSError as error:
                # Items may come again after a restart; the writer's ledger knows them.
                _log.error("a queue can't write to %s: %s.", segment.marks, error.strerror)


def _records(segment: _Segment) -> Iterator[tuple[int, int, list[Any]]]:
    """Yield offset, start of the payload and meta of the whole records of a segment."""
    length = segment.items.stat().st_size
    descriptor = segment.stream.fileno()
    while segment.size + _HEADER.size <= length:
        offset = segment.size
        magic, crc, meta_length, payload = _HEADER.unpack(
            os.pread(descriptor, _HEADER.size, offset)
        )
        start = offset + _HEADER.size + meta_length
        if magic != _MAGIC or start + payload > length:
            return
        meta = os.pread(descriptor, meta_length, offset + _HEADER.size)
        if zlib.crc32(meta) != crc:
            return
        segment.size = start + payload
        yield offset, start, msgpack.unpackb(meta, strict_map_key=False)


def _write_all(descriptor: int, offset: int, views: list[memoryview]) -> None:
    while views:
        written = os.pwritev(descriptor, views, offset)
        offset += written
        while views and written >= views[0].nbytes:
            written -= views.pop(0).nbytes
        if written:
            views[0] = views[0][written:]


def _buffer(value: Any) -> tuple[list[Any], Any]:
    """Return type, shape and size of a value, and its bytes."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return [value.dtype.str, list(value.shape), flat.nbytes], flat
    data = pickle.dumps(value, protocol=5)
    return [_PICKLE, [], len(data)], data


def _mapped(descriptor: int, offset: int, nbytes: int, kind: str, shape: list[int]) -> Any:
    if not nbytes:
        return np.empty(shape, kind)
    page = offset - offset % mmap.ALLOCATIONGRANULARITY
    skipped = offset - page
    mapped = mmap.mmap(descriptor, skipped + nbytes, access=mmap.ACCESS_READ, offset=page)
    if kind == _PICKLE:
        return pickle.loads(memoryview(mapped)[skipped:])  # noqa: S301  (written by `_buffer`)
    values: npt.NDArray[Any] = np.frombuffer(mapped, np.uint8, nbytes, skipped).view(kind)
    return values.reshape(shape)


def _locked(path: Path) -> BinaryIO:
    """Open a lock file; a process that is being killed may still have it for a moment."""
    stream = path.open("ab")
    try:
        lock(stream, _LOCK_SECONDS)
    except BlockingIOError:
        stream.close()
        raise StorageError(
            f"{path.parent} is in use by another queue; end that or choose another directory."
        ) from None
    return stream
