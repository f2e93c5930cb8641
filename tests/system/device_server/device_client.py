"""Clients of the device server's line protocol, and what its tests share."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

TIME_SCALE = 20.0


class Client:
    """A plain client of the line protocol."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def reset(self) -> None:
        """Close with RST, as a crashed client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> str:
        raw = self.stream.readline()
        if not raw:
            raise ConnectionError("the server has closed the connection")
        assert raw.endswith(b"\n")
        return raw[:-1].decode("ascii")

    def ask(self, line: str) -> str:
        self.send(line.encode("ascii") + b"\n")
        return self.line()

    def get(self, pv: str) -> float:
        reply = self.ask(f"GET:BL02:{pv}")
        assert reply.startswith("OK:"), reply
        return float(reply[3:])

    def do(self, line: str) -> None:
        reply = self.ask(line)
        assert reply.startswith("OK:"), f"{line}: {reply}"

    def move(self, motor: str, position: float) -> None:
        self.do(f"MOVE:BL02:{motor}:{position!r}")
        wait(lambda: self.get(f"{motor}.DMOV") == 1)

    def counts(self) -> dict[str, float]:
        names = ["I0", "IT", "IF", "IR", "XRD"]
        reply = self.ask("MGET:" + ",".join(f"BL02:DET:{name}" for name in names))
        assert reply.startswith("OK:"), reply
        return dict(zip(names, map(float, reply[3:].split(",")), strict=True))

    def truth(self) -> dict[str, Any]:
        reply = self.ask("TRUTH")
        assert reply.startswith("OK:{")
        return json.loads(reply[3:])

    def open_shutter(self) -> None:
        self.do("PUT:BL02:SHUTTER:CMD:1")
        wait(lambda: self.get("SHUTTER:STATUS") == 1)


class Subscriber(Client):
    """A client that follows the server's updates."""

    def __init__(self, port: int, glob: str = "BL02:*", interval_ms: int = 20) -> None:
        super().__init__(port)
        count, _, names = self.ask(f"SUBSCRIBE:{glob}:{interval_ms}")[3:].partition(";")
        self.names = names.split(",")
        assert len(self.names) == int(count)
        self.values: dict[str, str] = {}
        self.stamp = 0.0
        assert set(self.update()) == set(self.names)

    def update(self) -> dict[str, str]:
        kind, stamp, body = self.line().split(":", 2)
        assert kind == "UPD"
        assert re.fullmatch(r"\d+\.\d{6}", stamp)
        assert float(stamp) >= self.stamp
        self.stamp = float(stamp)
        pairs = (item.split("=", 1) for item in body.split(","))
        new = {self.names[int(index)]: value for index, value in pairs}
        self.values.update(new)
        return new

    def until(self, pv: str, value: str) -> dict[str, str]:
        while True:
            new = self.update()
            if new.get(f"BL02:{pv}") == value:
                return new


class FrameClient(Client):
    """The consumer of the detector's frames."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        assert self.ask("FRAMES") == "OK:FRAMES"

    def frame(self) -> tuple[dict[str, float], np.ndarray]:
        """A frame as an image; events are added up."""
        header, dtype, shape, raw = self.raw_frame()
        if dtype == "events":
            events = np.frombuffer(raw, "<u4")
            assert (np.diff(events.astype(np.int64)) >= 0).all()
            return header, np.bincount(events, minlength=math.prod(shape)).reshape(shape)
        return header, np.frombuffer(raw, "<u2").reshape(shape)

    def raw_frame(self) -> tuple[dict[str, float], str, tuple[int, ...], bytes]:
        header = self.line()
        match = re.fullmatch(
            r"FRAME:(?P<number>\d+):(?P<index>\d+),(?P<time>[\d.]+),(uint16|events),([\dx]+),"
            r"(?P<nbytes>\d+),(?P<energy>[\d.e+]+),(?P<exposure>[\d.e+-]+)",
            header,
        )
        assert match is not None, header
        values = {key: float(value) for key, value in match.groupdict().items()}
        raw = self.stream.read(int(values["nbytes"]))
        return values, match[4], tuple(map(int, match[5].split("x"))), raw


def wait(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
