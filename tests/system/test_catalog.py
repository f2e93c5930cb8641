"""The catalogue with the real stack: RunEngine, journal, feeding process, tiled, databroker."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import event_model
import h5py
import numpy as np
import pytest
from catalog_runs import NUMBER, frames_run, record

from beamline.catalog import CatalogError, CatalogFeed, open_catalog, search_runs, sync_catalog
from beamline.catalog._client import opened
from beamline.documents import Fanout, Journal, JournalWriter
from beamline.documents.replay import CUT_OFF

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

#: Seconds for the feed, which imports tiled first and gives way to everybody else.
PATIENCE = 300.0


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A fed catalogue with real runs in it: data directory, feed, client, live documents."""
    from bluesky import RunEngine, plan_stubs, plans
    from bluesky.preprocessors import baseline_wrapper, run_wrapper
    from ophyd.sim import SynAxis, SynGauss

    data_dir = tmp_path_factory.mktemp("with space µ")
    live = []
    with CatalogFeed(data_dir) as feed:
        motor = SynAxis(name="sample_x")
        other = SynAxis(name="sample-y")
        counter = SynGauss("i0", motor, "sample_x", center=0, Imax=1000, noise="uniform")
        engine = RunEngine({"sample": {"name": "Cu"}})
        journal = JournalWriter(data_dir / "journal")
        engine.subscribe(Fanout(journal, lambda name, doc: live.append((name, doc))))
        uids = []
        uids += engine(
            baseline_wrapper(plans.scan([counter, other], motor, -1, 1, 11), [motor, other])
        )
        uids += engine(plans.count([counter], 3))

        def lost():
            yield from plan_stubs.trigger_and_read([counter])
            raise RuntimeError("beam lost")

        with pytest.raises(RuntimeError):
            engine(run_wrapper(lost()))
        uids.append(journal.last_uid)
        for uid in uids:
            feed.wait(uid, PATIENCE)
        client = open_catalog(data_dir)
        yield data_dir, feed, client, live, uids
        client.context.close()


def test_runs_are_found_by_index_scan_id_and_uid(session):
    _, _, catalog, _, uids = session
    assert len(catalog) == 3
    assert catalog[-1].start["uid"] == uids[2]
    assert catalog[-2].start["scan_id"] == 2
    assert catalog[1].start["uid"] == uids[0]
    assert catalog[uids[1]].start["uid"] == uids[1]
    assert catalog[uids[1][:8]].start["uid"] == uids[1]
    for wrong in (99, -9, "zzzzzzzz"):
        with pytest.raises((KeyError, IndexError)):
            catalog[wrong]


def test_data_are_those_of_the_events(session):
    _, _, catalog, live, uids = session
    descriptors = {
        doc["uid"]
        for name, doc in live
        if name == "descriptor" and doc["run_start"] == uids[0] and doc["name"] == "primary"
    }
    events = [doc for name, doc in live if name == "event" and doc["descriptor"] in descriptors]
    run = catalog[1]
    assert set(run) == {"primary", "baseline"}
    data = run.primary.read()
    assert data.sizes == {"time": 11}
    for key in ("sample_x", "sample_x_setpoint", "i0", "sample-y"):
        assert data[key].values.tolist() == [event["data"][key] for event in events]
    assert data["time"].values.tolist() == [event["time"] for event in events]
    assert run.baseline.read().sizes == {"time": 2}
    start = next(doc for name, doc in live if name == "start" and doc["uid"] == uids[0])
    assert run.start["plan_name"] == "scan"
    assert run.start["sample"] == start["sample"]
    assert run.stop["num_events"] == {"primary": 11, "baseline": 2}


def test_a_failed_run_is_there_and_says_why(session):
    _, _, catalog, _, _ = session
    assert catalog[-1].stop["exit_status"] == "fail"
    assert "beam lost" in catalog[-1].stop["reason"]
    assert len(catalog[-1].primary.read()["time"]) == 1


def test_documents_come_out(session):
    """Equal in content; uids of events are made anew (the journal keeps them)."""
    data_dir, _, catalog, _, uids = session
    recorded = list(Journal(data_dir / "journal").documents(uids[0]))
    documents = list(catalog[uids[0]].documents())
    names = [name for name, _ in documents]
    assert (names[0], names[-1]) == ("start", "stop")
    assert names.count("event") == 13
    for stream, count in (("primary", 11), ("baseline", 2)):
        rows = []
        for source in (recorded, documents):
            (descriptor,) = [
                d["uid"] for n, d in source if n == "descriptor" and d["name"] == stream
            ]
            rows.append(
                [d["data"] for n, d in source if n == "event" and d["descriptor"] == descriptor]
            )
        assert rows[0] == rows[1]
        assert len(rows[0]) == count


