"""Replay: what was recorded comes again, complete, to any consumers, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import event_model
import numpy as np
import pytest
from bluesky import RunEngine, plans
from ophyd.sim import SynAxis, SynGauss

from beamline.documents import (
    ConsumerError,
    Fanout,
    Journal,
    JournalWriter,
    PerRunRouter,
    read_journal,
)
from beamline.documents.replay import CUT_OFF, completed, replay


class Recorder:
    def __init__(self):
        self.got = []

    def __call__(self, name, doc):
        self.got.append((name, doc))


def page_documents(rows=5):
    """A run with two streams, an array column, a page, and external data."""
    run = event_model.compose_run(metadata={"scan_id": 4})
    yield "start", run.start_doc
    keys = {
        "x": {"source": "", "dtype": "number", "shape": []},
        "trace": {"source": "", "dtype": "array", "shape": [3]},
    }
    primary = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", primary.descriptor_doc
    frame = {"source": "", "dtype": "array", "shape": [2, 2], "external": "STREAM:"}
    images = run.compose_descriptor(name="images", data_keys={"image": frame})
    yield "descriptor", images.descriptor_doc
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri="file://localhost/frames.h5",
        data_key="image",
        parameters={"dataset": "/entry/data/data", "chunk_shape": (1, 2, 2)},
    )
    yield "stream_resource", resource.stream_resource_doc
    yield (
        "stream_datum",
        resource.compose_stream_datum(
            indices={"start": 0, "stop": rows},
            seq_nums={"start": 1, "stop": rows + 1},
            descriptor=images.descriptor_doc,
        ),
    )
    events = [
        primary.compose_event(
            data={"x": float(i), "trace": np.arange(3.0) + i},
            timestamps={"x": 1.0, "trace": 1.0},
        )
        for i in range(rows)
    ]
    yield "event_page", event_model.pack_event_page(*events)
    yield "stop", run.compose_stop()


@pytest.fixture(scope="module")
def bluesky_runs(tmp_path_factory):
    """Real runs through a RunEngine: journal first, a recorder behind it."""
    directory = tmp_path_factory.mktemp("journal")
    live = Recorder()
    motor = SynAxis(name="motor")
    detector = SynGauss("det", motor, "motor", center=0, Imax=1, noise="uniform")
    run_engine = RunEngine({"sample": {"name": "Cu"}, "shape": (1, 2)})
    run_engine.subscribe(Fanout(JournalWriter(directory), live))
    run_engine(plans.scan([detector], motor, -1, 1, 7))
    run_engine(plans.rel_scan([detector], motor, -1, 1, 3))

    import bluesky.plan_stubs as bps
    from bluesky.preprocessors import run_wrapper

    def fails_inside():
        yield from bps.trigger_and_read([detector])
        raise RuntimeError("beam lost")

    with pytest.raises(RuntimeError, match="beam lost"):
        run_engine(run_wrapper(fails_inside()))
    run_engine(run_wrapper(bps.null()))
    return directory, live.got


def test_real_runs_come_back_identical(bluesky_runs):
    directory, live = bluesky_runs
    recorder = Recorder()
    count = 0
    for run in Journal(directory).runs():
        count += replay(read_journal(run.path), [recorder])
    assert count == len(live)
    for (name, doc), (live_name, live_doc) in zip(recorder.got, live, strict=True):
        assert name == live_name
        assert doc == live_doc
        assert type(doc.get("shape")) is type(live_doc.get("shape"))


def test_summaries_of_real_runs(bluesky_runs):
    directory, _ = bluesky_runs
    runs = Journal(directory).runs()
    assert [run.exit_status for run in runs] == ["success", "success", "fail", "success"]
    assert "beam lost" in runs[2].reason
    assert [run.plan_name for run in runs[:2]] == ["scan", "rel_scan"]
    assert [run.num_events.get("primary", 0) for run in runs] == [7, 3, 1, 0]
    assert {run.sample for run in runs} == {"Cu"}


def test_replayed_documents_are_valid(bluesky_runs):
    directory, _ = bluesky_runs

    def validate(name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)

    for run in Journal(directory).runs():
        replay(read_journal(run.path), [validate])


def test_pages_and_external_data_come_back(tmp_path):
    documents = list(page_documents())
    with JournalWriter(tmp_path) as writer:
        replay(documents, [writer])
    got = list(Journal(tmp_path).documents(4))
    assert [name for name, _ in got] == [name for name, _ in documents]
    traces = dict(got)["event_page"]["data"]["trace"]
    assert all(isinstance(trace, np.ndarray) for trace in traces)
    assert np.array_equal(traces, dict(documents)["event_page"]["data"]["trace"])
    assert dict(got)["stream_resource"] == dict(documents)["stream_resource"]


def test_all_consumers_are_served_before_the_error():
    good = Recorder()

    def bad(name, doc):
        if name == "event_page":
            raise OSError("full")

    with pytest.raises(ConsumerError, match=r"event_page document.*bad \(OSError: full\)"):
        replay(page_documents(), [bad, good])
    assert good.got[-1][0] == "event_page"


def test_a_run_that_was_cut_off_is_completed_the_same_way_each_time():
    documents = list(page_documents())[:-1]
    first, second = list(completed(documents)), list(completed(documents))
    assert first[:-1] == documents
    name, stop = first[-1]
    assert name == "stop"
    assert second[-1] == first[-1]
    event_model.schema_validators[event_model.DocumentNames.stop].validate(stop)
    assert stop["run_start"] == documents[0][1]["uid"]
    assert (stop["exit_status"], stop["reason"]) == ("fail", CUT_OFF)
    assert stop["num_events"] == {"primary": 5, "images": 0}
    assert stop["time"] == max(dict(documents)["event_page"]["time"])


def test_a_finished_run_is_left_as_it_is():
    documents = list(page_documents())
    assert list(completed(documents)) == documents
    assert list(completed([])) == []


def test_in_a_fresh_process_without_epics(bluesky_runs):
    """No IOC, no Channel Access, no tiled: only the file."""
    directory, _ = bluesky_runs
    code = """
        import sys
        from beamline.documents import Journal
        from beamline.documents.replay import replay
        names = []
        replay(Journal(sys.argv[1]).documents(1), [lambda name, doc: names.append(name)])
        print(*names)
        heavy = {"epics", "ophyd", "bluesky", "tiled", "caproto", "matplotlib", "h5py", "pandas"}
        print(sorted(heavy & set(sys.modules)))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(directory)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert out[0].split() == ["start", "descriptor", *["event"] * 7, "stop"]
    assert out[1] == "[]"


def test_speed(tmp_path):
    """At least 20,000 documents per second of processor time (50,000 on an idle machine)."""
    run = event_model.compose_run()
    keys = {f"c{i}": {"source": "", "dtype": "number", "shape": []} for i in range(10)}
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    event = descriptor.compose_event(
        data=dict.fromkeys(keys, 1.0), timestamps=dict.fromkeys(keys, 1.0)
    )
    with JournalWriter(tmp_path) as writer:
        writer("start", run.start_doc)
        writer("descriptor", descriptor.descriptor_doc)
        for _ in range(5000):
            writer("event", event)
        writer("stop", run.compose_stop())
    best = 0.0
    for _ in range(3):
        begun = time.thread_time()
        count = replay(
            Journal(tmp_path).documents(-1), [PerRunRouter([lambda start: [lambda n, d: None]])]
        )
        best = max(best, count / (time.thread_time() - begun))
    assert count == 5003
    assert best > 20000
