"""The growing file: seen by another process, left by a killed one, on a disk that is full."""

from __future__ import annotations

import mmap
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexus_documents import feed, line_run, xafs_run

from beamline.nexus.compare import compare_files
from callbacks.nexus import NeXusWriter

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

TESTS = Path(__file__).resolve().parents[1]

#: Writes a run as fast as it can; tells through shared memory how many rows it knows to be on disk.
WRITER = """
    import mmap, os, sys
    sys.path.insert(0, {tests!r})
    from nexus_documents import Run, number
    import callbacks._nexus_run as nexus_run
    from callbacks.nexus import NeXusWriter

    memory = os.open({marker!r}, os.O_RDWR | os.O_CREAT)
    os.ftruncate(memory, 8)
    shared = mmap.mmap(memory, 8)
    run = Run(plan_name="fast", detectors=["d"], motors=["m"],
              hints={{"dimensions": [(["m"], "primary")]}})
    names = ["c%d" % i for i in range(6)]
    writer = NeXusWriter({directory!r}, flush_interval={interval}, compression={compression})
    writer(*run.begin())
    writer(*run.describe("primary", {{"d": {{n: number("counts") for n in names}},
                                      "m": {{"m": number("um")}}}}))
    commit = nexus_run.NexusRun._commit

    def committed(self):
        commit(self)
        rows = self._streams["primary"].rows if "primary" in self._streams else 0
        shared[:8] = rows.to_bytes(8, "little")

    nexus_run.NexusRun._commit = committed
    number = 0
    while True:
        writer(*run.event("primary", {{"m": float(number),
                                       **{{n: number + 0.5 for n in names}}}}))
        number += 1
"""


def start(code: str, **values: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code).format(tests=str(TESTS), **values)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS.parent,
    )  # fmt: skip


def rows_told(marker: Path) -> int:
    if not marker.exists() or marker.stat().st_size < 8:
        return 0
    with marker.open("rb") as stream, mmap.mmap(stream.fileno(), 8, prot=mmap.PROT_READ) as shared:
        return int.from_bytes(shared[:8], "little")


@pytest.mark.parametrize(
    ("interval", "compression"),
    [
        pytest.param(1e-4, None, marks=pytest.mark.slow),
        pytest.param(0.5, 1, marks=pytest.mark.slow),
        (1e-4, 1),
        pytest.param(0.5, None, marks=pytest.mark.slow),
    ],
)
def test_a_killed_writer_loses_no_row_that_was_on_disk(
    tmp_path: Path, interval: float, compression: int | None
):
    generator = random.Random(3)
    for attempt in range(4):
        directory, marker = tmp_path / str(attempt), tmp_path / f"{attempt}.rows"
        process = start(
            WRITER, directory=str(directory), marker=str(marker), interval=interval,
            compression=compression,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not rows_told(marker) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(generator.uniform(0.0, 0.3))
        finally:
            process.kill()
            _, errors = process.communicate()
        rows = rows_told(marker)
        assert rows > 0, errors
        (part,) = directory.glob("*.nxs.part")
        # Plain h5py, with locking: nobody has the file any more.
        with h5py.File(part, "r") as file:
            streams = file["entry/bluesky/streams/primary"]
            expected = np.arange(rows, dtype=float)
            np.testing.assert_array_equal(streams["seq_num"][:rows], expected + 1)
            np.testing.assert_array_equal(file["entry/data/m"][:rows], expected)
            for name in (f"c{i}" for i in range(6)):
                np.testing.assert_array_equal(file[f"entry/data/{name}"][:rows], expected + 0.5)
                assert len(streams[name]["time"]) >= rows


READER = """
    import h5py, time
    deadline = time.monotonic() + 45
    while True:
        with h5py.File({path!r}, "r", locking=False) as file:
            rows = len(file["entry/data/intensity"])
            status = file["entry/exit_status"][()] if "exit_status" in file["entry"] else None
        if rows >= {rows} or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    print(rows, status)
"""


def test_another_process_sees_rows_while_the_run_goes_on(tmp_path: Path):
    writer = NeXusWriter(tmp_path, flush_interval=0.05)
    documents = list(xafs_run(40, with_baseline=False))
    feed(writer, documents[:22])
    (part,) = tmp_path.glob("*.part")
    seen, errors = start(READER, path=str(part), rows=20).communicate(timeout=200)
    assert seen.split() == ["20", "None"], errors
    feed(writer, documents[22:])
    assert not part.exists()
    seen, errors = start(READER, path=str(writer.files[0]), rows=40).communicate(timeout=200)
    assert seen.split() == ["40", "b'success'"], errors


FOLLOWER = """
    import h5py, sys, time
    with h5py.File({path!r}, "r", libver="latest", swmr=True) as file:
        data = file["entry/data/i0"]
        for expected in sys.stdin:
            deadline = time.monotonic() + 30
            data.refresh()
            while len(data) < int(expected) and time.monotonic() < deadline:
                time.sleep(0.01)
                data.refresh()
            print(len(data), data[-1], flush=True)
"""


def test_a_reader_follows_in_swmr_mode_through_one_handle(tmp_path: Path):
    writer = NeXusWriter(tmp_path, flush_interval=1e-4, swmr=True)
    documents = list(line_run(3000))
    feed(writer, documents[:12])
    (part,) = tmp_path.glob("*.part")
    follower = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FOLLOWER).format(path=str(part))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdin is not None
    assert follower.stdout is not None
    rows = []
    try:
        for first, last in ((12, 12), (12, 200), (200, 1500), (1500, 3002), (3002, 3003)):
            feed(writer, documents[first:last])
            follower.stdin.write(f"{min(last - 2, 3000)}\n")
            follower.stdin.flush()
            if last < 3003:
                rows.append(int(follower.stdout.readline().split()[0]))
    finally:
        follower.stdin.close()
        follower.stdout.close()
        follower.wait(60)
    assert rows == [10, 198, 1498, 3000]
    with h5py.File(writer.files[0]) as file:
        assert len(file["entry/data/i0"]) == 3000