def test_searches(session):
    from databroker.queries import ScanIDRange
    from tiled.queries import Eq, Key

    _, _, catalog, _, uids = session
    assert [run.start["uid"] for run in catalog.search(Eq("plan_name", "count")).values()] == [
        uids[1]
    ]
    assert len(catalog.search(Key("start.sample.name") == "Cu")) == 3
    assert len(catalog.search(ScanIDRange(1, 3))) == 2


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"scan_id": 202}, [202]),
        ({"sample": "Ni"}, [201, 202]),
        ({"sample": "Ni", "plan": "fly_scan"}, [202]),
        ({"plan": "xafs"}, [201, 203]),
        ({"since": "2020-05-02", "until": "2021-01-01"}, [202, 203]),
        ({"since": "2020-05-01T12:00:01", "until": "2020-05-02"}, [202]),
        ({"until": "2020-05-01"}, [201]),
        ({"status": "abort"}, [203]),
        ({"plan": "xafs", "sample": "no such"}, []),
    ],
    ids=str,
)
def test_search_by_number_sample_plan_time_and_status(searched, conditions, expected):
    data_dir, catalog = searched
    found = search_runs(catalog, **conditions)
    assert [run.start["scan_id"] for run in found.values()] == expected
    options = [
        word for name, value in conditions.items()
        for word in (f"--{name.replace('_', '-')}", value)
    ]  # fmt: skip
    out = beamline("runs", "--data-dir", data_dir, *options)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    if expected:
        assert [int(line.split()[0]) for line in lines[1:]] == expected
    else:
        assert lines == [f"No run of 3 is like that in {data_dir / 'journal'}."]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("searched")
    noon = dt.datetime.fromisoformat("2020-05-01T12:00").timestamp()
    record(data_dir, scan_id=201, begun=noon, plan_name="xafs", sample={"name": "Ni", "mass": 2})
    record(data_dir, scan_id=202, begun=noon + 86400, plan_name="fly_scan", sample="Ni")
    record(data_dir, scan_id=203, begun=noon + 2 * 86400, plan_name="xafs", exit_status="abort")
    assert sync_catalog(data_dir).failed == {}
    with opened(data_dir) as catalog:
        yield data_dir, catalog


def test_new_runs_are_seen_by_an_open_client_in_order_of_start(session):
    data_dir, feed, catalog, _, _ = session
    uid = record(data_dir, scan_id=50)
    feed.wait(uid, PATIENCE)
    assert catalog[-1].start["uid"] == uid
    # One that is recorded late but began earlier does not become the latest.
    old = record(data_dir, scan_id=51, begun=time.time() - 86400)
    feed.wait(old, PATIENCE)
    assert catalog[-1].start["uid"] == uid
    assert catalog[51].start["uid"] == old


