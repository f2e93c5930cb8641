"""Cost of the NeXus writer, beside plain buffered h5py in the same run.

Ten data keys with time stamps (22 columns), as single events and as pages of 1,000, through the
router. Times are of the processor, so that a busy machine does not count; the stop document is
given with the wait for the disk as well. Run with
``python benchmarks/nexus_writer.py [ROWS [MANY_ROWS]]``; ends with status 1 if a limit is missed.
"""

import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import event_model
import h5py
import numpy as np

from callbacks.nexus import NeXusWriter

#: µs per row, ms at stop, MB of memory, size beside that of writing at once, relative change of the
#: cost per row in a run ten times as long.
MOST_PER_ROW, MOST_AT_STOP, MOST_MEMORY, MOST_SIZE, MOST_CHANGE = 5.0, 20.0, 50.0, 1.2, 0.2
KEYS = [f"c{number}" for number in range(9)]
BLOCK = 20_000


def resident() -> float:
    with Path("/proc/self/statm").open() as stream:
        return int(stream.read().split()[1]) * 4096 / 1e6


def documents(rows: int, pages: bool):
    """Start, descriptor, lists of (name, event or page), stop."""
    run = event_model.compose_run(
        uid=str(uuid.uuid4()),
        metadata={
            "scan_id": 1, "plan_name": "benchmark", "detectors": ["c"], "motors": ["m"],
            "num_points": rows, "hints": {"dimensions": [(["m"], "primary")]},
        },
        validate=False,
    )  # fmt: skip
    keys = {k: {"source": "x", "dtype": "number", "shape": []} for k in [*KEYS, "m"]}
    descriptor = run.compose_descriptor(
        name="primary", data_keys=keys, object_keys={"c": KEYS, "m": ["m"]},
        hints={"c": {"fields": KEYS}, "m": {"fields": ["m"]}}, validate=False,
    ).descriptor_doc  # fmt: skip
    yield [("start", run.start_doc), ("descriptor", descriptor)]
    generator = np.random.default_rng(0)
    began = run.start_doc["time"]
    for first in range(0, rows, BLOCK):
        counts = generator.poisson(1e6, (BLOCK, len(KEYS))).astype(float).tolist()
        events = []
        for number, values in enumerate(counts[: rows - first], start=first):
            data = dict(zip([*KEYS, "m"], [*values, float(number)], strict=True))
            moment = began + number * 1e-3
            events.append(
                {
                    "uid": "x", "descriptor": descriptor["uid"], "seq_num": number + 1,
                    "time": moment, "data": data, "timestamps": dict.fromkeys(data, moment),
                    "filled": {},
                }
            )  # fmt: skip
        if pages:
            yield [
                ("event_page", event_model.pack_event_page(*events[row : row + 1000]))
                for row in range(0, len(events), 1000)
            ]
        else:
            yield [("event", event) for event in events]
    stop = {"uid": "stop", "run_start": run.start_doc["uid"], "time": began + rows}
    yield [("stop", {**stop, "exit_status": "success", "num_events": {"primary": rows}})]


@dataclass
class Cost:
    """What a run cost: µs per row, ms at stop without and with the disk, MB of memory, bytes."""

    per_row: float
    stop: float
    stop_on_disk: float
    memory: float
    size: int
    once: int = 0

    def __str__(self) -> str:
        return (
            f"{self.per_row:6.2f} µs per row, stop {self.stop:5.1f} ms (with fsync "
            f"{self.stop_on_disk:.1f} ms), memory {self.memory:+.0f} MB, {self.size / 1e6:.1f} MB"
        )

    def misses(self) -> list[str]:
        """Name the limits that are missed."""
        found = {
            f"{self.per_row:.1f} µs per row": self.per_row > MOST_PER_ROW,
            f"{self.stop:.0f} ms at stop": self.stop > MOST_AT_STOP,
            f"{self.memory:.0f} MB of memory": self.memory > MOST_MEMORY,
            f"{self.size / (self.once or self.size):.2f} of the size": (
                self.once > 0 and self.size > MOST_SIZE * self.once
            ),
        }
        return [what for what, missed in found.items() if missed]


