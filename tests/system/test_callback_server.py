"""The callback server over the loopback: late, killed and stopped; what it tells the session."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from nexus_documents import Run, counter_keys, motor_keys, xafs_run

from beamline.core.processes import Child
from beamline.documents import Fanout, JournalWriter
from beamline.documents.network import DocumentPublisher, DocumentSubscriber
from beamline.nexus.compare import compare_files
from callbacks.nexus import NeXusWriter

pytestmark = [pytest.mark.system, pytest.mark.slow]

PYTHON_PATH = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


def until(true: Callable[[], object], seconds: float = 120.0, what: str = "it") -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


class Source:
    """A session without a beamline: journal, live NeXus writer and publisher."""

    def __init__(self, root: Path) -> None:
        self.journal = JournalWriter(root / "journal")
        self.nexus = NeXusWriter(root / "live")
        self.publisher = DocumentPublisher(root)
        self.send = Fanout(self.journal, self.nexus, self.publisher)

    @property
    def address(self) -> str:
        return self.publisher.address

    def close(self) -> None:
        self.nexus.close()
        self.journal.close()
        self.publisher.close()


@pytest.fixture
def source(tmp_path) -> Iterator[Source]:
    made = Source(tmp_path / "session")
    yield made
    made.close()


@pytest.fixture
def serve(source, tmp_path) -> Iterator[Callable[..., Child]]:
    """Start callback servers; they are stopped at the end."""
    running: list[Child] = []

    def start(*consumers: str, address: str | None = None, output: str = "server") -> Child:
        named = [word for name in consumers or ("nexus",) for word in ("--consumer", name)]
        child = Child(
            "callback server",
            [
                *(sys.executable, "-m", "beamline", "callbacks", "--exit-with-parent"),
                *("--address", address or source.address, "--health-port", "0", "--since", "all"),
                *("--output-dir", str(tmp_path / output), *named),
            ],
            log=tmp_path / f"{output}.log",
            env={"PYTHONPATH": PYTHON_PATH, "RECORD_TO": str(tmp_path / f"{output}.rows")},
        )
        running.append(child)
        return child

    yield start
    for child in running:
        child.stop()


def metrics(child: Child) -> dict[str, float]:
    with urllib.request.urlopen(child.info["health"], timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    values = {}
    for line in lines:
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name.removeprefix("beamline_callbacks_")] = float(value)
    return values


def rows(tmp_path: Path, output: str = "server") -> list[tuple[str, str, int]]:
    """(run, name, seq_num) of what `callback_consumers.record` was given."""
    path = tmp_path / f"{output}.rows"
    if not path.exists():
        return []
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def delivers(child: Child, number: int) -> bool:
    return metrics(child)["delivered_total"] > number


def long_run(
    points: int, *, enough: Callable[[], object] = lambda: False, **metadata
) -> Iterator[tuple[str, dict]]:
    run = Run(plan_name="count", detectors=["counters"], num_points=points, **metadata)
    yield run.begin()
    keys = {"counters": counter_keys(), "sample_x": motor_keys("sample_x", "um")}
    yield run.describe("primary", keys)
    names = [name for described in keys.values() for name in described]
    for number in range(points):
        if enough():
            break
        yield run.event("primary", {name: float(number) for name in names})
    yield run.stop()


def test_a_server_that_is_there_writes_what_the_session_writes(source, serve, tmp_path):
    child = serve("nexus", "callback_consumers:record")
    documents = list(xafs_run(200))
    for name, doc in documents:
        source.send(name, doc)
    until(lambda: metrics(child)["runs_finished_total"] == 1)
    (live,) = source.nexus.files
    assert compare_files(live, tmp_path / "server" / "nexus" / live.name) == []
    assert len(rows(tmp_path)) == len(documents)
    found = metrics(child)
    assert found["delivered_total"] == len(documents)
    assert found["received_total"] - found["duplicates_total"] == len(documents)
    assert found["lost_total"] == 0
    if not found["stalls_total"]:  # on a busy machine it may have asked twice
        assert found["gaps_total"] == found["duplicates_total"] == 0
    until(lambda: metrics(child)["connected"] == 1)
    until(lambda: metrics(child)["lag_seconds"] == 0)
    assert found['consumer_errors_total{consumer="nexus"}'] == 0


def test_a_server_that_is_killed_again_and_again_misses_nothing(source, serve, tmp_path):
    documents = list(long_run(1000))
    child = serve()
    for number, (name, doc) in enumerate(documents):
        source.send(name, doc)
        if number in (150, 300, 450, 600, 750):
            until(partial(delivers, child, 100))
            child.kill()
            child = serve()
    until(lambda: metrics(child)["runs_finished_total"] == 1)
    assert metrics(child)["delivered_total"] == len(documents)
    (live,) = source.nexus.files
    (file,) = (tmp_path / "server" / "nexus").iterdir()
    assert compare_files(live, file) == []
    # Once more, with nothing to do: the finished run is not written again.
    child.stop()
    written = file.stat().st_mtime_ns
    child = serve()
    until(lambda: metrics(child)["connected"] == 1)
    for name, doc in long_run(5):
        source.send(name, doc)
    until(lambda: metrics(child)["runs_finished_total"] == 1)
    assert file.stat().st_mtime_ns == written


def test_late_subscribers_get_all_of_a_run_that_is_going_on(source, tmp_path):
    documents = list(long_run(600))
    script = Path(__file__).parents[1] / "callback_consumers.py"
    for name, doc in documents[:300]:
        source.send(name, doc)
    children = []
    try:
        for number in range(5):
            records = [str(tmp_path / f"late{number * 4 + index}.rows") for index in range(4)]
            children.append(
                Child(
                    f"subscribers {number}",
                    [sys.executable, str(script), source.address, str(len(documents)), *records],
                    log=tmp_path / f"late{number}.log",
                    env={"PYTHONPATH": PYTHON_PATH},
                )
            )
            for name, doc in documents[300 + number * 40 : 340 + number * 40]:
                source.send(name, doc)
        for name, doc in documents[500:]:
            source.send(name, doc)
        until(lambda: not any(child.running for child in children), 200)
        expected = [
            [documents[0][1]["uid"], name, doc.get("seq_num", 0)] for name, doc in documents
        ]
        for number in range(20):
            assert [list(row) for row in rows(tmp_path, f"late{number}")] == expected
    finally:
        for child in children:
            child.stop()


def test_runs_that_are_over_and_interleaved_runs_come_whole(source, serve, tmp_path):
    first, second = list(xafs_run(30, scan_id=1)), list(xafs_run(40, scan_id=2))
    for number in range(max(len(first), len(second))):
        for documents in (first, second):
            if number < len(documents):
                source.send(*documents[number])
    child = serve()
    until(lambda: metrics(child)["runs_finished_total"] == 2)
    for live in source.nexus.files:
        assert compare_files(live, tmp_path / "server" / "nexus" / live.name) == []


def test_sigterm_closes_open_files_labelled_and_the_run_is_done_again(source, serve, tmp_path):
    import h5py

    documents = list(long_run(100))
    child = serve()
    for name, doc in documents[:60]:
        source.send(name, doc)
    until(lambda: metrics(child)["delivered_total"] == 60)
    assert metrics(child)["open_runs"] == 1
    assert child.stop(timeout=100) == 0
    (file,) = (tmp_path / "server" / "nexus").glob("*.nxs")
    with h5py.File(file, "r") as nexus:
        assert nexus["entry/exit_status"].asstr()[()] == "fail"
        assert "callback server was stopped" in nexus["entry/reason"].asstr()[()]
    child = serve()
    for name, doc in documents[60:]:
        source.send(name, doc)
    until(lambda: metrics(child)["runs_finished_total"] == 1)
    assert compare_files(source.nexus.files[0], file) == []
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_run_whose_session_died_is_closed_labelled(source, serve, tmp_path):
    import h5py

    child = serve()
    for name, doc in list(long_run(50))[:30]:
        source.send(name, doc)
    source.journal.close()
    until(lambda: metrics(child)["runs_finished_total"] == 1)
    (file,) = (tmp_path / "server" / "nexus").glob("*.nxs")
    with h5py.File(file, "r") as nexus:
        assert nexus["entry/exit_status"].asstr()[()] == "fail"


@pytest.mark.parametrize("policy", ["stop", "pause", "warn"])
def test_a_consumer_that_raises_is_heard_in_the_session(source, serve, tmp_path, policy, caplog):
    from beamline.documents.consumers import ConsumerError

    paused = []
    source.publisher.on_pause = paused.append
    child = serve("nexus", f"callback_consumers:refuse={policy}")
    failed = []

    def heard():
        return failed or paused or "plan goes on" in caplog.text

    for name, doc in long_run(100_000, enough=heard):
        try:
            source.send(name, doc)
        except ConsumerError as error:
            failed.append(str(error))
        time.sleep(0.001)
    sentence = "RuntimeError: I do not take event 10"
    if policy == "stop":
        assert sentence in failed[0]
        assert len(failed) == 1
    elif policy == "pause":
        (reason,) = paused
        assert sentence in reason
    else:
        assert sentence in caplog.text
        assert not failed
    # The plan has ended, and the other consumer has its file.
    until(lambda: metrics(child)["runs_finished_total"] == 1)
    found = metrics(child)
    assert found['consumer_errors_total{consumer="callback_consumers:refuse"}'] == 1
    assert found['consumer_errors_total{consumer="nexus"}'] == 0
    live = source.nexus.files[0]
    assert compare_files(live, tmp_path / "server" / "nexus" / live.name) == []
    lines = [json.loads(x) for x in (tmp_path / "server/callbacks.jsonl").read_text().splitlines()]
    assert {x["consumer"]: x["status"] for x in lines[1:]} == {
        "nexus": "finished",
        "callback_consumers:refuse": "failed",
    }


def test_the_publisher_is_started_again_and_nothing_is_missing(source):
    subscriber = DocumentSubscriber(source.address)
    documents = list(long_run(200))
    got = []
    for number, (name, doc) in enumerate(documents):
        source.send(name, doc)
        if number == 100:
            os.kill(source.publisher.pid, signal.SIGKILL)
        got += [(x.name, x.doc) for x in subscriber.receive(0)]
    deadline = time.monotonic() + 100
    while len(got) < len(documents) and time.monotonic() < deadline:
        got += [(x.name, x.doc) for x in subscriber.receive(0.1)]
    subscriber.close()
    assert got == documents


@pytest.mark.parametrize("policy", ["stop", "pause"])
def test_a_plan_fails_or_pauses_with_the_sentence_of_the_consumer(source, serve, policy):
    from bluesky import RunEngine, plans
    from bluesky.utils import RunEngineInterrupted
    from ophyd.sim import det

    from beamline.documents.consumers import ConsumerError
    from beamline.session import pause

    serve(f"callback_consumers:refuse={policy}")
    stops = []
    run_engine = RunEngine({}, context_managers=[])
    run_engine.subscribe(source.send)
    run_engine.subscribe(lambda name, doc: stops.append(doc), "stop")
    source.publisher.on_pause = partial(pause, run_engine)
    plan = plans.count([det], num=5000, delay=0.02)
    if policy == "stop":
        with pytest.raises(ConsumerError, match="RuntimeError: I do not take event 10"):
            run_engine(plan)
        assert stops[0]["exit_status"] == "fail"
        assert "I do not take event 10" in stops[0]["reason"]
    else:
        with pytest.raises(RunEngineInterrupted):
            run_engine(plan)
        assert run_engine.state == "paused"
        run_engine.abort("seen")


def test_a_failure_after_the_end_of_a_run_stops_the_next_one_once(source, serve):
    from bluesky import RunEngine, plans
    from ophyd.sim import det

    from beamline.documents.consumers import ConsumerError

    child = serve("callback_consumers:refuse_stop=stop")
    stops = []
    run_engine = RunEngine({}, context_managers=[])
    run_engine.subscribe(source.send)
    run_engine.subscribe(lambda name, doc: stops.append(doc), "stop")
    run_engine(plans.count([det], num=2))
    failed = 'runs_failed_total{consumer="callback_consumers:refuse_stop"}'
    until(lambda: metrics(child)[failed] == 1)
    until(lambda: source.publisher._late is not None)
    with pytest.raises(ConsumerError, match="I cannot close the file") as error:
        run_engine(plans.count([det], num=2))
    assert "That run had ended already" in str(error.value)
    assert [stop["exit_status"] for stop in stops] == ["success", "fail"]
    run_engine(plans.count([det], num=2))
    assert stops[-1]["exit_status"] == "success"
    assert child.stop(timeout=100) == 1


def test_g2_of_a_run_over_the_network_is_that_of_a_consumer_here(source, serve, tmp_path):
    import h5py
    import numpy as np
    from xpcs_documents import Series, frames_of

    from callbacks.xpcs import XPCSWriter

    here = XPCSWriter(tmp_path / "here", plot_interval=0, sinks=[])
    send = Fanout(source.send, here)
    child = serve("xpcs")
    series = Series(tmp_path, send, sparse=True)
    frames = frames_of(120)
    for first in (0, 40, 80):
        series.write(frames[first : first + 40])
        series.refer()
    series.stop()
    folder = tmp_path / "server" / "xpcs"
    until(lambda: list(folder.glob("*_results.hdf")), what="the result file")
    (path,), (own,) = folder.glob("*_results.hdf"), here.files
    assert path.name == own.name
    with h5py.File(path) as there, h5py.File(own) as local:
        for name in ("normalized_g2", "normalized_g2_err_block", "delay_list"):
            np.testing.assert_array_equal(
                there[f"/xpcs/multitau/{name}"][()], local[f"/xpcs/multitau/{name}"][()]
            )
    until(path.with_suffix(".png").exists, what="the picture")
    until(lambda: metrics(child)['consumer_errors_total{consumer="xpcs"}'] == 0)
    # The server's own journal of g2.
    assert list((folder / "journal").glob("*/*.journal"))
