"""Frames per second of the simulated area detector, by mode and size, through its protocol.

The server runs 1000 times faster than real time, so that exposures take no time, and one client
reads frames and throws them away. For each case: frames per second of wall time, processor time of
the server per frame (drawing, and copying to the socket), photons per pixel. The last case repeats
preloaded frames: what the transport alone can do. Run with
``python benchmarks/detector_frames.py [SIDE ...]`` (512 1024 2048).
"""

import contextlib
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from ioc.simulator import start_device_server

SECONDS = 3.0

#: Name, AD1:MODE, AD1:SPARSE, AD1:PRELOAD, attenuator (exposures are 1 ms).
CASES = (
    ("still", 0, 0, 0, 1.0),
    ("saxs", 1, 0, 0, 1.0),
    ("saxs, events", 1, 1, 0, 0.006),
    ("speckle", 2, 0, 0, 1.0),
    ("speckle, sparse, dense frames", 2, 0, 0, 0.006),
    ("speckle, sparse, events", 2, 1, 0, 0.006),
    ("preloaded", 2, 0, 16, 1.0),
)


class Line:
    """A connection to the device server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.stream = self.socket.makefile("rb", buffering=1 << 20)

    def ask(self, line: str) -> str:
        self.socket.sendall(line.encode() + b"\n")
        reply = self.stream.readline().decode().strip()
        if not reply.startswith("OK"):
            raise RuntimeError(f"{line} was answered with {reply}")
        return reply[3:]

    def frame(self) -> tuple[str, bytes]:
        fields = self.stream.readline().decode().split(",")
        return fields[2], self.stream.read(int(fields[4]))

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    control: Line, frames: Line, pid: int, side: int, case: tuple[str, int, int, int, float]
) -> None:
    name, mode, sparse, preload, attenuator = case
    for pv, value in (("MODE", mode), ("SPARSE", sparse), ("PRELOAD", preload)):
        control.ask(f"PUT:BL02:AD1:{pv}:{value}")
    control.ask(f"PUT:BL02:ATTEN:FACTOR:{attenuator}")
    control.ask("ACQUIRE:1000000")
    for _ in range(max(5, preload + 1)):
        frames.frame()
    count, photons, begun, used = 0, 0.0, time.perf_counter(), processor_time(pid)
    while time.perf_counter() - begun < SECONDS:
        dtype, pixels = frames.frame()
        count += 1
        if dtype == "events":
            photons += len(pixels) / 4
    elapsed, used = time.perf_counter() - begun, processor_time(pid) - used
    per_pixel = f"{photons / count / side**2:.4f}" if photons else "-"
    print(
        f"{side:5d}²  {name:30s} {count / elapsed:8.1f} frames/s  "
        f"{1e3 * used / count:7.2f} ms of processor per frame  {per_pixel} photons per pixel"
    )


def main() -> None:
    for side in [int(text) for text in sys.argv[1:]] or [512, 1024, 2048]:
        with tempfile.TemporaryDirectory() as directory:
            settings = Path(directory) / "sim.conf"
            settings.write_text(f"detector_nx={side}\ndetector_ny={side}\nframe_queue=2\n")
            with start_device_server(
                log=Path(directory) / "log", time_scale=1000, config=settings
            ) as server:
                port = int(server.info["port"])
                with contextlib.closing(Line(port)) as control:
                    control.ask("PUT:BL02:SHUTTER:CMD:1")
                    control.ask("PUT:BL02:AD1:EXPOSURE:0.001")
                    for case in CASES:
                        with contextlib.closing(Line(port)) as frames:
                            frames.ask("FRAMES")
                            measure(control, frames, server.pid, side, case)
                        # Without its consumer the acquisition ends.
                        while control.ask("GET:BL02:AD1:ACQUIRING") == "1":
                            time.sleep(0.01)


if __name__ == "__main__":
    main()
