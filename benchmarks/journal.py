"""Cost of the journal, beside what it can't be cheaper than in the same run.

Events of ten data keys: recording (baselines: packing alone, JSON lines to a buffered file, and
msgpack with an fsync per event, which is what the journal spares), reading and replaying through a
router (baseline: JSON lines). Times are of the processor, except where a disk is waited for. Run
with ``python benchmarks/journal.py [EVENTS]``; ends with status 1 if a limit is missed.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import event_model
import msgpack

from beamline.documents import Journal, JournalWriter, PerRunRouter
from beamline.documents.replay import replay

#: ms per event recorded; events per second replayed.
MOST_PER_EVENT, LEAST_REPLAYED = 0.1, 50_000
KEYS = [f"c{number}" for number in range(10)]


def documents(events: int):
    run = event_model.compose_run(metadata={"scan_id": 1, "plan_name": "benchmark"})
    described = {key: {"source": "x", "dtype": "number", "shape": []} for key in KEYS}
    descriptor = run.compose_descriptor(name="primary", data_keys=described)
    begin = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    now = time.time()
    middle = [
        (
            "event",
            {
                "uid": f"{number:032x}", "descriptor": descriptor.descriptor_doc["uid"],
                "seq_num": number + 1, "time": now + number, "filled": {},
                "data": dict.fromkeys(KEYS, number * 1.5),
                "timestamps": dict.fromkeys(KEYS, now + number),
            },
        )
        for number in range(events)
    ]  # fmt: skip
    end = {"uid": "stop", "run_start": run.start_doc["uid"], "time": now + events,
           "exit_status": "success", "num_events": {"primary": events}}  # fmt: skip
    return begin, middle, [("stop", end)]


def spent(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    began = clock()
    work()
    return clock() - began


def best(work: Callable[[], float], times: int = 3) -> float:
    return min(work() for _ in range(times))


def main(events: int) -> int:
    begin, middle, end = documents(events)
    rows: list[tuple[str, float]] = []

    def record() -> float:
        with tempfile.TemporaryDirectory() as folder, JournalWriter(folder) as journal:
            for name, doc in begin:
                journal(name, doc)
            return spent(lambda: [journal(name, doc) for name, doc in middle])

    def pack() -> float:
        return spent(lambda: [msgpack.packb([name, doc]) for name, doc in middle])

    def json_lines() -> float:
        with tempfile.TemporaryFile("w") as stream:
            return spent(lambda: [stream.write(json.dumps(item) + "\n") for item in middle])

    def synced() -> float:
        few = middle[: min(events, 300)]

        def work() -> None:
            for item in few:
                os.write(descriptor, msgpack.packb(list(item)))
                os.fsync(descriptor)

        with tempfile.NamedTemporaryFile(dir=Path.cwd()) as stream:
            descriptor = stream.fileno()
            return spent(work, time.perf_counter) * events / len(few)

    recorded = best(record)
    rows += [
        ("record, journal", recorded),
        ("record, packing alone (msgpack)", best(pack)),
        ("record, JSON lines, buffered", best(json_lines)),
        ("record, msgpack with fsync each (wall time)", best(synced, 1)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        with JournalWriter(folder) as journal:
            for name, doc in [*begin, *middle, *end]:
                journal(name, doc)
        store = Journal(folder)
        lines = Path(folder, "lines.json")
        lines.write_text("".join(json.dumps(item) + "\n" for item in middle))

        def router() -> PerRunRouter:
            return PerRunRouter([lambda _start: [lambda _name, _doc: None]])

        replayed = best(lambda: spent(lambda: replay(store.documents(-1), [router()])))
        rows += [
            ("replay through a router", replayed),
            ("read", best(lambda: spent(lambda: sum(1 for _ in store.documents(-1))))),
            ("read, JSON lines", best(lambda: spent(lambda: read_lines(lines)))),
        ]
        size = store.find(-1).path.stat().st_size
        found = spent(lambda: store.find(-1), time.perf_counter)
        print(f"{events} events of {len(KEYS)} data keys, {size / events:.0f} bytes each;")
        print(f"finding the run takes {1e3 * found:.1f} ms; load average {os.getloadavg()[0]:.1f}")
    for name, seconds in rows:
        print(f"{name:45s} {1e6 * seconds / events:8.1f} µs {events / seconds:10,.0f}/s")
    missed = 1e3 * recorded / events > MOST_PER_EVENT or events / replayed < LEAST_REPLAYED
    print("a limit is missed" if missed else "within the limits")
    return int(missed)


def read_lines(path: Path) -> int:
    with path.open() as stream:
        return sum(1 for line in stream if json.loads(line))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