def test_frames_are_read_through_references(session):
    data_dir, feed, catalog, _, _ = session
    frames = np.arange(5 * 4 * 3, dtype="<u2").reshape(5, 4, 3)
    file = data_dir / "frames" / "run.h5"
    file.parent.mkdir()
    # The file stays open in another process, as in a detector's writer, which locks it.
    code = """
        import sys, h5py, numpy as np
        frames = np.arange(60, dtype="<u2").reshape(5, 4, 3)
        file = h5py.File(sys.argv[1], "w")
        file.create_dataset("/entry/data/data", data=frames, chunks=(1, 4, 3))
        file.flush()
        print("ready", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writing:
        assert writing.stdout.readline() == "ready\n"
        feed.wait(frames_run(data_dir, file, frames, scan_id=60), PATIENCE)
        assert np.array_equal(catalog[60].primary["im"].read(), frames)
        data = catalog[60].primary.read()
        assert np.array_equal(data["im"].values, frames)
        assert data["x"].values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
        names = [name for name, _ in catalog[60].documents()]
        assert names.count("stream_resource") == 1
        filled = list(catalog[60].documents(fill=True))
        rows = [doc for name, doc in filled if name == "event"]
        assert {name for name, _ in filled} == {"start", "descriptor", "event", "stop"}
        assert [row["data"]["x"] for row in rows] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert np.array_equal([row["data"]["im"] for row in rows], frames)
        assert all(row["filled"] == {"im": True} for row in rows)
        (descriptor,) = [doc for name, doc in filled if name == "descriptor"]
        assert "external" not in descriptor["data_keys"]["im"]
        for name, doc in filled:
            event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    file.unlink()
    # Without the file the rest of the run is still there.
    assert len(catalog[60].primary.read(["x"])["x"]) == 5
    with pytest.raises(Exception, match=r"run\.h5"):
        catalog[60].primary["im"].read()
    with pytest.raises(Exception, match=r"run\.h5"):
        list(catalog[60].documents(fill=True))


def test_hostile_journals_do_not_stop_the_feed(session):
    data_dir, feed, catalog, _, _ = session
    day = next((data_dir / "journal").iterdir())
    (day / "empty.journal").touch()
    (day / "garbage.journal").write_bytes(os.urandom(1000))
    uid = record(data_dir, scan_id=70)
    whole = (Journal(data_dir / "journal").find(uid)).path.read_bytes()
    (day / "half.journal").write_bytes(whole[:60])
    orphan = record(data_dir, scan_id=71, keys={"x": NUMBER}, values=[{"x": 1.0}])
    feed.wait(uid, PATIENCE)
    feed.wait(orphan, PATIENCE)
    assert catalog[70].start["uid"] == uid
    for name in ("empty", "garbage", "half"):
        (day / f"{name}.journal").unlink()


def test_a_refused_run_is_named_and_the_next_is_taken(session):
    data_dir, feed, _, _, _ = session
    bad = "no/uid"  # which has no place in an address
    run = event_model.compose_run(uid=bad)
    with JournalWriter(data_dir / "journal") as writer:
        writer("start", run.start_doc)
        writer("stop", run.compose_stop())
    good = record(data_dir, scan_id=80)
    feed.wait(good, PATIENCE)
    with pytest.raises(CatalogError, match=f"run {bad} could not be brought into the catalogue"):
        feed.wait(timeout=PATIENCE)
    feed.wait(timeout=PATIENCE)
    with pytest.raises(CatalogError, match=f"run {bad} could not be brought into the catalogue"):
        feed.wait(bad, PATIENCE)
    Journal(data_dir / "journal").find(bad).path.unlink()


def test_streams_of_any_name_are_in(session):
    data_dir, feed, catalog, _, _ = session
    names = ["a b/c", "a b_c", "..", "streams", "what?", "100%", "#1", "µ", "x" * 200]
    run = event_model.compose_run(metadata={"scan_id": 81})
    with JournalWriter(data_dir / "journal") as writer:
        writer("start", run.start_doc)
        for number, name in enumerate(names):
            descriptor = run.compose_descriptor(name=name, data_keys={f"k{number}": NUMBER})
            writer("descriptor", descriptor.descriptor_doc)
            event = descriptor.compose_event(
                data={f"k{number}": float(number)}, timestamps={f"k{number}": 1.0}
            )
            writer("event", event)
        writer("stop", run.compose_stop())
    feed.wait(run.start_doc["uid"], PATIENCE)
    found = catalog[81]
    originals = {}
    for stream in found:
        original = found[stream].metadata.get("original_name", stream)
        originals[original] = stream
        number = names.index(original)
        assert found[stream].read()[f"k{number}"].values.tolist() == [number]
    assert sorted(originals) == sorted(names)
    assert originals["a b_c"] == "a b_c"
    assert originals["a b/c"] == "a b_c_2"
    descriptors = [doc for name, doc in found.documents() if name == "descriptor"]
    assert sorted(doc.get("original_name", doc["name"]) for doc in descriptors) == sorted(names)


@pytest.mark.slow
def test_a_second_session_on_the_same_directory_does_no_harm(session):
    data_dir, feed, catalog, _, _ = session
    before = len(catalog)
    with CatalogFeed(data_dir) as second:
        uids = [record(data_dir, scan_id=90 + i, rows=20) for i in range(5)]
        for uid in uids:
            second.wait(uid, PATIENCE)
            feed.wait(uid, PATIENCE)
        assert len(catalog) == before + 5
        assert all(len(catalog[90 + i].primary.read()["x"]) == 20 for i in range(5))
        with pytest.raises(CatalogError, match="fed by a session"):
            sync_catalog(data_dir, rebuild=True)
    result = sync_catalog(data_dir)
    assert (result.added, result.failed) == (0, {})


@pytest.mark.slow
def test_reading_while_the_feed_writes(session):
    data_dir, feed, catalog, _, _ = session
    uid = record(data_dir, rows=15000, scan_id=100)
    reads = 0
    while uid not in feed._ledger.refresh():
        assert catalog[1].primary.read().sizes == {"time": 11}
        assert catalog[-1].start["uid"]
        reads += 1
    feed.wait(uid, PATIENCE)
    assert reads >= 2
    assert catalog[100].primary.read()["x"].values.tolist() == list(range(15000))


@pytest.mark.slow
def test_killed_feed_resumes_without_loss_or_double(session):
    data_dir, feed, catalog, _, _ = session
    before = len(catalog)
    uid = record(data_dir, rows=30000, scan_id=110)
    log = feed.log.read_text()
    # In the middle of the run: it is there, but its stop document is not.
    until(lambda: uid in catalog and "stop" not in catalog[uid].metadata)
    pid = feed.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    assert uid not in feed._ledger.refresh()
    later = record(data_dir, scan_id=111)
    feed.wait(uid, PATIENCE)
    feed.wait(later, PATIENCE)
    assert feed.pid != pid
    assert len(catalog) == before + 2
    assert catalog[110].primary.read()["x"].values.tolist() == list(range(30000))
    assert f"{uid} is in (complete" in feed.log.read_text()[len(log) :]


def test_feed_ends_with_its_session(tmp_path):
    code = """
        import os, sys, time
        from beamline.catalog import CatalogFeed
        feed = CatalogFeed(sys.argv[1]).start()
        print(feed.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))


