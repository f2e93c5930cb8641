"""Cost of the catalogue: bringing runs in, reading them, and what a scan feels of it.

The points of one scan (RunEngine, `ophyd.sim`, journal) are timed while the feeding process imports
tiled and works off a backlog. It is stopped (SIGSTOP), made an equal of the scan, and left to give
way, in turns of half a second, so that a busy machine troubles all three alike. Run with
``python benchmarks/catalogue.py [ROWS [SECONDS]]``; ends with status 1 if a limit is missed.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

import event_model
import numpy as np

from beamline.catalog import CatalogFeed, open_catalog, sync_catalog
from beamline.documents import Fanout, JournalWriter

#: events/s, s, relative change of the 95th percentile.
LEAST_EVENTS, MOST_READING, MOST_SLOWER = 1000.0, 1.0, 0.10
KEYS = [f"c{number}" for number in range(10)]
TURN = 0.5
BACKLOG = 30  # runs of 5,000 rows
STOPPED, EQUAL, GIVING_WAY = "stopped", "equal", "giving way"
TICKS = os.sysconf("SC_CLK_TCK")


def record(data_dir: Path, rows: int, pages: bool = False) -> str:
    run = event_model.compose_run(metadata={"scan_id": 1, "plan_name": "benchmark"}, validate=False)
    keys = {key: {"source": "x", "dtype": "number", "shape": []} for key in KEYS}
    descriptor = run.compose_descriptor(name="primary", data_keys=keys, validate=False)
    values = np.random.default_rng(0).poisson(1e6, (rows, len(KEYS))).astype(float).tolist()
    uid = descriptor.descriptor_doc["uid"]
    events = [
        {
            "uid": str(uuid.uuid4()), "descriptor": uid, "seq_num": number, "time": number * 1e-3,
            "data": dict(zip(KEYS, row, strict=True)), "timestamps": dict.fromkeys(KEYS, 1.0),
            "filled": {},
        }
        for number, row in enumerate(values, 1)
    ]  # fmt: skip
    with JournalWriter(data_dir / "journal") as journal:
        journal("start", run.start_doc)
        journal("descriptor", descriptor.descriptor_doc)
        if pages:
            for row in range(0, rows, 1000):
                journal("event_page", event_model.pack_event_page(*events[row : row + 1000]))
        else:
            for event in events:
                journal("event", event)
        stop = {"uid": str(uuid.uuid4()), "run_start": run.start_doc["uid"], "time": time.time()}
        journal("stop", {**stop, "exit_status": "success", "num_events": {"primary": rows}})
    return str(run.start_doc["uid"])


class Turns:
    """Times the points of a scan, and changes what the feeding process may do."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.group = Path(f"/proc/{pid}/autogroup")
        self.order = [STOPPED, GIVING_WAY]
        if self.group.exists():
            self.order.insert(1, EQUAL)
        self.points: dict[str, list[float]] = {name: [] for name in self.order}
        self.cpu = dict.fromkeys(self.order, 0.0)
        self.wall = dict.fromkeys(self.order, 0.0)
        # Not in a fixed order: what one turn leaves behind would always meet the same next one.
        self.random = random.Random(0)
        self.mode = ""
        self.last = 0.0
        self.begun = 0.0
        self.used = 0.0

    def __call__(self, name: str, _doc: dict) -> None:
        if name != "event":
            return
        now = time.perf_counter()
        if self.mode and now - self.begun < TURN:
            self.points[self.mode].append(now - self.last)
        else:
            self.turn(now)
        self.last = time.perf_counter()

    def turn(self, now: float) -> None:
        used = self.processor_time()
        if self.mode:
            self.cpu[self.mode] += used - self.used
            self.wall[self.mode] += now - self.begun
        self.mode = self.random.choice(self.order)
        os.kill(self.pid, signal.SIGSTOP if self.mode == STOPPED else signal.SIGCONT)
        if self.mode != STOPPED:
            with contextlib.suppress(OSError):
                self.group.write_text("0\n" if self.mode == EQUAL else "19\n")
        self.used, self.begun = used, time.perf_counter()

    def processor_time(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def finished(data_dir: Path) -> bool:
    log = data_dir / "logs" / "catalog.log"
    return log.exists() and log.read_text().count(" is in (") > BACKLOG


def scan(data_dir: Path, seconds: float) -> Turns:
    from bluesky import RunEngine, plan_stubs
    from bluesky.preprocessors import run_decorator
    from ophyd.sim import SynAxis, SynGauss

    motor = SynAxis(name="motor")
    detector = SynGauss("detector", motor, "motor", center=0, Imax=1000)
    engine = RunEngine({})
    with JournalWriter(data_dir / "journal") as journal:

        @run_decorator()
        def points(until: float, turns: Turns | None = None):
            number = 0
            while time.monotonic() < until:
                yield from plan_stubs.mv(motor, number % 100)
                yield from plan_stubs.trigger_and_read([motor, detector])
                number += 1
                if number % 100 == 0 and turns is not None and finished(data_dir):
                    return

        engine.subscribe(journal)
        engine(points(time.monotonic() + 2))
        with CatalogFeed(data_dir) as feed:
            turns = Turns(feed.pid)
            token = engine.subscribe(Fanout(turns))
            engine(points(time.monotonic() + seconds, turns))
            engine.unsubscribe(token)
            os.kill(feed.pid, signal.SIGCONT)
        return turns


def main() -> int:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 90.0
    missed = []
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        for _ in range(BACKLOG):
            record(data_dir, 5000)
        turns = scan(data_dir, seconds)
        base = np.percentile(turns.points[STOPPED], 95)
        for name in turns.order:
            taken = np.array(turns.points[name]) * 1e3
            p50, p95, p99 = np.percentile(taken, [50, 95, 99])
            share = turns.cpu[name] / turns.wall[name]
            print(
                f"points, feed {name:10}: p50 {p50:6.2f}  p95 {p95:6.2f}  p99 {p99:6.2f} ms  "
                f"({len(taken)} points; p95 {p95 / base / 1e3:5.2f} of stopped; "
                f"the feed has {share:4.0%} of a processor)"
            )
        slower = np.percentile(turns.points[GIVING_WAY], 95) / base - 1
        if slower > MOST_SLOWER:
            missed.append(f"points are {slower:.0%} slower at p95")
    heavy = [name for name in ("tiled", "databroker", "sqlalchemy") if name in sys.modules]
    print(f"imported by the session until now: {', '.join(heavy) or 'nothing of it'}")
    if heavy:
        missed.append("the session imported the catalogue before it was asked for")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        begun = time.perf_counter()
        catalog = open_catalog(data_dir)
        print(f"open: {time.perf_counter() - begun:.1f} s, with imports")
        for pages in (False, True):
            uid = record(data_dir, rows, pages)
            kind = "pages of 1,000" if pages else "single events"
            begun, used = time.perf_counter(), time.process_time()
            result = sync_catalog(data_dir)
            taken, used = time.perf_counter() - begun, time.process_time() - used
            print(
                f"bring in {rows} rows × {len(KEYS)} columns, {kind}: {rows / taken:.0f} events/s, "
                f"{used / rows * 1e6:.0f} µs of the processor each"
            )
            if result.failed or rows / taken < LEAST_EVENTS:
                missed.append(f"{rows / taken:.0f} events/s are brought in as {kind}")
            times = []
            for _ in range(3):
                begun = time.perf_counter()
                data = catalog[uid].primary.read()
                times.append(time.perf_counter() - begun)
            if data.sizes["time"] != rows:
                missed.append("rows are missing")
            print(f"read {rows} rows: {min(times):.2f} – {max(times):.2f} s")
            if min(times) > MOST_READING:
                missed.append(f"reading takes {min(times):.2f} s")
        catalog.context.close()
    for text in missed:
        print(f"MISSED: {text}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
