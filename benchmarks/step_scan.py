"""Points per second of a step scan through RunEngine, ophyd, EPICS and the device server.

Steps of 0.01 µm and exposures of 1 ms at 50 × real time: motion and counting take less than
0.2 ms of a point. Run with ``python benchmarks/step_scan.py``.
"""

import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from beamline.core.config import load_settings
from beamline.simulation import Simulation, apply_client_environment

POINTS = 500


def measure(run_engine, plan, readback) -> str:
    times, stale = [], 0

    def note(_name, doc):
        nonlocal stale
        if readback in doc["data"] and "i0" in doc["data"]:
            times.append(doc["time"])
            wanted = doc["data"][f"{readback}_user_setpoint"]
            stale += abs(doc["data"][readback] - wanted) > 0.005

    token = run_engine.subscribe(note, "event")
    run_engine(plan)
    run_engine.unsubscribe(token)
    steps = sorted(later - earlier for earlier, later in pairwise(times))
    rate = len(steps) / (times[-1] - times[0])
    return (
        f"{rate:6.0f} points/s, median {1e3 * statistics.median(steps):.2f} ms, "
        f"95 % within {1e3 * steps[int(0.95 * len(steps))]:.2f} ms, stale readings: {stale}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(environment={}, device_port=0, ioc_port=0, time_scale=50.0)
        simulation = Simulation(settings, Path(folder))
        try:
            apply_client_environment(simulation.environment)
            compare()
        finally:
            simulation.stop()


def compare() -> None:
    import bluesky.plans as bp
    from bluesky import RunEngine
    from ophyd import EpicsMotor

    from beamline.plans import linear_scan
    from devices import Beamline

    bl = Beamline("BL02:").connect(timeout=20)
    stock = EpicsMotor("BL02:SAMPLE:X", name="stock")
    stock.wait_for_connection(timeout=20)
    bl.counters.exposure.set(0.001).wait(10)
    run_engine = RunEngine({})
    for _ in range(3):
        scan = (0, POINTS / 100, POINTS)
        ours = linear_scan([bl.counters], bl.sample.x, *scan)
        print("linear_scan, Axis      ", measure(run_engine, ours, "sample_x"))
        mixed = bp.scan([bl.counters], bl.sample.x, *scan)
        print("bluesky scan, Axis     ", measure(run_engine, mixed, "sample_x"))
        theirs = bp.scan([bl.counters], stock, *scan)
        print("bluesky scan, EpicsMotor", measure(run_engine, theirs, "stock"))
    bl.destroy()
    stock.destroy()


if __name__ == "__main__":
    main()
