"""Frames per second from the device server to the file, and puts while the image streams.

Preloaded frames, so that drawing them is no limit; every frame must be in the file. Without the
image (``--no-image``) the puts have their baseline::

    python benchmarks/frames.py [--no-image] [512 1024 2048]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from beamline.core.epics import client_environment
from beamline.core.processes import Child, free_port
from ioc.simulator import start_device_server

SECONDS = 6.0
IOC = [sys.executable, "-m", "ioc", "--exit-with-parent"]


def measure(size: int, folder: Path, port: int) -> None:
    """Print the rate of square frames of that size, and the latency of puts during it."""
    import epics

    def pv(name: str) -> epics.PV:
        channel = epics.PV(f"BL02:{name}", auto_monitor=True)
        if not channel.wait_for_connection(10):
            raise SystemExit(f"{name} is not connected")
        return channel

    images = []
    prefix = "AD1:HDF1:"
    for name, value in (
        ("SHUTTER:CMD", 1), ("AD1:cam1:AcquireTime", 1e-4), ("AD1:cam1:AcquirePeriod", 0.0),
        ("AD1:cam1:Preload", 8), ("AD1:cam1:ImageMode", 2), (f"{prefix}FilePath", str(folder)),
        (f"{prefix}FileName", f"frames_{size}_{port}"), (f"{prefix}NumCapture", 0),
        ("AD1:image1:EnableCallbacks", int("--no-image" not in sys.argv)), (f"{prefix}Capture", 1),
    ):  # fmt: skip
        pv(name).put(value, wait=True, timeout=20)
    pv("AD1:image1:ArrayData").add_callback(lambda **_: images.append(1))
    captured, dropped = pv(f"{prefix}NumCaptured_RBV"), pv(f"{prefix}DroppedArrays_RBV")
    pv("AD1:cam1:Acquire").put(1, wait=False)
    while captured.get(use_monitor=False) < 16:
        time.sleep(0.05)
    count, start, latencies = captured.get(use_monitor=False), time.monotonic(), []
    setting = pv("AD1:HDF1:NumFramesFlush")
    images.clear()
    while time.monotonic() < start + SECONDS:
        before = time.perf_counter()
        setting.put(0, wait=True)
        latencies.append(1e3 * (time.perf_counter() - before))
        time.sleep(0.01)
    rate = (captured.get(use_monitor=False) - count) / (time.monotonic() - start)
    pv("AD1:cam1:Acquire").put(0, wait=True, timeout=20)
    pv(f"{prefix}Capture").put(0, wait=True, timeout=60)
    latencies.sort()
    print(
        f"{size} x {size}: {rate:.0f} frames/s, {rate * 2 * size * size / 1e6:.0f} MB/s, "
        f"{dropped.get(use_monitor=False)} dropped of {captured.get(use_monitor=False)}; "
        f"{len(images) / SECONDS:.1f} images/s; puts p50 {statistics.median(latencies):.2f} ms, "
        f"p99 {latencies[int(0.99 * len(latencies))]:.2f} ms",
        flush=True,
    )
    os._exit(0)


def main() -> None:
    """Measure the sizes given, each with a beamline and a client of its own."""
    sizes = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    for size in sizes or (512, 1024, 2048):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = folder / "server.conf"
            config.write_text(f"detector_nx = {size}\ndetector_ny = {size}\n")
            server = start_device_server(log=folder / "server.log", config=config, time_scale=50.0)
            port = free_port()
            address = f"127.0.0.1:{server.info['port']}"
            ioc = Child(
                "the IOC", [*IOC, "--server", address, "--port", str(port)], log=folder / "ioc.log"
            )
            os.environ.update(client_environment(port))
            child = os.fork()
            if child == 0:
                measure(size, folder, port)
            os.waitpid(child, 0)
            ioc.stop()
            server.stop()


if __name__ == "__main__":
    main()