# --- without a feed -------------------------------------------------------------------------------


def key(dtype, shape=(), **more):
    return {"source": "s", "dtype": dtype, "shape": list(shape), **more}


#: label: data keys, rows, what `primary.read()` gives of column "a".
ODD = {
    "numbers": (key("number"), [1, 2.5, None], [1.0, 2.5, np.nan]),
    "huge": (key("integer"), [1, 2**70], [1.0, 2.0**70]),
    "truth": (key("boolean"), [np.bool_(True), False], [True, False]),
    "text": (key("string"), ["µ", "b"], ["µ", "b"]),
    "mixed": (key("number"), ["OFF", 1.0], ["OFF", "1.0"]),
    "nothing": (key("number"), [None, None], [np.nan, np.nan]),
    "small array": (key("array", (3,)), [np.arange(3.0), (1, 2, 3)], [[0, 1, 2], [1, 2, 3]]),
    "image": (
        key("array", (6, 5), dtype_numpy="<u2"),
        [np.full((6, 5), i, "<u2") for i in range(3)],
        np.arange(3)[:, None, None] * np.ones((6, 5), "<u2"),
    ),
    "ragged": (key("array", (3,)), [[1.0, 2.0, 3.0], [4.0]], [[1, 2, 3], [4, np.nan, np.nan]]),
    "words": (key("array", (2,)), [["a", "bb"], ["ccc", ""]], [["a", "bb"], ["ccc", ""]]),
    "empty arrays": (key("array", (0,)), [[], []], ["[]", "[]"]),
}


