"""Multi-tau correlation: frames per second of processor time, one core.

512 × 512 with 0.01 photons/pixel, as photons and as dense frames, and 1024 × 1024 with 1 and 10;
20 q-bins, 8 levels, masks applied, results equal to the reference's (checked in the tests). The
baseline, in the same run, is the published multi-tau algorithm of scikit-beam (one frame at a time,
a ring of 8 per level, sums per bin by `bincount`), written down anew: the package could not be
installed here. Seconds are those of the process, so that a busy machine disturbs less; the caches
are shared all the same. Run with ``python benchmarks/xpcs_multitau.py [FRAMES]``.
"""

import os
import sys
import time

import numpy as np

from beamline.xpcs.multitau import MultiTau


def maps(side: int) -> tuple[np.ndarray, np.ndarray]:
    ss, fs = np.indices((side, side))
    radius = np.hypot(ss - side / 2, fs - side / 2)
    static = np.minimum((radius / (0.7072 * side) * 100).astype(int), 99) + 1
    static[: side // 64] = 0
    return np.where(static > 0, (static - 1) // 5 + 1, 0), static


class Published:
    """What scikit-beam's `multi_tau_auto_corr` does, for one list of bins."""

    def __init__(self, labels: np.ndarray, levels: int = 8) -> None:
        self.pixels = np.flatnonzero(labels)
        self.labels = labels.ravel()[self.pixels]
        self.bins = int(labels.max()) + 1
        self.ring = np.zeros((levels, 8, len(self.pixels)))
        self.count = np.zeros(levels, int)
        self.sums = np.zeros((levels, 9, 3, self.bins))

    def add(self, frame: np.ndarray) -> None:
        self._take(0, frame.ravel()[self.pixels].astype(float))

    def _take(self, level: int, frame: np.ndarray) -> None:
        self.ring[level, self.count[level] % 8] = frame
        for lag in range(0 if level == 0 else 4, 8):
            if lag <= self.count[level]:
                past = self.ring[level, (self.count[level] - lag) % 8]
                for row, values in enumerate((past * frame, past, frame)):
                    self.sums[level, lag, row] += np.bincount(self.labels, values, self.bins)
        self.count[level] += 1
        if self.count[level] % 2 == 0 and level + 1 < len(self.ring):
            before = self.ring[level, (self.count[level] - 2) % 8]
            self._take(level + 1, (before + frame) / 2)


def take(add, block) -> int:
    """Give a block of frames, one frame, or photons; return the number of frames."""
    if isinstance(block, tuple):
        add(*block)
        return len(block[1])
    add(block)
    return 1 if block.ndim == 2 else len(block)


def rate(add, blocks: list, seconds: float, least: int = 1) -> float:
    """Frames per second of processor time: the best of several rounds of `least` frames or more."""
    best, begin = 0.0, time.perf_counter()
    while time.perf_counter() - begin < seconds or not best:
        used, n = time.process_time(), 0
        while n < least:
            n += sum(take(add, block) for block in blocks)
        best = max(best, n / (time.process_time() - used))
    return best


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    rng = np.random.default_rng(0)
    print(f"load {os.getloadavg()[0]:.1f}")
    print("side photons/px given as         frames/s  baseline  ratio  state MB  result ms")
    for side, mean in ((512, 0.01), (512, 1.0), (1024, 1.0), (1024, 10.0)):
        partition = maps(side)
        frames = rng.poisson(mean, (number, side, side)).astype(np.uint16)
        flat = frames.reshape(number, -1)
        slow = rate(Published(partition[0]).add, list(frames[:16]), 2.0)
        lists = [np.repeat(np.arange(side * side, dtype=np.uint32), f) for f in flat]
        first = np.cumsum([0] + [len(own) for own in lists])[:-1]
        ways = {
            "blocks": [frames],
            "single frames": list(frames),
        }
        if mean < 0.1:
            ways["photons"] = [(np.concatenate(lists), first)]
        for name, blocks in ways.items():
            ours = MultiTau(*partition, 1e-3)

            add = ours.add_events if name == "photons" else ours.add
            for block in blocks:
                take(add, block)
            ours.result()
            # Frames wait until some are worth a call: rounds are much longer than that.
            fast = rate(add, blocks, 6.0, 1280)
            used = time.process_time()
            ours.result()
            used = time.process_time() - used
            print(
                f"{side:4d} {mean:10g} {name:14s} {fast:9.0f} {slow:9.1f} {fast / slow:6.0f} "
                f"{ours.nbytes / 1e6:9.0f} {1e3 * used:10.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
