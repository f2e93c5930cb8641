"""Frames into files, as the commands of the IOC say."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ioc.file_names import file_path
from ioc.frame_file import FrameFile, Layout, create_frame_file
from ioc.frames import FrameHeader

__all__ = ["Recorder"]

#: Frames reach the file at least this often (s), and always when the stream pauses.
_FLUSH_PERIOD = 0.25
#: Left free on the disk, so that a file can still be closed well (bytes).
_RESERVE = 8 << 20
#: Space is asked for again after this much has been written (bytes).
_UNCHECKED = 1 << 20

_FILE_ERRORS = (OSError, RuntimeError, ValueError)


class Recorder:
    """The file that is open, if any, and what became of each frame.

    Parameters
    ----------
    tell
        Sends an event to the IOC.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._file: FrameFile | None = None
        self._path = Path()
        self._layout: Layout | None = None
        self._waiting = False  # for the first frame, which says what the file is like
        self._single: dict[str, Any] = {}
        self._limit = 0
        self._flush_after = 0
        self._failed = False
        self._opened = 0.0
        self._flushed = time.monotonic()
        self._flushed_frames = 0
        self._checked = 0
        #: The newest frame; its bytes stay until the frame after the next.
        self.newest: tuple[FrameHeader, bytearray] | None = None
        self._received = 0
        #: Whether frames are taken at all.
        self.enabled = True
        self.last = -1
        self.captured = 0
        self.dropped = 0
        #: Frames that the IOC doesn't know of yet.
        self.unreported = 0

    # ---- commands

    def open(self, command: Mapping[str, Any]) -> None:
        """Open a file, or get ready to open it with the first frame (``lazy``)."""
        if self._file is not None:
            self._close(complete=False)
        self._path = Path(command["path"])
        self._layout = _layout(command)
        self._limit = command["limit"]
        self._flush_after = command["flush"]
        self._single = {}
        self.captured = self.dropped = 0
        self._failed = False
        self._waiting = bool(command["lazy"])
        if self._waiting:
            self._tell("armed")
        else:
            self._create(self._layout)

    def single(self, command: Mapping[str, Any]) -> None:
        """Write every frame from now on into a file of its own; ``template`` "" ends that."""
        self._single = dict(command) if command["template"] else {}
        self._failed = False
        self.captured = self.dropped = 0

    def write(self, command: Mapping[str, Any]) -> None:
        """Write the newest frame into a file of its own."""
        if self.newest is None:
            self._tell("failed", message="there is no frame to write yet")
            return
        header, payload = self.newest
        path = Path(command["path"])
        try:
            self._write_single(path, command, header, payload)
        except _FILE_ERRORS as error:
            self._tell("failed", message=_reason(f"can't write {path}", error))
            return
        self._tell("written", path=str(path), number=command["number"])

    def close(self, *, complete: bool) -> None:
        """Close the file; `complete` says whether all frames that were asked for are in it."""
        if self._waiting:
            self._waiting = False
            self._tell("closed", path="", frames=0, complete=False, seconds=0.0, nbytes=0)
            return
        self._close(complete=complete)

    def end(self) -> None:
        """Close an open file as incomplete, without a word."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(*_FILE_ERRORS):
                file.close(complete=False)

    # ---- frames

    def begin(self) -> None:
        """Forget what came with an earlier connection: a new server numbers anew."""
        self.last = -1
        self.newest = None

    def take(self, header: FrameHeader, payload: bytearray) -> None:
        """Deal with a frame."""
        missed = header.number - self.last - 1 if self.last >= 0 else 0
        self.last = header.number
        self.unreported += 1
        self.newest = (header, payload)
        if not self.enabled:
            return
        self._received += 1
        if self._single:
            self._take_single(header, payload)
            return
        if self._waiting and self._layout is not None:
            self._waiting = False
            self._create(replace(self._layout, dtype=header.dtype, shape=header.shape))
        if self._file is None:
            self.dropped += int(self._failed)
            return
        self.dropped += max(0, missed)
        if self._limit and self._file.frames >= self._limit:
            return
        try:
            self._check_space(self._path.parent, header.nbytes)
            self._file.append(header, payload)
            self.captured = self._file.frames
        except _FILE_ERRORS as error:
            self.dropped += 1
            self._fail(error)
            return
        if self._limit and self._file.frames >= self._limit:
            self.settle()
            self._close(complete=True)
        elif self._flush_after and self._file.frames - self._flushed_frames >= self._flush_after:
            self.settle()

    def is_late(self) -> bool:
        """Whether frames should reach the file now."""
        return time.monotonic() - self._flushed > _FLUSH_PERIOD

    def settle(self) -> None:
        """Flush, then report what is dealt with."""
        if self._file is not None:
            try:
                self._file.flush()
                self._flushed_frames = self._file.frames
            except _FILE_ERRORS as error:
                self.dropped += 1
                self._fail(error)
        self._flushed = time.monotonic()
        self.unreported = 0
        self._tell(
            "frames", last=self.last, captured=self.captured, dropped=self.dropped,
            received=self._received, time=self.newest[0].time if self.newest else 0.0,
        )  # fmt: skip
        self._received = 0

    def _take_single(self, header: FrameHeader, payload: bytearray) -> None:
        if self._failed:
            self.dropped += 1
            return
        single = self._single
        number = single["number"]
        path = Path()
        try:
            path = file_path(single["template"], single["directory"], single["name"], number)
            self._write_single(path, single, header, payload)
        except _FILE_ERRORS as error:
            self._failed = True
            self.dropped += 1
            self._tell("failed", message=_reason(f"can't write {path}", error))
            return
        self.captured += 1
        if single["increment"]:
            single["number"] = number + 1
        self._tell("written", path=str(path), number=number)

    def _write_single(
        self, path: Path, command: Mapping[str, Any], header: FrameHeader, payload: bytearray
    ) -> None:
        self._checked = 0
        self._check_space(path.parent, header.nbytes)
        layout = replace(_layout(command), dtype=header.dtype, shape=header.shape, chunk=1)
        file = create_frame_file(path, layout)
        try:
            file.append(header, payload)
        except _FILE_ERRORS:
            file.close(complete=False)
            raise
        file.close(complete=True)

    def _check_space(self, folder: Path, nbytes: int) -> None:
        """Refuse what would fill the disk: HDF5 can't close a file that it can't write to."""
        self._checked -= nbytes
        if self._checked > 0:
            return
        self._checked = _UNCHECKED
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        # A file system without blocks (/proc) has its own reason to refuse.
        if disk.f_blocks and free < nbytes + _RESERVE + _UNCHECKED:
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: {free >> 20} MiB free, expected at least "
                f"{(nbytes + _RESERVE + _UNCHECKED) >> 20} MiB before a frame is written; "
                "make room and put Capture again",
            )

    # ---- files

    def _create(self, layout: Layout) -> None:
        self._checked = 0
        try:
            self._check_space(self._path.parent, 0)
            self._file = create_frame_file(self._path, layout)
        except _FILE_ERRORS as error:
            self._failed = True
            self._tell("failed", message=_reason(f"can't create {self._path}", error))
            return
        self._opened = self._flushed = time.monotonic()
        self._flushed_frames = 0
        self._tell("opened", path=str(self._path), swmr=layout.swmr)

    def _fail(self, error: Exception) -> None:
        file, self._file = self._file, None
        assert file is not None  # noqa: S101  (only a file fails)
        self._failed = True
        with contextlib.suppress(*_FILE_ERRORS):
            file.close(complete=False)
        self._tell("failed", message=_reason(f"can't write {self._path}", error))

    def _close(self, *, complete: bool) -> None:
        file, self._file = self._file, None
        seconds = time.monotonic() - self._opened
        done, frames, nbytes = False, 0, 0
        if file is not None:
            frames, nbytes = file.frames, file.nbytes
            try:
                file.close(complete=complete)
                done = complete
            except _FILE_ERRORS as error:
                self._failed = True
                self._tell("failed", message=_reason(f"can't finish {file.path}", error))
                return
        self._tell(
            "closed", path=str(self._path) if file else "", frames=frames, complete=done,
            seconds=seconds, nbytes=nbytes,
        )  # fmt: skip


def _layout(command: Mapping[str, Any]) -> Layout:
    fields = dict(command["layout"])
    return Layout(**{**fields, "shape": tuple(fields["shape"])})


def _reason(what: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.strerror:
        return f"{what}: {error.strerror}"
    # HDF5 wraps the system's error into its own; people know the system's.
    found = re.search(r"errno = (\d+)", str(error))
    text = os.strerror(int(found.group(1))) if found else " ".join(str(error).split())
    return f"{what}: {text}"