FULL_DISK = """
    import resource, signal, sys
    sys.path.insert(0, {tests!r})
    from nexus_documents import line_run
    from beamline.core.errors import StorageError
    from callbacks.nexus import NeXusWriter

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    writer = NeXusWriter({directory!r})
    documents = list(line_run(30000))
    told = []
    for name, doc in documents:
        try:
            writer(name, doc)
        except StorageError as error:
            told.append((name, str(error)))
    print(len(told), told[0][1])
    print(told[-1][0], len(writer.files))
    writer = NeXusWriter({directory!r})
    for name, doc in line_run(5):
        writer(name, doc)
    print(len(writer.files))
"""


def test_a_full_disk_is_an_error_and_the_part_stays_valid(tmp_path: Path):
    out, errors = start(FULL_DISK, directory=str(tmp_path)).communicate(timeout=200)
    first, last, after = out.splitlines()
    count, sentence = first.split(" ", 1)
    # Every document after the first refusal is refused, the stop document as well.
    assert int(count) > 10000, errors
    assert "cannot write the NeXus file of run" in sentence
    assert "File too large" in sentence
    assert last == "stop 0"
    assert after == "1"
    (part,) = tmp_path.glob("*.nxs.part")
    with h5py.File(part, "r") as file:
        rows = len(file["entry/data/i0"])
        assert rows > 5000
        assert {
            len(file["entry/bluesky/streams/primary"][name]) for name in ("seq_num", "time")
        } == {rows}
        assert file["entry/bluesky/streams/primary/seq_num"][-1] == rows


def test_a_process_that_ends_in_mid_run_leaves_all_rows(tmp_path: Path):
    code = """
        import sys
        sys.path.insert(0, {tests!r})
        from nexus_documents import line_run
        from callbacks.nexus import NeXusWriter
        writer = NeXusWriter({directory!r}, flush_interval=60.0)
        for name, doc in list(line_run(30))[:20]:
            writer(name, doc)
    """
    process = start(code, directory=str(tmp_path))
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    (part,) = tmp_path.glob("*.nxs.part")
    with h5py.File(part, "r") as file:
        assert len(file["entry/data/i0"]) == 18


def test_memory_does_not_grow_with_the_run(tmp_path: Path):
    code = """
        import sys
        sys.path.insert(0, {tests!r})
        from event_model import pack_event_page
        from nexus_documents import Run, number
        from callbacks.nexus import NeXusWriter

        def resident():
            with open("/proc/self/statm") as stream:
                return int(stream.read().split()[1]) * 4096

        run = Run(plan_name="long", detectors=["d"])
        names = ["c%d" % i for i in range(10)]
        writer = NeXusWriter({directory!r})
        writer(*run.begin())
        writer(*run.describe("primary", {{"d": {{n: number() for n in names}}}}))
        _, event = run.event("primary", dict.fromkeys(names, 1.0))
        page = pack_event_page(*[event] * 1000)
        for first in range(0, 300_000, 1000):
            numbers = list(range(first + 1, first + 1001))
            writer("event_page", {{**page, "seq_num": numbers}})
            if first == 20_000:
                before = resident()
        print(resident() - before)
    """
    out, errors = start(code, directory=str(tmp_path)).communicate(timeout=200)
    assert int(out) < 10e6, errors


def test_live_and_replayed_files_are_equal(tmp_path: Path):
    from beamline.documents.journal import Journal, JournalWriter
    from beamline.documents.replay import replay

    live, journal = NeXusWriter(tmp_path / "live"), JournalWriter(tmp_path / "journal")
    for documents in (xafs_run(), line_run(21)):
        for name, doc in documents:
            journal(name, doc)
            live(name, doc)
    again = NeXusWriter(tmp_path / "again")
    kept = Journal(tmp_path / "journal")
    for run in kept.runs():
        replay(kept.documents(run.uid), [again])
    for path in live.files:
        assert compare_files(path, tmp_path / "again" / path.name) == []
    assert len(again.files) == 2