STACK = np.arange(6 * 4 * 3, dtype="<u2").reshape(6, 4, 3)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Odd runs, and broken ones, brought in by one call in this process."""
    data_dir = tmp_path_factory.mktemp("odd")
    for number, (data_key, values, _) in enumerate(ODD.values(), 1):
        rows = [{"a": value} for value in values]
        record(data_dir, keys={"a": data_key}, values=rows, scan_id=number, pages=number % 2)
    record(data_dir, rows=0, scan_id=100)
    record(data_dir, rows=4, scan_id=101, stop=False)
    metadata = {"array": np.arange(3), "none": None, "nested": {"deep": [np.float64(1.5)]}}
    record(data_dir, scan_id=102, **metadata)
    names = {"time": NUMBER, "A": NUMBER, "a": NUMBER, "µ": NUMBER, "x" * 80: NUMBER}
    record(data_dir, keys=names, values=[dict.fromkeys(names, 1.0)], scan_id=103)
    legacy(data_dir)
    torn = record(data_dir, rows=10, scan_id=105)
    path = Journal(data_dir / "journal").find(torn).path
    path.write_bytes(path.read_bytes()[:-400])
    frames_run(data_dir, data_dir / "stack.h5", STACK, per_event=2, scan_id=106)
    result = sync_catalog(data_dir)
    with opened(data_dir) as client:
        yield data_dir, result, client


def legacy(data_dir):
    """A run with Resource and Datum documents, as older devices make them."""
    file = data_dir / "old.h5"
    with h5py.File(file, "w") as stream:
        stream["/entry/data/data"] = np.arange(24, dtype="<u2").reshape(2, 4, 3)
    run = event_model.compose_run(metadata={"scan_id": 104})
    image = {"source": "", "dtype": "array", "shape": [4, 3], "external": "FILESTORE:"}
    descriptor = run.compose_descriptor(
        name="primary", data_keys={"im": {**image, "dtype_numpy": "<u2"}, "x": NUMBER}
    )
    resource = run.compose_resource(
        spec="AD_HDF5", root=str(data_dir), resource_path="old.h5", resource_kwargs={}
    )
    with JournalWriter(data_dir / "journal") as writer:
        writer("start", run.start_doc)
        writer("descriptor", descriptor.descriptor_doc)
        writer("resource", resource.resource_doc)
        for i in range(2):
            datum = resource.compose_datum(datum_kwargs={"point_number": i})
            writer("datum", datum)
            writer(
                "event",
                descriptor.compose_event(
                    data={"im": datum["datum_id"], "x": float(i)},
                    timestamps={"im": 1.0, "x": 1.0},
                    filled={"im": False},
                ),
            )
        writer("stop", run.compose_stop())


def test_all_odd_runs_are_in(odd):
    _, result, client = odd
    assert result.failed == {}
    assert result.added == len(client) == len(ODD) + 7
    assert len(result.incomplete) == 2


@pytest.mark.parametrize("label", ODD)
def test_odd_columns(odd, label):
    _, _, catalog = odd
    expected = np.asarray(ODD[label][2])
    got = catalog[list(ODD).index(label) + 1].primary.read()["a"].values
    assert got.shape == expected.shape
    assert got.dtype.kind == expected.dtype.kind or {got.dtype.kind, expected.dtype.kind} <= set(
        "iuf"
    )
    if expected.dtype.kind == "f":
        assert np.array_equal(got.astype(float), expected, equal_nan=True)
    else:
        assert np.array_equal(got, expected)


def test_several_frames_in_an_event_are_filled(odd):
    _, _, catalog = odd
    filled = [doc for name, doc in catalog[106].documents(fill=True) if name == "event"]
    assert [doc["data"]["im"].shape for doc in filled] == [(2, 4, 3)] * 3
    assert np.array_equal(np.concatenate([doc["data"]["im"] for doc in filled]), STACK)


def contents(catalog):
    """Everything that the runs of a catalogue say."""
    found = {}
    for run in catalog.values():
        columns = {}
        for stream in run:
            data = run[stream].read()
            columns[stream] = {name: data[name].values.tolist() for name in data.variables}
        documents = [(name, dict(doc)) for name, doc in run.documents()]
        found[run.start["uid"]] = (dict(run.metadata), columns, documents)
    return found


@pytest.mark.slow
def test_a_catalogue_made_anew_is_equal(odd, tmp_path):
    data_dir, _, catalog = odd
    (tmp_path / "journal").symlink_to(data_dir / "journal")
    assert sync_catalog(tmp_path).added == len(catalog)
    assert sync_catalog(tmp_path, rebuild=True).added == len(catalog)
    with opened(tmp_path) as rebuilt:
        made, was = contents(rebuilt), contents(catalog)
    assert list(made) == list(was)
    for uid in was:
        np.testing.assert_equal(made[uid], was[uid])


def test_odd_runs_as_a_whole(odd):
    _, _, catalog = odd
    assert list(catalog[100].documents())[-1][1]["exit_status"] == "success"
    cut = catalog[101]
    assert (cut.stop["exit_status"], cut.stop["reason"]) == ("fail", CUT_OFF)
    assert len(cut.primary.read()["x"]) == 4
    assert catalog[102].start["nested"] == {"deep": [1.5]}
    assert catalog[102].start["array"] == [0, 1, 2]
    originals = {
        name: data_key.get("original_key")
        for name, data_key in catalog[103].primary.metadata["data_keys"].items()
    }
    assert originals["time_"] == "time"
    assert "µ" in originals.values()
    assert len(originals) == 5
    assert catalog[104].primary["im"].read().shape == (2, 4, 3)
    assert catalog[104].primary.read(["x"])["x"].values.tolist() == [0.0, 1.0]
    torn = catalog[105].primary.read()["x"].values
    assert 5 <= len(torn) < 10
    assert torn.tolist() == list(range(len(torn)))


def test_sync_again_changes_nothing_and_needs_no_tiled(odd):
    data_dir, _, catalog = odd
    code = """
        import sys
        from beamline.catalog import sync_catalog
        result = sync_catalog(sys.argv[1])
        print(result.added, result.present, "tiled" in sys.modules)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(data_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split() == ["0", str(len(catalog)), "False"]


@pytest.mark.slow
def test_a_damaged_catalogue_is_one_sentence_and_can_be_rebuilt(tmp_path):
    uid = record(tmp_path, scan_id=1)
    record(tmp_path, scan_id=2, stop=False)
    (next((tmp_path / "journal").iterdir()) / "bad.journal").write_bytes(b"junk")
    frames = tmp_path / "frames.h5"
    frames.write_bytes(b"precious")
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "catalog.db").write_bytes(b"not a database" * 1000)
    (tmp_path / "catalog" / "ingested.jsonl").write_text(
        f'{{"uid": "{uid}", "status": "complete", "size": 1, "reason": ""}}\n'
    )
    with pytest.raises(CatalogError, match=r"cannot open the catalogue .*sync --rebuild") as error:
        open_catalog(tmp_path)
    assert "\n" not in str(error.value)
    out = beamline("catalog", "sync", "--rebuild", "--data-dir", tmp_path)
    assert out.returncode == 1
    assert "2 runs brought in, 0 were there, 1 of the new ones were cut off." in out.stdout
    assert "bad.journal was not brought in" in out.stderr
    with opened(tmp_path) as catalog:
        assert catalog[1].start["uid"] == uid
        assert catalog[2].stop["exit_status"] == "fail"
    assert frames.read_bytes() == b"precious"


