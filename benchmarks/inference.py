"""The two models that come with the package: how much they find, how much is false, how fast.

Frames come from device servers with seeds that no training has seen. *Found* is the share of all
simulated spots with a peak within 2 px, *visible* that of the spots whose signal is at least six
times their noise; *false* are peaks farther than 2.5 px from any simulated spot, however weak.
Speed is that of one thread for frames of 512 × 512 pixels, preprocessing included; beside it that
of the whole inference stage. Run with ``python benchmarks/inference.py [FRAMES]`` (per energy and
exposure).
"""

import statistics
import sys
import time
from collections import Counter

import numpy as np
from scipy.spatial import cKDTree

from beamline.crystallography.event_peaks import find_event_peaks
from beamline.streaming.inference import InferenceStage, PipelineInput
from beamline.streaming.models import load_model
from beamline.streaming.preprocessing import Preprocessor
from ioc.stills import SimulatedStills

MODELS = {
    "local-background": {},
    "at 4.5 deviations": {"name": "local-background", "threshold": 4.5},
    "spot-network": {},
}
ENERGIES = (8500.0, 9500.0, 11000.0)
EXPOSURES = (0.001, 0.003, 0.01, 0.1, 0.5)
FIRST_SEED = 9000


def score(stage: InferenceStage, still, total: Counter) -> None:
    item = PipelineInput(still.image[None, None], batch_id="")
    began = time.perf_counter()
    made = stage(item)
    total["seconds"] += time.perf_counter() - began
    peaks = find_event_peaks(made.predictions, made.original_image_ref[:, 0], min_pixels=2)
    total["frames"] += 1
    total["peaks"] += len(peaks)
    total["spots"] += len(still.all_spots)
    total["visible"] += len(still.spots)
    if not len(peaks):
        return
    found = cKDTree(np.c_[peaks.fs, peaks.ss])
    total["found"] += (found.query(still.all_spots[:, :2])[0] < 2.0).sum()
    distance, nearest = found.query(still.spots[:, :2])
    total["seen"] += (distance < 2.0).sum()
    error = found.data[nearest[distance < 2.0]] - still.spots[distance < 2.0, :2]
    total["squares"] += (error**2).sum() / 2
    total["false"] += (cKDTree(still.all_spots[:, :2]).query(found.data)[0] > 2.5).sum()


def line(name: str, exposure: str, t: Counter) -> str:
    found, visible = 100 * t["found"] / t["spots"], 100 * t["seen"] / t["visible"]
    return (
        f"{name:17s} {exposure:>8s} {t['spots']:6d} {found:8.2f} {visible:9.2f} {t['false']:6d} "
        f"{100 * t['false'] / t['peaks']:8.3f} {np.sqrt(t['squares'] / t['seen']):9.3f}"
    )


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    stages = {
        name: InferenceStage(load_model(**{"name": name, **options}), Preprocessor())
        for name, options in MODELS.items()
    }
    totals = {(name, exposure): Counter() for name in MODELS for exposure in EXPOSURES}
    taken = []
    for i, energy in enumerate(ENERGIES):
        with SimulatedStills(seed=FIRST_SEED + i, energy=energy) as simulated:
            for exposure in EXPOSURES:
                simulated.exposure = exposure
                for still in simulated.take(number):
                    taken.append(still.image)
                    for name, stage in stages.items():
                        score(stage, still, totals[name, exposure])
    print("model             exposure  spots  found %  visible %  false  false %  rms (px)")
    for name in MODELS:
        for exposure in EXPOSURES:
            print(line(name, f"{exposure:g} s", totals[name, exposure]))
        print(line(name, "all", sum((totals[name, e] for e in EXPOSURES), Counter())))
    print("\nmodel             ms per frame  frames/s per core")
    frames = taken[:: max(1, len(taken) // 20)]
    for name, stage in stages.items():
        times = []
        for image in frames * 2:
            began = time.thread_time()
            stage(PipelineInput(image[None, None], batch_id=""))
            times.append(time.thread_time() - began)
        seconds = statistics.median(times)
        print(f"{name:17s} {1e3 * seconds:12.1f} {1 / seconds:18.1f}")


if __name__ == "__main__":
    main()
