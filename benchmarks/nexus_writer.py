"""Microseconds per row of the NeXus writer, beside plain h5py in the same run.

Ten data keys with time stamps (22 columns), as single events and as pages of 1,000. Times are of
the processor, so that a busy machine does not count. Run with
``python benchmarks/nexus_writer.py [ROWS]``.
"""

import sys
import tempfile
import time
import uuid
from pathlib import Path

import event_model
import h5py
import numpy as np

from callbacks.nexus import NeXusWriter

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


def measure(rows: int, *, pages: bool, compression: int | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        writer = NeXusWriter(folder, compression=compression)
        spent, before, most = 0.0, None, 0.0
        for part in documents(rows, pages):
            began, wall = time.process_time(), time.perf_counter()
            for name, doc in part:
                writer(name, doc)
            last, wall = time.process_time() - began, time.perf_counter() - wall
            if len(part) > 2 and before is None:
                before = resident()
            most = max(most, resident())
            spent += last if len(part) > 2 or part[0][0] == "event_page" else 0.0
        size = writer.files[0].stat().st_size
    return (
        f"{1e6 * spent / rows:6.2f} µs per row, stop {1e3 * last:5.1f} ms (with fsync "
        f"{1e3 * wall:.1f} ms), memory {most - (before or most):+.0f} MB, {size / 1e6:.1f} MB"
    )


def floor(rows: int) -> str:
    """22 columns in blocks of 1,024 rows, flushed, without any document."""
    values = np.random.default_rng(0).poisson(1e6, 1024).astype(float)
    with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder, "x.h5"), "w") as file:
        options = {"shape": (0,), "maxshape": (None,), "chunks": (1024,), "dtype": float}
        columns = [file.create_dataset(f"c{n}", **options) for n in range(22)]
        began = time.process_time()
        for first in range(0, rows, 1024):
            for column in columns:
                column.resize((first + 1024,))
                column[first:] = values
            file.flush()
        return f"{1e6 * (time.process_time() - began) / rows:6.2f} µs per row"


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"{rows} rows")
    print("plain h5py, arrays     ", floor(rows))
    for pages in (False, True):
        for compression in (None, 1):
            what = f"{'pages' if pages else 'events'}, {'gzip 1' if compression else 'plain'}"
            print(f"{what:23}", measure(rows, pages=pages, compression=compression))


if __name__ == "__main__":
    main()
