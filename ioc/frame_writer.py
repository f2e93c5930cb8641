"""The frame writer: a process that takes frames from the device server and writes them to HDF5.

The IOC starts it and speaks with it over standard input and output, one JSON object per line.
Commands: ``{"op": "open", "path": …, "shape": [ny, nx], "compression": …, "limit": n}`` and
``{"op": "close"}``. Events: ``connected``, ``disconnected`` (reason), ``opened`` (path), ``closed``
(path, frames, complete), ``failed`` (message), ``frames`` (last: number of the newest frame that is
dealt with; captured: frames in the file; dropped). It ends when standard input closes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beamline.core.errors import DeviceServerError
from ioc.frames import FrameFile, FrameHeader, parse_frame_header

__all__ = ["main"]

#: Frames reach the file at least this often (s), and always when the stream pauses.
_FLUSH_PERIOD = 0.25
_BACK_OFF = (0.1, 2.0)
_HEADER_LIMIT = 4096


class _Stop(Exception):  # noqa: N818  (not an error)
    """The IOC is gone, or asks to end."""


class _Writer:
    """State of the process: a connection, perhaps a file, a frame that is arriving."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._selector = selectors.DefaultSelector()
        self._commands = b""
        self._socket: socket.socket | None = None
        self._greeted = False
        self._received = bytearray()
        self._header: FrameHeader | None = None
        self._pixels = bytearray()
        self._filled = 0
        self._file: FrameFile | None = None
        self._limit = 0
        self._failed = False
        self._last = -1
        self._captured = 0
        self._dropped = 0
        self._unreported = 0
        self._flushed = time.monotonic()

    # ---- talking with the IOC

    def tell(self, event: str, **details: Any) -> None:
        """Send an event to the IOC."""
        line = json.dumps({"event": event, **details}) + "\n"
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError:
            raise _Stop from None

    def _read_commands(self) -> None:
        chunk = os.read(0, 65536)
        if not chunk:
            raise _Stop
        *lines, self._commands = (self._commands + chunk).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if command["op"] == "open":
                self._open(command)
            elif command["op"] == "close":
                self._close(complete=True)

    def _open(self, command: dict[str, Any]) -> None:
        path = Path(command["path"])
        if self._file is not None:
            self._close(complete=False)
        try:
            self._file = FrameFile(
                path, tuple(command["shape"]), compression=command["compression"]
            )
        except (OSError, ValueError) as error:
            self.tell("failed", message=_reason(f"can't create {path}", error))
            return
        self._limit = command["limit"]
        self._captured = self._dropped = 0
        self._failed = False
        self.tell("opened", path=str(path))

    def _close(self, *, complete: bool) -> None:
        file, self._file = self._file, None
        if file is None:
            self.tell("closed", path="", frames=0, complete=False)
            return
        whole = complete and not self._failed
        try:
            file.close(complete=whole)
        except (OSError, RuntimeError, ValueError) as error:
            self.tell("failed", message=_reason(f"can't finish {file.path}", error))
            return
        self.tell("closed", path=str(file.path), frames=file.frames, complete=whole)

    # ---- talking with the device server

    def run(self) -> None:
        """Work until the IOC is gone."""
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ)
        delay = _BACK_OFF[0]
        try:
            while True:
                try:
                    self._connect()
                    delay = _BACK_OFF[0]
                    self._receive()
                except (OSError, DeviceServerError) as error:
                    self._disconnect(str(error))
                self._wait(delay)
                delay = min(2 * delay, _BACK_OFF[1])
        except _Stop:
            pass
        finally:
            if self._file is not None:
                with contextlib.suppress(OSError, RuntimeError, ValueError):
                    self._file.close(complete=False)

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=3.0)
        self._socket.sendall(b"FRAMES\n")
        self._socket.setblocking(False)
        self._greeted = False
        self._last = -1
        self._received.clear()
        self._header = None
        self._selector.register(self._socket, selectors.EVENT_READ)

    def _disconnect(self, reason: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
        if self._greeted:
            self._greeted = False
            self._settle()
            self.tell("disconnected", reason=reason)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._selector.select(left):
                self._read_commands()

    def _receive(self) -> None:
        """Take commands and frames until the connection is lost."""
        assert self._socket is not None  # noqa: S101  (connected by the caller)
        while True:
            # With frames to flush, only look whether more is coming.
            ready = self._selector.select(0 if self._unreported else None)
            late = time.monotonic() - self._flushed > _FLUSH_PERIOD
            if self._unreported and (not ready or late):
                self._settle()
            for key, _ in ready:
                if key.fd == 0:
                    self._read_commands()
                elif self._header is None:
                    self._receive_line(self._socket)
                else:
                    self._receive_pixels(self._socket, self._header)

    def _receive_line(self, connection: socket.socket) -> None:
        # A peek finds the end of the line without taking pixels behind it.
        ahead = connection.recv(_HEADER_LIMIT, socket.MSG_PEEK)
        if not ahead:
            raise ConnectionResetError("the device server closed the frame connection")
        end = ahead.find(b"\n")
        self._received += connection.recv(len(ahead) if end < 0 else end + 1)
        if end < 0:
            if len(self._received) > _HEADER_LIMIT:
                raise DeviceServerError("the device server sent a header without an end.")
            return
        line = self._received.decode("latin-1").rstrip("\r\n")
        self._received.clear()
        if not self._greeted:
            if line != "OK:FRAMES":
                raise DeviceServerError(f"the device server gives no frames: {line}.")
            self._greeted = True
            self.tell("connected")
            return
        self._header = parse_frame_header(line)
        self._filled = 0
        if len(self._pixels) != self._header.nbytes:
            self._pixels = bytearray(self._header.nbytes)

    def _receive_pixels(self, connection: socket.socket, header: FrameHeader) -> None:
        with memoryview(self._pixels) as view:
            taken = connection.recv_into(view[self._filled :])
        if taken == 0:
            raise ConnectionResetError("the device server closed the frame connection")
        self._filled += taken
        if self._filled == header.nbytes:
            self._header = None
            self._take(header)

    # ---- frames

    def _take(self, header: FrameHeader) -> None:
        if self._last >= 0 and header.number > self._last + 1 and self._file is not None:
            self._dropped += header.number - self._last - 1
        self._last = header.number
        self._unreported += 1
        if self._file is None:
            return
        if self._failed or (self._limit and self._file.frames >= self._limit):
            self._dropped += int(self._failed)
            return
        try:
            self._file.append(header, self._pixels)
            self._captured = self._file.frames
        except (OSError, RuntimeError, ValueError) as error:
            self._fail(error)
        if self._limit and self._file.frames >= self._limit:
            self._settle()
            self._close(complete=True)

    def _fail(self, error: Exception) -> None:
        assert self._file is not None  # noqa: S101  (only a file fails)
        self._failed = True
        self._dropped += 1
        self.tell("failed", message=_reason(f"can't write {self._file.path}", error))

    def _settle(self) -> None:
        """Flush, then report what is dealt with."""
        if self._file is not None and not self._failed:
            try:
                self._file.flush()
            except (OSError, RuntimeError, ValueError) as error:
                self._fail(error)
        self._flushed = time.monotonic()
        self._unreported = 0
        self.tell("frames", last=self._last, captured=self._captured, dropped=self._dropped)


def _reason(what: str, error: Exception) -> str:
    # HDF5 wraps the system's error into its own; people know the system's.
    found = re.search(r"errno = (\d+)", str(error))
    text = os.strerror(int(found.group(1))) if found else " ".join(str(error).split())
    return f"{what}: {text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the frame writer; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ioc.frame_writer", description=__doc__)
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    host, _, port = parser.parse_args(argv).server.rpartition(":")

    # A signal to the whole group is the IOC's business: it closes standard input when it is done,
    # and however it dies, the kernel does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import h5py  # noqa: F401  (now, and not when the first file is to be opened)

    _Writer(host, int(port)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