def measure(rows: int, *, pages: bool, compression: int | None) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        writer = NeXusWriter(folder, compression=compression)
        spent, before, most = 0.0, None, 0.0
        for part in documents(rows, pages):
            began, wall = time.process_time(), time.perf_counter()
            for name, doc in part:
                writer(name, doc)
            last, wall = time.process_time() - began, time.perf_counter() - wall
            if part[0][0].startswith("event"):
                spent += last
                before = resident() if before is None else before
            most = max(most, resident())
        path = writer.files[0]
        once = written_at_once(path, Path(folder, "once.h5")) if compression else 0
        return Cost(
            1e6 * spent / rows, 1e3 * last, 1e3 * wall, most - (before or most),
            path.stat().st_size, once,
        )  # fmt: skip


def written_at_once(path: Path, other: Path) -> int:
    """Size of a file with the same columns, each compressed in one go."""
    seen = set()
    with h5py.File(path) as file, h5py.File(other, "w") as copy:

        def visit(name: str, node: object) -> None:
            if not isinstance(node, h5py.Dataset):
                return
            address = h5py.h5o.get_info(node.id).addr
            if address in seen:
                return
            seen.add(address)
            options = {}
            if node.ndim and node.size:
                chunks = (min(1024, len(node)), *node.shape[1:])
                options = {"compression": 1, "shuffle": True, "chunks": chunks}
            copy.create_dataset(name, data=node[()], **options)

        file.visititems(visit)
    return other.stat().st_size


def floor(rows: int) -> float:
    """µs per row of 22 columns from the same events, kept in lists, written in blocks of 1,024."""
    spent = 0.0
    with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder, "x.h5"), "w") as file:
        options = {"shape": (0,), "maxshape": (None,), "chunks": (1024,), "dtype": float}
        names = [*KEYS, "m"]
        values = [file.create_dataset(f"v{name}", **options) for name in names]
        stamps = [file.create_dataset(f"t{name}", **options) for name in names]
        own = [file.create_dataset(name, **options) for name in ("seq_num", "time")]
        kept: list[dict] = []
        written = 0

        def write() -> None:
            nonlocal written
            blocks = [
                *([doc["data"][name] for doc in kept] for name in names),
                *([doc["timestamps"][name] for doc in kept] for name in names),
                [doc["seq_num"] for doc in kept],
                [doc["time"] for doc in kept],
            ]
            for column, block in zip([*values, *stamps, *own], blocks, strict=True):
                column.resize((written + len(kept),))
                column[written:] = block
            written += len(kept)
            kept.clear()
            file.flush()

        for part in documents(rows, pages=False):
            began = time.process_time()
            for name, doc in part:
                if name == "event":
                    kept.append(doc)
                    if len(kept) >= 1024:
                        write()
            spent += time.process_time() - began
        write()
    return 1e6 * spent / rows


def main() -> int:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    many = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    missed = []
    print(f"{rows} rows")
    print(f"{'plain h5py, events':26} {floor(rows):6.2f} µs per row")
    short = {}
    for pages in (False, True):
        for compression in (None, 1):
            what = f"{'pages' if pages else 'events'}, {'gzip 1' if compression else 'plain'}"
            cost = measure(rows, pages=pages, compression=compression)
            ratio = f", {cost.size / cost.once:.2f} of the size at once" if cost.once else ""
            print(f"{what:26} {cost}{ratio}")
            missed += [f"{what}: {miss}" for miss in cost.misses()]
            if compression is None:
                short[pages] = cost
    print(f"{many} rows")
    for pages in (False, True):
        what = f"{'pages' if pages else 'events'}, plain"
        cost = measure(many, pages=pages, compression=None)
        change = cost.per_row / short[pages].per_row - 1
        print(f"{what:26} {cost}, {100 * change:+.0f} % per row")
        missed += [f"{many} rows, {what}: {miss}" for miss in cost.misses()]
        if change > MOST_CHANGE:
            missed.append(f"{many} rows, {what}: {100 * change:+.0f} % per row")
    for miss in missed:
        print("MISSED", miss)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
