"""A session that is killed, or whose disk is full, loses nothing that it had recorded.

``BEAMLINE_KILLS`` sets how often a session is killed.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from beamline.documents import Journal, read_journal
from beamline.documents.replay import completed, replay
from beamline.nexus.compare import compare_files
from beamline.recovery import recover
from callbacks.nexus import NeXusWriter

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KILLS = int(os.environ.get("BEAMLINE_KILLS", "5"))
TESTS = Path(__file__).parents[1]

#: Says after every document how many rows the journal has taken, and how many are in the file.
SESSION = """
    import struct, sys
    sys.path.insert(0, {tests!r})
    from nexus_documents import line_run
    from beamline.documents import Fanout, JournalWriter
    from callbacks._hdf5 import NexusFile
    from callbacks.nexus import NeXusWriter

    marker = open({marker!r}, "r+b", buffering=0)
    taken = flushed = 0
    commit = NexusFile.commit

    def committing(self):
        global flushed
        before = taken
        commit(self)
        flushed = before

    NexusFile.commit = committing
    journal = JournalWriter({data!r} + "/journal")
    nexus = NeXusWriter({data!r} + "/nexus", flush_interval={interval})
    session = Fanout(journal, nexus)
    print("begins", flush=True)
    for number in range(1000):
        taken = flushed = 0
        for name, doc in line_run(points={points}, scan_id=number + 1):
            session(name, doc)
            taken += name == "event"
            # In one write: a kill in between would tell of two different moments.
            marker.seek(0)
            marker.write(struct.pack("<QQQ", number + 1, taken, flushed))
"""


def kill_a_session(data: Path, generator: random.Random) -> tuple[int, int, int]:
    """Return scan_id, rows that the journal had taken, and rows that were flushed."""
    marker = data / "marker"
    data.mkdir()
    marker.write_bytes(bytes(24))
    code = textwrap.dedent(SESSION).format(
        tests=str(TESTS), marker=str(marker), data=str(data),
        interval=generator.choice([1e-4, 0.02, 0.5]), points=generator.choice([50, 400, 5000]),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        time.sleep(generator.uniform(0.0, 1.0))
    finally:
        process.kill()
        process.communicate()
    content = marker.read_bytes()
    scan_id, taken, flushed = (int.from_bytes(content[i : i + 8], "little") for i in (0, 8, 16))
    return scan_id, taken, flushed


def test_a_killed_session_is_recovered_at_any_moment(tmp_path: Path):
    generator = random.Random(int(os.environ.get("BEAMLINE_SEED", "4")))
    parts = rows = 0
    for attempt in range(KILLS):
        data = tmp_path / str(attempt)
        scan_id, taken, flushed = kill_a_session(data, generator)
        for part in (data / "nexus").glob("*.part"):
            parts += 1
            with h5py.File(part, "r") as file:
                group = file.get("entry/bluesky/streams/primary")
                found = len(group["seq_num"]) if group else 0
            if part.name.startswith(f"{scan_id:05d}_"):
                assert found >= flushed
                rows += flushed
        outcomes = recover(data)
        assert [outcome.problem for outcome in outcomes] == [None] * len(outcomes)
        assert recover(data) == []
        assert not list((data / "nexus").glob("*.part"))
        runs = Journal(data / "journal").runs()
        if not runs:
            continue
        assert all(run.complete for run in runs)
        for run in runs:
            if run.scan_id == scan_id:
                assert run.num_events.get("primary", 0) >= taken
        # The file of the run that was cut off is what a replay gives, row by row.
        again = NeXusWriter(data / "again")
        replay(completed(read_journal(runs[-1].path)), [again])
        (live,) = (data / "nexus").glob(f"*_{runs[-1].uid[:8]}.nxs")
        assert compare_files(live, again.files[0]) == []
    print(f"{KILLS} kills, {parts} unfinished files opened, {rows} flushed rows found")
    assert parts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(folder)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        gc.collect()  # of a test that failed, whose traceback holds open files
        subprocess.run(["umount", "-l", str(folder)], check=True)


FULL = """
    import sys
    sys.path.insert(0, {tests!r})
    from nexus_documents import line_run
    from beamline.documents import ConsumerError, Fanout, JournalWriter
    from callbacks.nexus import NeXusWriter

    journal = JournalWriter({data!r} + "/journal")
    nexus = NeXusWriter({data!r} + "/nexus", flush_interval=1e-3)
    session = Fanout(journal, nexus)
    refused = 0
    for name, doc in line_run(points={points}, scan_id={scan_id}):
        try:
            session(name, doc)
        except ConsumerError as error:
            refused += 1
            if refused == 1:
                print("REFUSED", name, str(error).replace(chr(10), " "))
            if name != "stop" and refused > 20:
                break  # the plan has failed by now
    print("ENDED", refused, [str(path) for path in nexus.files])
