"""Frames per second from the device server through the IOC's file writer to the disk.

For each size: frames that the server has drawn before (so that drawing does not count), frames
drawn freshly, and, as the baseline, the same frames written by plain h5py in one process, a chunk
each. Exposures take no time (1 µs). Run with ``python benchmarks/frames.py [ROUNDS]``.
"""

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import h5py

from beamline.core.epics import client_environment
from beamline.core.processes import Child, free_port
from ioc.simulator import start_device_server

SIZES = (512, 1024, 2048)
#: Pixels of one measurement, 256 MiB.
PIXELS = 128 << 20
PRELOADED = 8


class Detector:
    """The area detector of a device server and an IOC of its own."""

    def __init__(self, size: int, folder: Path) -> None:
        config = folder / "config"
        config.write_text(f"detector_nx = {size}\ndetector_ny = {size}\n")
        self.folder = folder
        self.server = start_device_server(
            log=folder / "server.log", time_scale=100.0, config=config, prefix=f"B{size}:"
        )
        self.port = free_port()
        self.prefix = f"B{size}:"
        self.ioc = Child(
            "the IOC",
            [*(sys.executable, "-m", "ioc", "--exit-with-parent", "--prefix", self.prefix),
             *("--server", f"127.0.0.1:{self.server.info['port']}", "--port", str(self.port))],
            log=folder / "ioc.log",
        )  # fmt: skip
        self.tell(f"PUT:{self.prefix}SHUTTER:CMD:1")

    def tell(self, command: str) -> None:
        """Send a command past the IOC."""
        address = self.server.info["host"], int(self.server.info["port"])
        with socket.create_connection(address) as tcp:
            tcp.sendall(f"{command}\n".encode())
            assert tcp.recv(64).startswith(b"OK:"), command

    def preload(self, frames: int) -> None:
        self.tell(f"PUT:{self.prefix}AD1:PRELOAD:{frames}")

    def put(self, name: str, value) -> None:
        import epics

        pv = epics.get_pv(f"{self.prefix}AD1:{name}", connect=True, timeout=20)
        assert pv.put(value, wait=True, timeout=300) == 1, name

    def get(self, name: str, **options):
        import epics

        return epics.caget(f"{self.prefix}AD1:{name}", timeout=20, use_monitor=False, **options)

    def take(self, frames: int, name: str) -> tuple[float, Path]:
        """Take frames into a file; seconds from the put to its completion, and the file."""
        for field, value in {
            "cam1:AcquireTime": 1e-4, "cam1:AcquirePeriod": 0.0, "cam1:ImageMode": "Multiple",
            "cam1:NumImages": frames, "HDF1:FilePath": str(self.folder), "HDF1:FileName": name,
            "HDF1:NumCapture": 0, "HDF1:Capture": 1,
        }.items():  # fmt: skip
            self.put(field, value)
        path = Path(self.get("HDF1:FullFileName_RBV", as_string=True))
        start = time.perf_counter()
        self.put("cam1:Acquire", 1)
        self.put("HDF1:Capture", 0)
        took = time.perf_counter() - start
        with h5py.File(path) as file:
            written = file["entry/data/data"].shape[0]
        dropped = self.get("HDF1:DroppedArrays_RBV")
        assert (written, dropped) == (frames, 0), f"{written} of {frames} written, {dropped} lost"
        return took, path

    def stop(self) -> None:
        self.ioc.stop()
        self.server.stop()


def write_plainly(source: Path, target: Path) -> float:
    """Seconds to write the frames of a file again, one chunk each."""
    with h5py.File(source) as file:
        frames = file["entry/data/data"][:PRELOADED]
        total = file["entry/data/data"].shape[0]
    start = time.perf_counter()
    with h5py.File(target, "w") as file:
        data = file.create_dataset(
            "data", (0, *frames[0].shape), maxshape=(None, *frames[0].shape), dtype=frames.dtype,
            chunks=(1, *frames[0].shape),
        )  # fmt: skip
        for number in range(total):
            data.resize(number + 1, axis=0)
            data.id.write_direct_chunk((number, 0, 0), frames[number % len(frames)])
            file.flush()
    return time.perf_counter() - start


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        detectors = {}
        try:
            for size in SIZES:
                (place := Path(folder) / str(size)).mkdir()
                detectors[size] = Detector(size, place)
            os.environ.update(client_environment(detectors[SIZES[0]].port))
            os.environ["EPICS_CA_ADDR_LIST"] = " ".join(
                f"127.0.0.1:{detector.port}" for detector in detectors.values()
            )
            for number in range(rounds):
                print(f"\nround {number + 1}, load average {os.getloadavg()[0]:.1f}")
                for size, detector in detectors.items():
                    measure(size, detector)
        finally:
            for detector in detectors.values():
                detector.stop()


def measure(size: int, detector: Detector) -> None:
    frames = PIXELS // size**2
    fresh = max(frames // 8, PRELOADED)
    detector.preload(0)
    slow, path = detector.take(fresh, "fresh")
    path.unlink()
    detector.preload(PRELOADED)
    _, path = detector.take(PRELOADED, "drawn")
    path.unlink()
    fast, path = detector.take(frames, "preloaded")
    plain = write_plainly(path, path.with_name("plain.h5"))
    path.unlink()
    path.with_name("plain.h5").unlink()
    print(
        f"{size:4d} x {size:4d}: preloaded {frames / fast:6.0f} frames/s "
        f"({frames * size**2 * 2e-6 / fast:5.0f} MB/s, 0 lost), fresh stills {fresh / slow:6.0f} "
        f"frames/s; plain h5py {frames / plain:6.0f} frames/s, ratio {plain / fast:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
