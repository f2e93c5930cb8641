"""Two-time correlation of 64 to 512 frames, 512 × 512, 20 q-bins: seconds of processor time.

The baseline, in the same run and on the first 64 frames, is the published two-time algorithm of
scikit-beam (each new frame with each before it: products of pixels, summed per bin by `bincount`),
written down anew: the package could not be installed here. Ratios are per pair of frames. Run with
``python benchmarks/xpcs_twotime.py``; set ``OPENBLAS_NUM_THREADS=1`` for one core.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time

import numpy as np
from xpcs_multitau import maps

from beamline.xpcs.twotime import MultiTauTwoTime, TwoTime


def published(frames: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return C (bins, n, n), one pair of frames at a time."""
    pixels = np.flatnonzero(labels)
    bins = labels.ravel()[pixels]
    number = int(labels.max()) + 1
    size = np.bincount(bins, minlength=number)[1:]
    c2 = np.zeros((number - 1, len(frames), len(frames)))
    ring = []
    for t, frame in enumerate(frames):
        ring.append(frame.ravel()[pixels].astype(float))
        for lag in range(t + 1):
            past, future = ring[t - lag], ring[t]
            product = np.bincount(bins, past * future, number)[1:]
            earlier = np.bincount(bins, past, number)[1:]
            later = np.bincount(bins, future, number)[1:]
            c2[:, t - lag, t] = size * product / (earlier * later)
    return c2


def main() -> None:
    dynamic, static = maps(512)
    frames = np.random.default_rng(0).poisson(1.0, (64, 512, 512)).astype(np.uint16)
    print(f"load {os.getloadavg()[0]:.1f}")
    used = time.process_time()
    theirs = published(frames, dynamic)
    slow = time.process_time() - used
    upper = np.triu(np.ones((64, 64), dtype=bool))
    for blocks in (1, 2, 4, 8):
        times = []
        for _ in range(5):
            used = time.process_time()
            correlator = TwoTime(dynamic, dynamic, 1e-3)
            for _ in range(blocks):
                correlator.add(frames)
            ours = correlator.result().c2[:, :64, :64]
            times.append(time.process_time() - used)
        assert np.allclose(ours[:, upper], theirs[:, upper], rtol=1e-4)
        n = 64 * blocks
        ratio = slow / (64 * 65) * (n * (n + 1)) / min(times)
        print(f"{n} frames: {min(times):.3f} s, {ratio:.0f} times the baseline of {slow:.2f} s")
    used = time.process_time()
    long = MultiTauTwoTime(dynamic, static, 1e-3)
    long.add(frames)
    long = time.process_time() - used
    print(f"multi-tau two-time {1e3 * long / 64:.1f} ms per frame")


if __name__ == "__main__":
    main()
