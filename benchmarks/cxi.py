"""Writing of CXI files beside plain h5py, on frames of the simulated detector.

Frames are stacks of 16 panels of 352 x 384 pixels (8.7 MB as float32) whose panels are stills of a
device server: Poisson counts, never zeros. Rates are MB of frames per second of processor time and
of wall time, to a folder in memory, so that the disk does not count. Run with
``python benchmarks/cxi.py [FRAMES]``.
"""

import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from beamline.crystallography.cxi import CXIEvent, CXIFile
from beamline.crystallography.event_peaks import find_event_peaks
from beamline.crystallography.geometry import Detector, Panel
from beamline.crystallography.segmentation import LocalThreshold
from ioc.stills import SimulatedStills

PANELS, HEIGHT, WIDTH = 16, 352, 384


def geometry(gap: int) -> Detector:
    """Panels below each other, or in two columns with a gap: then every frame is rearranged."""
    columns = 2 if gap else 1
    panels = [
        Panel(
            name=f"p{n}",
            origin=(n // columns * (HEIGHT + gap), n % columns * (WIDTH + gap)),
            shape=(HEIGHT, WIDTH),
            corner=(500.0 * (n % 4), 400.0 * (n // 4), 0.0),
            fs=(1.0, 0.0, 0.0),
            ss=(0.0, 1.0, 0.0),
            pitch_m=1e-4,
            unit=n,
        )
        for n in range(PANELS)
    ]
    shape = tuple(max(p.origin[axis] + p.shape[axis] for p in panels) for axis in (0, 1))
    return Detector(shape, 0.1, (1e-4, 1e-4), None, panels=tuple(panels))


def stacks(number: int):
    """Take stacks and their peaks."""
    segment, made = LocalThreshold(), []
    settings = {"detector_nx": WIDTH, "detector_ny": HEIGHT}
    with SimulatedStills(seed=5, settings=settings) as server:
        stills = [still.image for still in server.take(PANELS + number)]
    for first in range(number):
        stack = np.stack(stills[first : first + PANELS]).astype(np.float32)
        logits = np.zeros((PANELS, 2, HEIGHT, WIDTH), np.float32)
        for panel, image in zip(logits, stack, strict=True):
            panel[1] = segment(image)
        made.append((stack, find_event_peaks(logits, stack)))
    return made


def ours(path: Path, made, number: int, detector: Detector, compression: str) -> None:
    file = CXIFile(
        path, detector=detector, dtype=np.float32, max_num_peak=2048, compression=compression
    )
    for event in range(number):
        stack, peaks = made[event % len(made)]
        file.append(CXIEvent(stack, peaks, 9500.0, event, "run", "batch", event, 0.1))
        file.flush_if_due()
    file.close(end_time="", exit_status="success")


def plain(path: Path, made, number: int, filters) -> None:
    shape = (PANELS * HEIGHT, WIDTH)
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        data = file.create_dataset(
            "data", (0, *shape), np.float32, maxshape=(None, *shape), chunks=(1, *shape), **filters
        )
        for event in range(number):
            if event % 16 == 0:
                data.resize(min(event + 16, number), axis=0)
            data[event] = made[event % len(made)][0].reshape(shape)
        file.flush()


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    made = stacks(4)
    pile, spread = geometry(0), geometry(6)
    zlib = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    memory = Path("/dev/shm")
    cases = {
        "h5py, plain chunks": (plain, {}),
        "CXIFile, none": (ours, pile, "none"),
        "CXIFile, none, panels rearranged": (ours, spread, "none"),
        "h5py, gzip 1 + shuffle": (plain, zlib),
        "CXIFile, gzip": (ours, pile, "gzip"),
        "CXIFile, gzip, panels rearranged": (ours, spread, "gzip"),
        "CXIFile, bitshuffle": (ours, pile, "bitshuffle"),
    }
    print(f"{'':34s} MB/s of one core   MB/s   % of the size")
    best: dict[str, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / "a.cxi"
        for _ in range(3):
            for name, (write, *options) in cases.items():
                events = number // 8 if options[-1] is zlib else number
                size = events * made[0][0].nbytes / 1e6
                wall, processor = time.perf_counter(), time.process_time()
                write(path, made, events, *options)
                processor, wall = time.process_time() - processor, time.perf_counter() - wall
                found = (size / processor, size / wall, path.stat().st_size / size / 1e4)
                best[name] = max(best.get(name, found), found)
                path.unlink()
    for name, (core, rate, share) in best.items():
        print(f"{name:34s} {core:16.0f} {rate:6.0f} {share:15.1f}")


if __name__ == "__main__":
    main()
