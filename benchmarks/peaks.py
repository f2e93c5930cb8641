"""Peak finders: speed on events of many panels, and what they find in simulated stills.

*Events*: 16 panels of 512 x 512 pixels with logits, on one core, beside the reference algorithm
(SciPy's labels, then every label by itself), the plain way (SciPy's graphs) and a pure read of the
logits. Times are of the processor, medians.

*Stills*: frames of a device server of their own. A peak counts as false if no simulated spot is
within 2 px, be it visible or not.

Run with ``python benchmarks/peaks.py [FRAMES]``.
"""

import statistics
import sys
import time
from itertools import cycle
from unittest import mock

import numba
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from beamline.crystallography import event_peaks
from beamline.crystallography.event_peaks import find_event_peaks
from beamline.crystallography.peaks import PeakFinder
from ioc.stills import SimulatedStills

ENERGIES = (8500.0, 9500.0, 11000.0)
EXPOSURES = (0.02, 0.1, 0.5)
PANELS, SIDE = 16, 512


def event(peaks: int, seed: int):
    """Draw an event with that many peaks; logits and images."""
    rng = np.random.default_rng(seed)
    images = rng.poisson(2.0, (PANELS, SIDE, SIDE)).astype(np.float32)
    logits = np.empty((PANELS, 2, SIDE, SIDE), np.float32)
    logits[:, 0] = 2.0 + rng.random((PANELS, SIDE, SIDE))
    logits[:, 1] = -1.0
    ss, fs = np.mgrid[-3:4, -3:4]
    for panel in rng.integers(0, PANELS, peaks):
        row, column = rng.integers(5, SIDE - 5, 2)
        shape = np.exp(-0.5 * (ss**2 + fs**2) / 0.93**2)
        near = (slice(row - 3, row + 4), slice(column - 3, column + 4))
        images[(panel, *near)] += rng.poisson(200 * shape)
        logits[(panel, 1, *near)] = np.where(shape > 0.1, 4.0, -1.0)
    return logits, images


def reference(logits, images):
    """Label every panel, then take one label after the other."""
    found = []
    for panel, image in enumerate(images):
        labels, number = ndimage.label(logits[panel, 1] > logits[panel, 0], np.ones((3, 3)))
        for label in range(1, number + 1):
            ss, fs = np.nonzero(labels == label)
            value = image[ss, fs]
            found.append(
                (panel, np.average(ss, weights=value), np.average(fs, weights=value), value.sum())
            )
    return found


def plain(logits, images):
    with mock.patch.object(event_peaks, "_compiled", return_value=None):
        return find_event_peaks(logits, images)


@numba.njit
def read(logits):
    """Compare the two classes of every pixel, and nothing more."""
    some = 0
    for panel in range(logits.shape[0]):
        for row in range(logits.shape[2]):
            no, yes = logits[panel, 0, row], logits[panel, 1, row]
            lit = False
            for x in range(len(no)):
                lit |= yes[x] > no[x]
            some += lit
    return some


def milliseconds(function, many, repeat: int) -> float:
    times = []
    for _, arguments in zip(range(repeat), cycle(many), strict=False):
        begin = time.process_time()
        function(*arguments)
        times.append(time.process_time() - begin)
    return 1e3 * statistics.median(times)


def events() -> None:
    print(f"events of {PANELS} x {SIDE} x {SIDE}, per core   found   ms    events/s")
    for number in (75, 1200):
        many = [event(number, seed) for seed in range(3)]
        find_event_peaks(*many[0])
        read(many[0][0])
        for name, function, repeat in (
            ("find_event_peaks", find_event_peaks, 40),
            ("the same, plain", plain, 4),
            ("reference", reference, 3),
        ):
            found = len(function(*many[0]))
            took = milliseconds(function, many, repeat)
            print(f"{number:5d} peaks  {name:24s} {found:7d} {took:7.2f} {1e3 / took:8.0f}")
        took = milliseconds(read, [(logits,) for logits, _ in many], 40)
        print(
            f"{number:5d} peaks  {'read of the logits':24s} {'':7s} {took:7.2f} {1e3 / took:8.0f}"
        )


def score(finder: PeakFinder, stills) -> tuple[str, list[float]]:
    spots = found = false = 0
    errors, times = [], []
    for still in stills:
        begin = time.perf_counter()
        peaks = finder(still.image)
        times.append(time.perf_counter() - begin)
        places = np.c_[peaks.fs, peaks.ss]
        spots, found = spots + len(still.spots), found + len(peaks)
        if len(peaks) and len(still.spots):
            distance, nearest = cKDTree(places).query(still.spots[:, :2])
            errors.append((places[nearest] - still.spots[:, :2])[distance < 2.0])
            away, _ = cKDTree(still.all_spots[:, :2]).query(places)
            false += int((away > 2.0).sum())
    error = np.concatenate(errors)
    rms, bias = np.sqrt((error**2).mean()), error.mean(axis=0)
    return (
        f"{spots:6d} {100 * len(error) / spots:8.2f} {100 * false / found:8.2f} "
        f"{rms:9.3f} {bias[0]:+8.4f} {bias[1]:+8.4f}"
    ), times


def simulated_stills(number: int) -> None:
    finder = PeakFinder()
    print("\nenergy exposure  spots  found %  false %  rms (px)  bias fs, ss (px)")
    times: list[float] = []
    for energy in ENERGIES:
        with SimulatedStills(seed=7, energy=energy) as server:
            for exposure in EXPOSURES:
                server.exposure = exposure
                taken = list(server.take(number))
                line, seconds = score(finder, taken)
                times += seconds
                print(f"{energy:6.0f} {exposure:8g} {line}")
    segmentation = milliseconds(finder.segmenter, [(taken[-1].image,)], 20)
    print(f"\npeak finder  {1e3 * statistics.median(times):6.1f} ms per frame of 512 x 512,")
    print(f"segmentation {segmentation:6.1f} ms of that")


if __name__ == "__main__":
    events()
    simulated_stills(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
