"""Peak finder against the truth of the simulated stills: recall, false peaks, positions, speed.

Frames come from a device server of its own. A peak counts as false if no *visible* simulated spot
is within 2 px; most of those are real spots below the visibility limit. Times are per frame of
512 × 512 pixels, in one thread. Run with ``python benchmarks/peaks.py [FRAMES]``.
"""

import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from beamline.crystallography.cxi import CXIEvent, CXIFile
from beamline.crystallography.geometry import Detector
from beamline.crystallography.peaks import PeakFinder, measure_peaks
from beamline.daq import DeviceClient
from ioc.samples import write_table
from ioc.simulator import start_device_server

ENERGIES = (8500.0, 9500.0, 11000.0)
EXPOSURES = (0.02, 0.1, 0.5)


class FrameStream:
    """The frame consumer of a device server."""

    def __init__(self, client: DeviceClient, port: int) -> None:
        self.client = client
        self.stream = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
        self.stream.write(b"FRAMES\n")
        self.stream.flush()
        assert self.stream.readline() == b"OK:FRAMES\n"

    def frames(self, number: int):
        """Take frames; yield each with its number."""
        assert self.client.request(f"ACQUIRE:{number}") is not None
        for _ in range(number):
            header = self.stream.readline().decode().strip()
            _, which, rest = header.split(":", 2)
            _, _, _, ny, nx, nbytes, *_ = rest.split(",")
            pixels = np.frombuffer(self.stream.read(int(nbytes)), "<u2")
            yield int(which), pixels.reshape(int(ny), int(nx))


def score(finder: PeakFinder, client: DeviceClient, frames) -> tuple[str, list[float]]:
    spots = found = 0
    errors, times = [], []
    for number, image in frames:
        begin = time.perf_counter()
        peaks = finder(image)
        times.append(time.perf_counter() - begin)
        truth = np.array(client.true_spots(number)).reshape(-1, 3)[:, :2]
        spots, found = spots + len(truth), found + len(peaks)
        if len(peaks) and len(truth):
            distance, nearest = cKDTree(np.c_[peaks.fs, peaks.ss]).query(truth)
            close = distance < 2.0
            errors.append(np.c_[peaks.fs, peaks.ss][nearest[close]] - truth[close])
    error = np.concatenate(errors)
    rms, bias = np.sqrt((error**2).mean()), error.mean(axis=0)
    return (
        f"{spots:6d} {100 * len(error) / spots:8.2f} {100 * (found - len(error)) / found:8.2f} "
        f"{rms:9.3f} {bias[0]:+7.3f} {bias[1]:+7.3f}"
    ), times


def milliseconds(function, *args, repeat: int = 20) -> float:
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    finder = PeakFinder()
    with tempfile.TemporaryDirectory() as folder:
        table = write_table("Cu", Path(folder), thickness_um=None)
        server = start_device_server(
            log=Path(folder) / "log", time_scale=1000.0, samples=[table], seed=7
        )
        with server, DeviceClient("127.0.0.1", int(server.info["port"])) as client:
            detector = FrameStream(client, int(server.info["port"]))
            client.put("BL02:SHUTTER:CMD", 1)
            time.sleep(0.1)
            print("energy exposure  spots  found %  false %  rms (px)  bias fs, ss (px)")
            times: list[float] = []
            for energy in ENERGIES:
                client.move("BL02:MONO:ENERGY", energy)
                for exposure in EXPOSURES:
                    client.put("BL02:AD1:EXPOSURE", exposure)
                    taken = list(detector.frames(number))
                    line, seconds = score(finder, client, taken)
                    times += seconds
                    print(f"{energy:6.0f} {exposure:8g} {line}")
            image = taken[-1][1]
    mask = finder.segmenter(image) > 0
    print(f"\npeak finder  {1e3 * statistics.median(times):6.1f} ms per frame, of that")
    print(f"segmentation {milliseconds(finder.segmenter, image):6.1f} ms")
    print(f"measurement  {milliseconds(measure_peaks, image, mask):6.1f} ms")
    print(f"CXI file     {cxi(image, finder(image)):6.1f} ms (uncompressed, flushed, synced)")


def cxi(image, peaks, number: int = 200) -> float:
    geometry = Detector(image.shape, 0.1, (150e-6, 150e-6), (256.0, 256.0))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        file = CXIFile(
            Path(folder) / "a.cxi", detector=geometry, dtype=image.dtype, max_num_peak=1024
        )
        for event in range(number):
            file.append(CXIEvent(image, peaks, 9500.0, 0, "run", "primary", event, 0.1))
            file.flush_if_due()
        file.close(end_time="", exit_status="success")
        return 1e3 * (time.perf_counter() - begin) / number


if __name__ == "__main__":
    main()
