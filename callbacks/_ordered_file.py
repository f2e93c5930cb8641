"""A file under HDF5 that changes on disk only as a whole, in an order that survives a kill.

HDF5 writes what it flushes in no safe order: the index of a data set may be on disk before the
superblock that says how long the file is, and a process killed in between leaves a file whose
newest chunks can't be read, or whose index can't (12 of 600 kills in a writer that flushes all the
time; 0 of 240 with this class). Here its writes are collected in memory, and `commit` writes them:
first what lies beyond the old end, then the superblock, then the pages that were there before.
Space on the disk is reserved before anything is written, so that a full disk is an error that
leaves the file as it was. The file has no name until its first commit: one that a killed process
had just begun never appears.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beamline.core.disk import written_now

__all__ = ["OrderedFile"]

_PAGE = 4096
#: Reserved beyond the end, so that a run can be closed on a disk that is full by now.
_RESERVE = 128 * 1024


class OrderedFile:
    """A new file, locked as HDF5 locks the files that it writes; for ``h5py.File(ordered, "w")``.

    Parameters
    ----------
    path
        An existing file is replaced at the first commit, unless another process is writing it.

    Raises
    ------
    BlockingIOError
        If another process has the file open.
    OSError
        If it can't be made.
    """

    def __init__(self, path: Path) -> None:
        _refuse_if_written(path)
        self._path: Path | None = path
        self._descriptor, self._hidden = _without_name(path)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._position = 0
        self._size = 0
        self._committed = 0
        #: What is beyond the end on disk, and pages of what is before it that have changed.
        self._fresh = bytearray()
        self._pages: dict[int, bytearray] = {}
        self._reserved = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the offset."""
        return self._position

    def write(self, data: Any) -> int:
        """Keep bytes for the next commit."""
        view = memoryview(data).cast("B")
        start, length = self._position, len(view)
        before = max(0, min(self._committed - start, length))
        if before:
            self._change(start, view[:before])
        if before < length:
            self._extend(start + before - self._committed, view[before:])
        self._position += length
        if length:
            self._size = max(self._size, self._position)
        return length

    def _extend(self, offset: int, view: memoryview) -> None:
        fresh = self._fresh
        if offset > len(fresh):
            fresh.extend(bytes(offset - len(fresh)))
        fresh[offset : offset + len(view)] = view

    def _change(self, start: int, view: memoryview) -> None:
        done, length = 0, len(view)
        while done < length:
            number, inside = divmod(start + done, _PAGE)
            count = min(_PAGE - inside, length - done)
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = self._page_on_disk(number)
            page[inside : inside + count] = view[done : done + count]
            done += count

    def _page_on_disk(self, number: int) -> bytearray:
        start = number * _PAGE
        page = bytearray(min(_PAGE, self._committed - start))
        found = os.pread(self._descriptor, len(page), start)
        page[: len(found)] = found
        return page

    def readinto(self, buffer: Any) -> int:
        """Read bytes, committed or not; beyond the end there are zeros."""
        view = memoryview(buffer).cast("B")
        start, length = self._position, len(view)
        if not length:
            return 0
        before = max(0, min(self._committed - start, length))
        found = os.pread(self._descriptor, before, start)
        first = max(0, start - self._committed)
        found += bytes(before - len(found)) + self._fresh[first : first + length - before]
        view[: len(found)] = found
        view[len(found) :] = bytes(length - len(found))
        for number in range(start // _PAGE, -(-(start + before) // _PAGE)):
            page = self._pages.get(number)
            if page is not None:
                at = number * _PAGE
                begin, end = max(at, start), min(at + len(page), start + before)
                view[begin - start : end - start] = page[begin - at : end - at]
        self._position += length
        return length

    def read(self, size: int) -> bytes:
        """Read `size` bytes (h5py takes what can read for a file)."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def truncate(self, size: int | None = None) -> int:
        """Set the size that the file has from the next commit on."""
        self._size = self._position if size is None else size
        return self._size

    def flush(self) -> None:
        """Do nothing: HDF5 calls this in the middle of its work; `commit` is the caller's."""

    def commit(self) -> None:
        """Bring everything to disk, as HDF5 left it by its last flush.

        Raises
        ------
        OSError
            If there is no space, or the disk fails. The commit may be tried again.
        """
        if self._pages or self._fresh:
            self._write_all()
        self._give_name()

    def _write_all(self) -> None:
        self._reserve()
        del self._fresh[max(0, self._size - self._committed) :]
        self._write_at(self._committed, self._fresh)
        superblock = [number for number in self._pages if number == 0]
        others = sorted(number for number in self._pages if number)
        for group in (superblock, others):
            for run in _consecutive(group):
                self._write_at(run[0] * _PAGE, b"".join(self._pages[number] for number in run))
        self._committed = max(self._committed, self._size)
        self._fresh = bytearray()
        self._pages.clear()

    def _give_name(self) -> None:
        if self._path is None:
            return
        try:
            self._link(self._path)
        except FileExistsError:
            _refuse_if_written(self._path)
            self._path.unlink()
            self._link(self._path)
        self._path = None

    def _link(self, path: Path) -> None:
        if self._hidden is None:
            # With a directory given, Python makes the system call that follows the link in /proc.
            os.link(f"/proc/self/fd/{self._descriptor}", path, src_dir_fd=self._descriptor)
            return
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self._hidden.rename(path)
        self._hidden = None

    def _reserve(self) -> None:
        needed = -(-self._size // _PAGE) * _PAGE
        if needed <= self._reserved - _RESERVE:
            return
        for extent in (needed + _RESERVE, needed):
            try:
                os.posix_fallocate(self._descriptor, 0, extent)
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    return
                if extent == needed:
                    raise
            else:
                self._reserved = max(self._reserved, extent)
                return

    def _write_at(self, offset: int, data: bytes | bytearray) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            left, offset = left[written:], offset + written

    def close(self) -> None:
        """Commit, cut to size, and wait until the disk has it.

        Raises
        ------
        OSError
            If that fails; the file is then as it was after the last commit.
        """
        try:
            self.commit()
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is on disk; what was not committed is lost."""
        self._fresh = bytearray()
        self._pages.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)
            self._hidden = None


def _without_name(path: Path) -> tuple[int, Path | None]:
    """Make a file in the directory of `path`; return it, and its hidden name if it needs one."""
    with contextlib.suppress(AttributeError, OSError):
        return os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666), None
    # Network file systems know no files without a name.
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    return os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), hidden


def _refuse_if_written(path: Path) -> None:
    if written_now(path):
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))


def _consecutive(numbers: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
