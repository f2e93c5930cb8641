"""The connection on which the device server delivers frames."""

from __future__ import annotations

import socket
from collections.abc import Callable

from beamline.core.errors import DeviceServerError
from ioc.frames import FrameHeader, parse_frame_header

__all__ = ["FrameStream", "FramesTakenError"]

_HEADER_LIMIT = 4096
_CONNECT_TIMEOUT = 3.0
#: Larger than the default of most systems: fewer switches between the processes.
_RECEIVE_BUFFER = 1 << 22


class FramesTakenError(DeviceServerError):
    """The device server gives its frames to another consumer."""


class FrameStream:
    """A connection that takes frames.

    Frames come into two buffers by turns, so that the last one stays whole while the next arrives.

    Parameters
    ----------
    address
        Host and port of the device server.
    on_greeting
        Called when the server has accepted this connection as its consumer.
    on_frame
        Takes a frame's header and bytes; the buffer is reused for the frame after the next.

    Raises
    ------
    OSError
        If there is no server.
    """

    def __init__(
        self,
        address: tuple[str, int],
        on_greeting: Callable[[], None],
        on_frame: Callable[[FrameHeader, bytearray], None],
    ) -> None:
        self._on_greeting = on_greeting
        self._on_frame = on_frame
        self.greeted = False
        self._line = bytearray()
        self._header: FrameHeader | None = None
        self._buffers = [bytearray(), bytearray()]
        self._filled = 0
        self.socket = socket.create_connection(address, timeout=_CONNECT_TIMEOUT)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self.socket.sendall(b"FRAMES\n")
        self.socket.setblocking(False)

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def receive(self) -> None:
        """Take what has come; at most one frame is completed.

        Raises
        ------
        OSError
            If the connection is lost.
        DeviceServerError
            If the server says what can't be understood.
        """
        try:
            if self._header is None:
                self._receive_line()
            while self._header is not None:
                self._receive_payload(self._header)
        except BlockingIOError:
            pass

    def _receive_line(self) -> None:
        # A peek finds the end of the line without taking pixels behind it.
        ahead = self.socket.recv(_HEADER_LIMIT, socket.MSG_PEEK)
        if not ahead:
            raise ConnectionResetError("the device server closed the frame connection")
        end = ahead.find(b"\n")
        self._line += self.socket.recv(len(ahead) if end < 0 else end + 1)
        if end < 0:
            if len(self._line) > _HEADER_LIMIT:
                raise DeviceServerError("the device server sent a header without an end.")
            return
        line = self._line.decode("latin-1").rstrip("\r\n")
        self._line.clear()
        if not self.greeted:
            if line == "ERR:BUSY":
                host, port = self.socket.getpeername()[:2]
                raise FramesTakenError(
                    f"another IOC takes the frames of the device server {host}:{port}: stop that "
                    "IOC, or give this one a device server of its own"
                )
            if line != "OK:FRAMES":
                raise DeviceServerError(f"the device server gives no frames: {line}.")
            self.greeted = True
            self._on_greeting()
            return
        self._header = parse_frame_header(line)
        self._filled = 0
        if len(self._buffers[0]) != self._header.nbytes:
            self._buffers[0] = bytearray(self._header.nbytes)

    def _receive_payload(self, header: FrameHeader) -> None:
        buffer = self._buffers[0]
        if self._filled < header.nbytes:
            with memoryview(buffer) as view:
                taken = self.socket.recv_into(view[self._filled :])
            if taken == 0:
                raise ConnectionResetError("the device server closed the frame connection")
            self._filled += taken
        if self._filled == header.nbytes:
            self._header = None
            self._buffers.reverse()
            self._on_frame(header, buffer)
