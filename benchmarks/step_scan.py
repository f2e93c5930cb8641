"""Points per second of a step scan through RunEngine, ophyd, EPICS and the device server.

Motion and exposure are made as good as nothing, and not subtracted: at 50 × real time a step of
0.01 µm (3.4 ms of acceleration, braking and settling) takes 0.07 ms and an exposure of 1 ms takes
0.02 ms. All the rest counts: plan, RunEngine, documents, ophyd, Channel Access, IOC, device server.
Each round runs, in turn,

- a bluesky scan without any EPICS (``ophyd.sim``): what this machine can do at the moment;
- our positioner in our plan, with a bare RunEngine and with that of a session (journal, NeXus file,
  live table, progress bars), and in bluesky's;
- a stock ``EpicsMotor`` on our IOC;
- a stock ``EpicsMotor`` on a stock caproto IOC with caproto's own motor record.

The counters of the stock IOC are one plain number, ours a scaler that counts. Run with
``python benchmarks/step_scan.py [ROUNDS]``.
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from stock_ioc import running

from beamline.core.config import load_settings
from beamline.simulation import Simulation, apply_client_environment

POINTS = 400


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Meter:
    """Runs scans and keeps what was measured, by name."""

    def __init__(self, run_engine, ioc: int) -> None:
        self.run_engine = run_engine
        self.pids = (os.getpid(), ioc)
        self.found: dict[str, list[tuple[float, float, float]]] = {}

    def __call__(self, name: str, plan, readback: str, *, points: int = POINTS) -> None:
        times, stale = [], 0

        def note(_name, doc):
            nonlocal stale
            if readback in doc["data"]:
                times.append(doc["time"])
                wanted = doc["data"].get(f"{readback}_user_setpoint", doc["data"][readback])
                stale += abs(doc["data"][readback] - wanted) > 0.005

        before = [processor_time(pid) for pid in self.pids]
        token = self.run_engine.subscribe(note, "event")
        self.run_engine(plan)
        self.run_engine.unsubscribe(token)
        spent = [
            1e3 * (processor_time(p) - b) / points for p, b in zip(self.pids, before, strict=True)
        ]
        steps = sorted(1e3 * (later - earlier) for earlier, later in pairwise(times))
        median = statistics.median(steps)
        self.found.setdefault(name, []).append((median, *spent))
        print(
            f"{name:36s} {1e3 * len(steps) / sum(steps):6.0f} points/s, median {median:6.2f} ms, "
            f"95 % within {steps[int(0.95 * len(steps))]:6.2f} ms; processor time per point: "
            f"client {spent[0]:5.2f} ms, our IOC {spent[1]:5.2f} ms; stale readings: {stale}",
            flush=True,
            file=sys.__stdout__,
        )

    def summary(self) -> None:
        print(f"\n{'median of rounds':36s} {'1/median':>9s} {'of the scan without EPICS':>26s}")
        soft = statistics.median(m for m, *_ in self.found["bluesky scan, no EPICS"])
        for name, rounds in self.found.items():
            median = statistics.median(m for m, *_ in rounds)
            print(f"{name:36s} {1e3 / median:7.0f}/s {soft / median:25.2f}x")


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(environment={}, device_port=0, ioc_port=0, time_scale=50.0)
        simulation = Simulation(settings, Path(folder))
        try:
            with running(Path(folder) / "stock.log") as (_, port):
                environment = dict(simulation.environment)
                environment["EPICS_CA_ADDR_LIST"] += f" 127.0.0.1:{port}"
                apply_client_environment(environment)
                compare(rounds, simulation.ioc.pid, Path(folder))
        finally:
            simulation.stop()


def compare(rounds: int, ioc: int, folder: Path) -> None:
    import bluesky.plans as bp
    from bluesky import RunEngine
    from ophyd import EpicsMotor, EpicsSignalRO
    from ophyd.sim import det, motor

    from beamline.plans import linear_scan
    from beamline.session import make_run_engine
    from devices import Beamline

    bl = Beamline("BL02:").connect(timeout=60)
    stock = EpicsMotor("BL02:SAMPLE:Y", name="stock")
    foreign = EpicsMotor("STOCK:AXIS", name="foreign")
    counts = EpicsSignalRO("STOCK:COUNTS", name="counts")
    for device in (stock, foreign, counts):
        device.wait_for_connection(timeout=60)
    bl.counters.exposure.set(0.001).wait(10)
    measure = Meter(RunEngine({}), ioc)
    session = Meter(make_run_engine(folder / "session"), ioc)
    session.found = measure.found
    scan = (0, POINTS / 100, POINTS)
    few = (0, POINTS / 800, POINTS // 8)
    for number in range(rounds):
        print(f"\nround {number + 1}, load average {os.getloadavg()[0]:.1f}")
        measure("bluesky scan, no EPICS", bp.scan([det], motor, *scan), "motor")
        measure("linear_scan, Axis", linear_scan([bl.counters], bl.sample.x, *scan), "sample_x")
        with contextlib.redirect_stdout(io.StringIO()):
            session(
                "linear_scan, Axis, in a session",
                linear_scan([bl.counters], bl.sample.x, *scan),
                "sample_x",
            )
        measure("bluesky scan, Axis", bp.scan([bl.counters], bl.sample.x, *scan), "sample_x")
        measure("bluesky scan, EpicsMotor", bp.scan([bl.counters], stock, *scan), "stock")
        plan = bp.scan([counts], foreign, *few)
        measure("the same, caproto's own IOC", plan, "foreign", points=POINTS // 8)
    measure.summary()
    bl.destroy()
    stock.destroy()
    foreign.destroy()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