# --- the command line -----------------------------------------------------------------------------


def beamline(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "beamline", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_runs_are_listed(session):
    data_dir, _, _, _, uids = session
    out = beamline("runs", "--data-dir", data_dir, "--limit", 100)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert lines[0].split() == [
        "scan_id", "uid", "plan", "sample", "started", "duration", "events", "status",
    ]  # fmt: skip
    line = next(line for line in lines if uids[0][:8] in line)
    assert line.split()[:4] == ["1", uids[0][:8], "scan", "Cu"]
    assert "primary:11" in line
    assert "success" in line
    assert any("fail: beam lost" in line for line in lines)
    short = beamline("runs", "--data-dir", data_dir, "--limit", 1)
    assert len(short.stdout.splitlines()) == 2


def test_no_runs_is_no_error(tmp_path):
    out = beamline("runs", "--data-dir", tmp_path)
    assert out.returncode == 0
    assert "No runs are recorded" in out.stdout


def test_replay_of_a_missing_run_says_what_there_is(session, tmp_path):
    data_dir, *_ = session
    out = beamline("replay", "12345", "--to", "nexus", tmp_path, "--data-dir", data_dir)
    assert out.returncode == 1
    assert "no run with scan_id 12345" in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def test_a_run_without_frames_gives_no_cxi_file(session, tmp_path):
    data_dir, *_ = session
    out = beamline("replay", "1", "--to", "cxi", tmp_path / "cxi", "--data-dir", data_dir)
    assert out.returncode == 0, out.stderr
    assert out.stdout == ""
    assert "gave no cxi file" in out.stderr


def test_replay_writes_files(session, tmp_path):
    pytest.importorskip("callbacks.nexus", reason="the NeXus writer is not in this tree")
    data_dir, *_, uids = session
    out = beamline("replay", "1", "--to", "nexus", tmp_path / "nexus", "--data-dir", data_dir)
    assert out.returncode == 0, out.stderr
    (name,) = out.stdout.splitlines()
    assert uids[0][:8] in name
    with h5py.File(name) as file:
        assert file.attrs["default"]
    cut = record(tmp_path, stop=False, scan_id=3, plan_name="count")
    out = beamline("replay", "-1", "--to", "nexus", tmp_path / "nexus", "--data-dir", tmp_path)
    assert out.returncode == 0, out.stderr
    assert cut[:8] in out.stdout


def test_sync_of_nothing_is_one_sentence(tmp_path):
    out = beamline("catalog", "sync", "--data-dir", tmp_path / "nowhere")
    assert out.returncode == 1
    assert "there is no journal" in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1
