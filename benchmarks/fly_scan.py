"""Points per second of a fly scan, from the device server into documents.

Each round runs, in turn,

- bluesky alone: a flyer that has 200,000 points at hand, with pages of as many rows and columns,
  validated as bluesky does and as this project does;
- a fly scan of 200,000 points at 25 µs per point (40,000 points/s by the server's clock), with
  nobody who takes the documents, and with the NeXus writer.

Run with ``python benchmarks/fly_scan.py [ROUNDS]``.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from beamline.core.config import load_settings
from beamline.simulation import Simulation, apply_client_environment

POINTS, DWELL = 200_000, 25e-6
#: bluesky's own validation is so slow that fewer points tell enough.
FEW = 20_000
PAGE = 10_000
KEYS = ("sample_x", "mono_energy", "i0", "itrans", "ifluor", "irefer", "idiffr", "exposure")


class Meter:
    """Runs plans and keeps the points per second, from kickoff to the last page, by name."""

    def __init__(self, run_engine) -> None:
        self.run_engine = run_engine
        self.found: dict[str, list[float]] = {}

    def __call__(self, name, plan, *consumers) -> None:
        pages, began = [], []

        def note(kind, doc):
            if kind == "event_page":
                pages.append((time.monotonic(), len(doc["seq_num"])))

        def hook(message):
            if message.command == "kickoff":
                began.append(time.monotonic())

        self.run_engine.msg_hook = hook
        tokens = [self.run_engine.subscribe(consumer) for consumer in (*consumers, note)]
        self.run_engine(plan)
        for token in tokens:
            self.run_engine.unsubscribe(token)
        points = sum(rows for _, rows in pages)
        seconds = pages[-1][0] - began[0]
        self.found.setdefault(name, []).append(points / seconds)
        print(f"{name:44s} {points:7d} points in {seconds:6.2f} s: {points / seconds:8.0f}/s")

    def summary(self) -> None:
        print("\nmedian of rounds")
        for name, rates in self.found.items():
            print(f"{name:44s} {statistics.median(rates):8.0f} points/s")


class PointsAtHand:
    """A flyer that is at its end at once."""

    name, parent = "points_at_hand", None

    def __init__(self, points: int) -> None:
        self.left = points

    def kickoff(self):
        from ophyd.sim import NullStatus

        return NullStatus()

    complete = kickoff

    def describe_collect(self):
        key = {"source": "none", "dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": ""}
        return {"primary": {name: dict(key) for name in KEYS}}

    def collect_pages(self):
        values = [float(number) for number in range(PAGE)]
        while self.left:
            self.left -= PAGE
            yield {
                "data": {name: list(values) for name in KEYS},
                "timestamps": dict.fromkeys(KEYS, values),
                "time": values,
            }


def compare(rounds: int, folder: str) -> None:
    import bluesky.plans as bp
    from bluesky import RunEngine

    from beamline.documents.validation import quick_validation
    from beamline.plans import fly_scan
    from callbacks.nexus import NeXusWriter
    from devices import Beamline

    bl = Beamline("BL02:").connect(timeout=60)
    measure = Meter(RunEngine({}))
    for number in range(rounds):
        print(f"\nround {number + 1}")
        measure("bluesky alone, its validation", bp.fly([PointsAtHand(FEW)]))
        with quick_validation():
            measure("bluesky alone, ours", bp.fly([PointsAtHand(POINTS)]))
        scan = (bl.sample.x, -100, 100, POINTS)
        measure("fly_scan, 40,000/s by the clock", fly_scan(*scan, dwell=DWELL))
        writer = NeXusWriter(Path(folder) / f"nexus{number}")
        measure("the same with a NeXus file", fly_scan(*scan, dwell=DWELL), writer)
    measure.summary()
    bl.destroy()


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(environment={}, device_port=0, ioc_port=0)
        simulation = Simulation(settings, Path(folder))
        try:
            apply_client_environment(simulation.environment)
            compare(rounds, folder)
        finally:
            simulation.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
