"""The frame writer: a process that takes frames from the device server and writes them to HDF5.

The IOC starts it and speaks with it over standard input and output, one JSON object per line. It
ends when standard input closes.

Commands: ``open`` (a file for many frames), ``single`` (a file for each), ``write`` (the newest
frame), ``flush``, ``close``, ``enable`` (whether frames are taken for files), ``image`` (put the
first frame newer than ``after`` into the shared memory).

Events: ``connected``, ``disconnected`` (reason), ``refused`` (reason: another IOC has the frames),
``armed``, ``opened`` (path), ``written`` (path, number), ``closed`` (path, frames, complete,
seconds, nbytes), ``failed`` (message), ``frames`` (last: number of the newest frame that is dealt
with; time: its exposure; received: frames since the last such event; captured: frames in the file;
dropped), ``image`` (number, time, shape).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from beamline.core.errors import DeviceServerError
from ioc.frame_file import end_process
from ioc.frame_stream import FramesTakenError, FrameStream
from ioc.frames import FrameHeader
from ioc.live_image import ImageMemory, picture
from ioc.recorder import Recorder

__all__ = ["main"]

_BACK_OFF = (0.1, 2.0)
#: The connection of a predecessor that has just ended may be there for a moment.
_REFUSALS = 3


class _Stop(Exception):  # noqa: N818  (not an error)
    """The IOC is gone, or asks to end."""


class _Writer:
    """The process: a connection to the device server, a recorder, the way to the IOC."""

    def __init__(self, host: str, port: int, memory: ImageMemory | None) -> None:
        self._address = (host, port)
        self._selector = selectors.DefaultSelector()
        self._commands = b""
        self._stream: FrameStream | None = None
        self._recorder = Recorder(self.tell)
        self._memory = memory
        self._image_after: int | None = None

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
            self._obey(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        recorder, op = self._recorder, command["op"]
        if op == "open":
            recorder.open(command)
        elif op == "single":
            recorder.single(command)
        elif op == "write":
            recorder.write(command)
        elif op == "enable":
            recorder.enabled = bool(command["value"])
        elif op == "flush":
            recorder.settle()
        elif op == "close":
            recorder.close(complete=command["complete"])
        elif op == "image":
            self._image_after = command["after"]
            self._show()

    # ---- talking with the device server

    def run(self) -> None:
        """Work until the IOC is gone."""
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ)
        delay = _BACK_OFF[0]
        refusals = 0
        try:
            while True:
                try:
                    self._connect()
                    delay = _BACK_OFF[0]
                    self._receive()
                except FramesTakenError as error:
                    self._disconnect(str(error))
                    refusals += 1
                    if refusals >= _REFUSALS:
                        self.tell("refused", reason=str(error))
                except (OSError, DeviceServerError) as error:
                    self._disconnect(str(error))
                    refusals = 0
                self._wait(delay)
                delay = min(2 * delay, _BACK_OFF[1])
        except _Stop:
            pass
        finally:
            self._recorder.end()

    def _connect(self) -> None:
        self._stream = FrameStream(self._address, self._greeted, self._take)
        self._recorder.begin()
        self._selector.register(self._stream.socket, selectors.EVENT_READ)

    def _greeted(self) -> None:
        self.tell("connected")

    def _disconnect(self, reason: str) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(stream.socket)
        stream.close()
        if stream.greeted:
            self._recorder.settle()
            self.tell("disconnected", reason=reason)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._selector.select(left):
                self._read_commands()

    def _receive(self) -> None:
        """Take commands and frames until the connection is lost."""
        stream, recorder = self._stream, self._recorder
        assert stream is not None  # noqa: S101  (connected by the caller)
        while True:
            # With frames to flush, only look whether more is coming.
            ready = self._selector.select(0 if recorder.unreported else None)
            if recorder.unreported and (not ready or recorder.is_late()):
                recorder.settle()
            # Commands first: one that came before an acquisition holds for its first frame.
            for key, _ in sorted(ready, key=lambda item: item[0].fd):
                if key.fd == 0:
                    self._read_commands()
                else:
                    stream.receive()

    def _take(self, header: FrameHeader, payload: bytearray) -> None:
        self._recorder.take(header, payload)
        self._show()

    def _show(self) -> None:
        """Give the IOC the image that it asked for, if there is a newer one than it has."""
        newest = self._recorder.newest
        if self._image_after is None or newest is None or self._memory is None:
            return
        header, payload = newest
        if header.number <= self._image_after:
            return
        self._image_after = None
        image = picture(header, payload)
        self._memory.store(image)
        self.tell("image", number=header.number, time=header.time, shape=image.shape)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the frame writer; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ioc.frame_writer", description=__doc__)
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--image-memory", type=int, metavar="DESCRIPTOR")
    arguments = parser.parse_args(argv)
    host, _, port = arguments.server.rpartition(":")
    descriptor = arguments.image_memory

    # A signal to the whole group is the IOC's business: it closes standard input when it is done,
    # and however it dies, the kernel does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import h5py  # noqa: F401  (now, and not when the first file is to be opened)

    _Writer(host, int(port), ImageMemory(descriptor) if descriptor is not None else None).run()
    return 0


if __name__ == "__main__":
    end_process(main())
