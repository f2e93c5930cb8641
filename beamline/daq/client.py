"""Client of the device server's line protocol (docs/protocol.md)."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from beamline.core.closing import Closing
from beamline.core.errors import (
    ConfigurationError,
    ConnectionLostError,
    DeviceServerError,
    MotionError,
)

__all__ = ["DeviceClient"]

_MEANING = {
    "UNKNOWN_CMD": "the server does not know this command",
    "UNKNOWN_PV": "the server has no such PV ('LIST' names all)",
    "INVALID_VALUE": "the value is not a number within the range of this PV",
    "MOTOR_FAULT": "the motor has stalled, lost its encoder or stands on a limit switch",
    "BUSY": "the server is still busy with the previous one",
    "NO_CONSUMER": "nothing takes the frames",
}


class DeviceClient(Closing):
    """A connection to a device server, made anew by the next request after it was lost.

    Parameters
    ----------
    host, port
        Its address; ``DEVICE_HOST`` and ``DEVICE_PORT`` or 127.0.0.1:6064 where not given.
    timeout
        Seconds to wait for a connection or a reply.

    Raises
    ------
    ConnectionLostError
        If there is no server, or it goes away or falls silent.
    ConfigurationError
        If ``DEVICE_PORT`` is no number.
    """

    def __init__(
        self, host: str | None = None, port: int | None = None, *, timeout: float = 5.0
    ) -> None:
        self.host = host or os.environ.get("DEVICE_HOST", "127.0.0.1")
        self.port = _port_of_environment() if port is None else int(port)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._closed = False
        self._connect()

    def _connect(self) -> None:
        try:
            self._socket = socket.create_connection((self.host, self.port), self._timeout)
        except OSError as error:
            raise ConnectionLostError(
                f"no device server answers at {self.host}:{self.port} "
                f"({error.strerror or error}): start one with 'beamline server'."
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def _disconnect(self) -> None:
        self._stream.close()
        self._socket.close()

    def request(self, line: str) -> str:
        """Send one request line and return the data of its ``OK`` reply; threads take turns.

        Raises
        ------
        DeviceServerError
            If the server answers ``ERR``; the message says what was asked and what is wrong.
        ConfigurationError
            If it is more than one line.
        """
        if "\n" in line:
            raise ConfigurationError(f"a request is one line, found {line!r}.")
        with self._lock:
            reply = self._exchange(line)
        status, _, data = reply.partition(":")
        if status == "OK":
            return data
        raise DeviceServerError(
            f"the device server refused {line!r}: {_MEANING.get(data, 'it said')} ({reply})."
        )

    def _exchange(self, line: str) -> str:
        if self._stream.closed and not self._closed:
            self._connect()
        try:
            self._socket.sendall(line.encode("utf-8") + b"\n")
            reply = self._stream.readline().decode("utf-8")
        except (OSError, ValueError) as error:
            # What comes late must not be taken for the reply to another request.
            self._disconnect()
            raise ConnectionLostError(
                f"the device server at {self.host}:{self.port} did not answer {line!r}: {error}."
            ) from None
        if not reply.endswith("\n"):
            self._disconnect()
            raise ConnectionLostError(
                f"the device server at {self.host}:{self.port} closed the connection at {line!r}."
            )
        return reply.rstrip("\r\n")

    def ping(self) -> bool:
        """Whether the server answers."""
        return self.request("PING") == "PONG"

    def get(self, pv: str) -> float:
        """Value of a PV, in the units of the PV table."""
        return float(self.request(f"GET:{pv}"))

    def get_many(self, pvs: Sequence[str]) -> list[float]:
        """Values of several PVs at one moment; detectors share one exposure."""
        return [float(value) for value in self.request(f"MGET:{','.join(pvs)}").split(",")]

    def put(self, pv: str, value: float) -> None:
        """Set a PV; on a motor this starts a move."""
        self.request(f"PUT:{pv}:{float(value)!r}")

    def move(self, motor: str, position: float, *, wait: bool = True, timeout: float = 60) -> None:
        """Move a motor and, by default, wait until it is there.

        Raises
        ------
        MotionError
            If it has not arrived after `timeout` seconds.
        """
        self.request(f"MOVE:{motor}:{float(position)!r}")
        deadline = time.monotonic() + timeout
        while wait and self.moving(motor):
            if time.monotonic() > deadline:
                raise MotionError(
                    f"{motor} has not reached {position} after {timeout:g} s: it stands at "
                    f"{self.get(motor + '.RBV')}."
                )
            time.sleep(0.005)

    def moving(self, motor: str) -> bool:
        """Whether a motor moves."""
        return self.request(f"STATUS:{motor}") == "MOVING"

    def pvs(self, pattern: str = "*") -> list[str]:
        """Names of the PVs that match a shell pattern."""
        names = self.request(f"LIST:{pattern}")
        return names.split(",") if names else []

    def truth(self) -> dict[str, Any]:
        """Everything that the simulation knows: samples, foil positions, unit cell, detector."""
        truth: dict[str, Any] = json.loads(self.request("TRUTH"))
        return truth

    def true_spots(self, frame: int) -> list[tuple[float, float, float]]:
        """Visible Bragg spots of a frame that was taken: (fs, ss) in px, expected photons.

        Parameters
        ----------
        frame
            Its number since the start of the server, from 0.
        """
        _, *spots = self.request(f"TRUTH:AD1:{frame}").split(";")
        return [
            (float(fs), float(ss), float(photons))
            for fs, ss, photons in (spot.split(",") for spot in spots if spot)
        ]

    def close(self) -> None:
        """Say goodbye and close the connection for good."""
        self._closed = True
        try:
            self._socket.sendall(b"QUIT\n")
        except OSError:
            pass  # the server is gone: nothing to say goodbye to
        finally:
            self._disconnect()


def _port_of_environment() -> int:
    text = os.environ.get("DEVICE_PORT", "6064")
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"DEVICE_PORT must be a number, found {text!r}.") from None