"""


def run_on(data: Path, *, points: int, scan_id: int) -> list[str]:
    code = textwrap.dedent(FULL).format(
        tests=str(TESTS), data=str(data), points=points, scan_id=scan_id
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_is_told_and_the_next_run_works(small_disk: Path):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(8 * 2**20))
    said = run_on(small_disk, points=20_000, scan_id=1)
    assert said[0].startswith("REFUSED"), said
    assert "No space left on device" in said[0]
    assert said[-1].startswith("ENDED")
    assert said[-1].endswith("[]")
    journal = Journal(small_disk / "journal")
    cut = journal.find(1)
    assert cut.exit_status == "incomplete"
    # Every document that was taken is whole.
    recorded = [doc["seq_num"] for name, doc in read_journal(cut.path) if name == "event"]
    assert recorded == list(range(1, len(recorded) + 1))
    assert len(recorded) > 100
    # No room to recover either: that is told, and nothing is spoilt.
    before = sorted(path.name for path in (small_disk / "nexus").iterdir())
    (outcome,) = recover(small_disk)
    assert outcome.problem is not None
    assert sorted(path.name for path in (small_disk / "nexus").iterdir()) == before
    assert journal.find(1).num_events == cut.num_events
    filler.unlink()
    said = run_on(small_disk, points=50, scan_id=2)
    assert said[-1].startswith("ENDED 0 ")
    assert journal.find(2).exit_status == "success"
    (outcome,) = recover(small_disk)
    assert outcome.problem is None
    with h5py.File(outcome.files[0]) as file:
        assert len(file["entry/data/i0"]) >= len(recorded)
        assert file["entry/exit_status"][()] == b"fail"


PLANS = """
    import sys
    from pathlib import Path
    import numpy as np
    from bluesky import plans
    from ophyd.sim import SynSignal, motor
    from beamline.session import make_run_engine
    from beamline.store import DataStore

    data = Path({data!r})
    store = DataStore(data, writers=["nexus", "cxi", "xpcs"])
    RE = make_run_engine(store, live_table=False, progress=False)
    told = []
    RE.subscribe(lambda name, doc: told.append(doc["exit_status"]), "stop")
    row = SynSignal(func=lambda: np.random.default_rng(1).normal(size=500), name="row")

    def attempt(points):
        try:
            RE(plans.scan([row], motor, 0, 1, points))
        except Exception as error:
            print("FAILED", str(error).replace(chr(10), " "))
        else:
            print("SUCCESS", told[-1:])

    attempt(2000)
    (data / "filler").unlink()
    attempt(20)
    store.close()
"""


def test_a_plan_on_a_full_disk_fails_and_the_next_one_works(small_disk: Path):
    (small_disk / "filler").write_bytes(bytes(8 * 2**20))
    code = textwrap.dedent(PLANS).format(data=str(small_disk))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("FAILED")
    assert "No space left on device" in first
    assert second == "SUCCESS ['success']"
    cut, whole = Journal(small_disk / "journal").runs()
    assert cut.exit_status in ("fail", "incomplete")
    # The record that did not fit is at the end; every one before it is whole.
    assert cut.damage is None or cut.damage.endswith("the last record is cut off")
    recorded = [doc["seq_num"] for name, doc in read_journal(cut.path) if name == "event"]
    assert recorded == list(range(1, len(recorded) + 1))
    assert len(recorded) > 100
    assert (whole.exit_status, whole.num_events) == ("success", {"primary": 20})
    (file,) = (small_disk / "nexus").glob(f"*_{whole.uid[:8]}.nxs")
    with h5py.File(file) as opened:
        assert opened["entry/bluesky/streams/primary/row/value"].shape == (20, 500)
    outcomes = recover(small_disk)
    assert [outcome.problem for outcome in outcomes] == [None] * len(outcomes)
    (file,) = (small_disk / "nexus").glob(f"*_{cut.uid[:8]}.nxs")
    with h5py.File(file) as opened:
        assert len(opened["entry/bluesky/streams/primary/row/value"]) >= len(recorded)
        assert opened["entry/exit_status"][()] == b"fail"
