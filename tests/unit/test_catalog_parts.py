"""Parts of the catalogue that need no tiled: columns, plain values, the ledger, the watch."""

from __future__ import annotations

import datetime as dt
import json
import math
import multiprocessing
import socket
import subprocess
import sys
import time
from pathlib import Path

import event_model
import numpy as np
import pytest

from beamline.catalog import CatalogError, CatalogFeed, moment, open_catalog, sync_catalog
from beamline.catalog._columns import survey
from beamline.catalog._ledger import Entry, Ledger, catalog_lock
from beamline.catalog._location import Location
from beamline.catalog._plain import plain
from beamline.catalog._prepare import Preparer
from beamline.catalog._priority import Recording
from beamline.catalog._watch import Watch
from beamline.core.errors import ConfigurationError, MissingError
from beamline.documents import DocumentError, Journal, JournalWriter


def run_documents(keys, rows, pages=False, stop=True):
    run = event_model.compose_run()
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    documents = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    events = [
        descriptor.compose_event(
            data=row, timestamps=dict.fromkeys(row, time.time()), validate=False
        )
        for row in rows
    ]
    if pages:
        documents.append(("event_page", event_model.pack_event_page(*events)))
    else:
        documents += [("event", event) for event in events]
    if stop:
        documents.append(("stop", run.compose_stop()))
    return documents


def key(dtype, shape=(), **more):
    return {"source": "s", "dtype": dtype, "shape": list(shape), **more}


def stored(dtype, values, shape=(), pages=False, **more):
    """Values of one column, and its data key, as the catalogue stores them."""
    documents = run_documents(
        {"c": key(dtype, shape, **more)}, [{"c": value} for value in values], pages
    )
    prepare = Preparer(survey(documents))
    made = [(name, prepare(name, doc)) for name, doc in documents]
    data_key = made[1][1]["data_keys"]["c"]
    if pages:
        return made[2][1]["data"]["c"], data_key
    return [doc["data"]["c"] for name, doc in made if name == "event"], data_key


@pytest.mark.parametrize("pages", [False, True])
@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("number", [1, 2.5], [1.0, 2.5]),
        ("number", [1, 2], [1.0, 2.0]),
        ("integer", [np.int32(1), 2], [1, 2]),
        ("integer", [1, 2**70], [1.0, float(2**70)]),
        ("integer", [True, 2], [1.0, 2.0]),
        ("boolean", [np.bool_(True), False], [True, False]),
        ("string", ["OFF", 1.0, None], ["OFF", "1.0", None]),
        ("number", ["OFF", 1.0], ["OFF", "1.0"]),
        ("string", [b"ab", "c"], ["ab", "c"]),
        ("number", [{"a": 1}, 2.0], ['{"a": 1}', "2.0"]),
        ("array", [[1, None], [1, 2]], ["[1, null]", "[1, 2]"]),
        ("array", [[], []], ["[]", "[]"]),
        ("array", [[[1], [2, 3]]], ["[[1], [2, 3]]"]),
        ("array", [None, [1.0]], [None, "[1.0]"]),
    ],
)
def test_columns_have_one_kind(dtype, values, expected, pages):
    got, _ = stored(dtype, values, pages=pages)
    assert got == expected
    assert [type(value) for value in got] == [type(value) for value in expected]


@pytest.mark.parametrize("dtype", ["number", "integer", "boolean"])
def test_missing_numbers_are_nan(dtype):
    got, _ = stored(dtype, [None, None])
    assert all(math.isnan(value) for value in got)
    got, _ = stored(dtype, [None, 1])
    assert math.isnan(got[0])
    assert got[1] == 1.0


def test_arrays_keep_shape_and_type():
    got, data_key = stored("array", [np.ones((2, 3), "<u2"), [[1, 2, 3], [4, 5, 6]]], (9, 9))
    assert all(value.dtype == np.int64 and value.shape == (2, 3) for value in got)
    assert data_key["shape"] == [2, 3]
    assert data_key["dtype_numpy"] == "<i8"
    got, data_key = stored("array", [["x", "yy"], ["zzz", ""]], (2,))
    assert data_key["dtype_numpy"] == "<U3"
    assert got[1].tolist() == ["zzz", ""]


def test_ragged_rows_are_padded_and_others_become_text():
    got, data_key = stored("array", [np.arange(3.0), np.arange(1.0)], (3,))
    assert data_key["shape"] == [3]
    assert np.array_equal(got[1], [0.0, math.nan, math.nan], equal_nan=True)
    got, data_key = stored("array", [np.ones((2, 2)), np.ones((1, 2))], (2, 2))
    assert data_key["stored_as"] == "json"
    assert json.loads(got[1]) == [[1.0, 1.0]]


def test_names_that_sql_refuses_are_changed_and_told():
    names = ["time", "seq_num", "det", "DET", "µ", "1x", "a", "ts_a", "x--y", "a;b", "stage-x", "ø"]
    names += [f"beamline_{'x' * 60}_{i}" for i in range(2)]
    documents = run_documents({name: key("number") for name in names}, [dict.fromkeys(names, 1.0)])
    documents[1][1]["hints"] = {"dev": {"fields": ["time", "det"]}}
    documents[1][1]["object_keys"] = {"dev": ["time", "det"]}
    prepare = Preparer(survey(documents))
    descriptor = prepare(*documents[1])
    event = prepare(*documents[2])
    columns = list(event["data"])
    everything = [*columns, *(f"ts_{name}" for name in columns), "time", "seq_num"]
    assert len({name.lower() for name in everything}) == len(everything)
    assert all(len(name.encode()) <= 63 for name in everything)
    assert all(name[0].isascii() and name[0].isalpha() for name in columns)
    assert list(descriptor["data_keys"]) == columns == list(event["timestamps"])
    assert {"det", "a", "stage-x"} <= set(columns)
    originals = [
        data_key.get("original_key", name) for name, data_key in descriptor["data_keys"].items()
    ]
    assert originals == names
    assert descriptor["hints"]["dev"]["fields"] == ["time_", "det"]
    assert descriptor["object_keys"]["dev"] == ["time_", "det"]


def test_stream_names_that_have_no_place_in_an_address_are_changed_and_told():
    names = ["primary", "a b/c", "a b?c", "a b_c", "..", ".", "streams", "", "µ", "x" * 200]
    run = event_model.compose_run()
    descriptors = [
        run.compose_descriptor(name=name, data_keys={f"k{number}": key("number")}).descriptor_doc
        for number, name in enumerate(names)
    ]
    documents = [("start", run.start_doc), *(("descriptor", doc) for doc in descriptors)]
    prepare = Preparer(survey(documents))
    made = [prepare("descriptor", doc) for doc in descriptors]
    stored_as = [doc["name"] for doc in made]
    assert len(set(stored_as)) == len(names)
    assert stored_as[0] == "primary"
    assert stored_as[3] == "a b_c"
    assert stored_as[8] == "µ"
    assert not {"", ".", "..", "streams"} & set(stored_as)
    assert not set("/?#%") & set("".join(stored_as))
    assert [doc.get("original_name", doc["name"]) for doc in made] == names
    assert [doc["name"] for doc in descriptors] == names


def test_external_keys_are_left_alone():
    keys = {"x": key("number"), "image": key("array", (4, 4), external="STREAM:")}
    documents = run_documents(keys, [{"x": 1.0}])
    prepare = Preparer(survey(documents))
    assert prepare(*documents[1])["data_keys"]["image"] == keys["image"]
    assert list(prepare(*documents[2])["data"]) == ["x"]


def test_addresses_of_files_are_made_readable(tmp_path):
    file = tmp_path / "two words.h5"
    file.touch()
    prepare = Preparer({})
    doc = {"mimetype": "application/x-hdf5", "uri": file.as_uri(), "parameters": {"dataset": "/d"}}
    made = prepare("stream_resource", doc)
    assert made["uri"] == f"file://localhost{file}"
    assert made["parameters"] == {"dataset": "/d", "locking": False, "swmr": False}
    assert doc["parameters"] == {"dataset": "/d"}


def test_an_event_without_descriptor_is_named():
    documents = run_documents({"x": key("number")}, [{"x": 1.0}])
    del documents[1]
    with pytest.raises(DocumentError, match="not in the journal"):
        survey(documents)


def test_plain_values_are_json():
    value = {
        1: np.arange(2),
        "t": (1, {2}),
        "when": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "delta": dt.timedelta(seconds=2),
        "c": 1 + 2j,
        "b": b"\xff",
        "text": b"ok",
        "s": np.float64(1.5),
        "m": np.ma.MaskedArray([1, 2], mask=[0, 1]),
        "o": type,
    }
    assert json.loads(json.dumps(plain(value))) == {
        "1": [0, 1],
        "t": [1, [2]],
        "when": "2024-01-01T00:00:00+00:00",
        "delta": 2.0,
        "c": [1.0, 2.0],
        "b": "/w==",
        "text": "ok",
        "s": 1.5,
        "m": [1, None],
        "o": "<class 'type'>",
    }


# --- ledger and watch -----------------------------------------------------------------------------


def test_ledger_keeps_the_last_word_and_survives_torn_lines(tmp_path):
    ledger, reader = Ledger(tmp_path), Ledger(tmp_path)
    assert reader.refresh() == {}
    ledger.add(Entry("a", "failed", 10, "why"))
    ledger.add(Entry("b", "complete", 20))
    assert set(reader.refresh()) == {"a", "b"}
    with ledger.path.open("ab") as stream:
        stream.write(b'{"uid": "c", "stat')
    assert set(reader.refresh()) == {"a", "b"}
    ledger.add(Entry("a", "complete", 10))
    ledger.add(Entry("a", "complete", 10))
    assert reader.refresh()["a"].present
    assert Ledger(tmp_path).refresh() == reader.entries == ledger.entries
    assert len(ledger.path.read_text().splitlines()) == 4


def test_ledger_notices_that_the_catalogue_was_made_anew(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(Entry("a", "complete", 10))
    ledger.path.unlink()
    assert ledger.refresh() == {}
    Ledger(tmp_path).add(Entry("b", "complete", 10))
    assert set(ledger.refresh()) == {"b"}


def _hold(directory, shared, ready):
    with catalog_lock(directory, shared=shared):
        ready.set()
        time.sleep(600)


@pytest.mark.parametrize("shared", [False, True])
def test_lock_excludes_other_processes(tmp_path, shared):
    ready = multiprocessing.get_context("spawn").Event()
    other = multiprocessing.get_context("spawn").Process(
        target=_hold, args=(tmp_path, shared, ready), daemon=True
    )
    other.start()
    assert ready.wait(100)
    with pytest.raises(BlockingIOError), catalog_lock(tmp_path, wait=False):
        pass
    if shared:
        with catalog_lock(tmp_path, wait=False, shared=True):
            pass
    other.kill()
    other.join()
    with catalog_lock(tmp_path, wait=False):
        pass


def test_watch_offers_what_has_ended_once(tmp_path):
    journal = Journal(tmp_path)
    watch = Watch(journal)
    assert watch.ready({}) == []
    documents = run_documents({"x": key("number")}, [{"x": 1.0}])
    writer = JournalWriter(tmp_path)
    for item in documents[:-1]:
        writer(*item)
        assert watch.ready({}) == []
    writer(*documents[-1])
    (path,) = watch.ready({})
    assert watch.ready({}) == [path]
    uid = documents[0][1]["uid"]
    known = {uid: Entry(uid, "failed", path.stat().st_size, "locked")}
    assert watch.ready(known) == [path]
    known = {uid: Entry(uid, "complete", path.stat().st_size)}
    assert watch.ready(known) == []
    assert watch._open == {}


def test_watch_offers_cut_off_runs_and_again_if_they_have_grown(tmp_path):
    documents = run_documents({"x": key("number")}, [{"x": 1.0}])
    with JournalWriter(tmp_path) as writer:
        for item in documents[:-1]:
            writer(*item)
    (path,) = Watch(Journal(tmp_path)).ready({})
    uid = documents[0][1]["uid"]
    known = {uid: Entry(uid, "incomplete", path.stat().st_size)}
    assert Watch(Journal(tmp_path)).ready(known) == []
    known = {uid: Entry(uid, "incomplete", path.stat().st_size - 5)}
    assert Watch(Journal(tmp_path)).ready(known) == [path]


def test_watch_passes_over_hostile_files_until_they_change(tmp_path):
    day = tmp_path / "2024-01-01"
    day.mkdir()
    bad = day / "bad.journal"
    bad.write_bytes(b"")
    watch = Watch(Journal(tmp_path))
    assert watch.ready({}) == []
    assert watch.ready({}) == []
    with JournalWriter(tmp_path / "other") as writer:
        for item in run_documents({"x": key("number")}, []):
            writer(*item)
    (good,) = Journal(tmp_path / "other").paths()
    bad.write_bytes(good.read_bytes())
    assert watch.ready({}) == [bad]
    bad.unlink()
    assert watch.ready({}) == []


def test_what_is_written_while_the_watch_reads_is_offered(tmp_path, monkeypatch):
    from beamline.catalog import _watch

    day = tmp_path / "2024-01-01"
    day.mkdir()
    path = day / "fast.journal"
    path.touch()
    with JournalWriter(tmp_path / "other") as writer:
        for item in run_documents({"x": key("number")}, []):
            writer(*item)
    (whole,) = Journal(tmp_path / "other").paths()
    real = _watch.state

    def slowly(found):
        try:
            return real(found)
        finally:
            path.write_bytes(whole.read_bytes())

    watch = Watch(Journal(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(_watch, "state", slowly)
        assert watch.ready({}) == []
    assert watch.ready({}) == [path]


def test_a_file_that_is_taken_away_while_the_watch_reads_is_no_failure(tmp_path, monkeypatch):
    from beamline.catalog import _watch

    day = tmp_path / "2024-01-01"
    day.mkdir()
    bad = day / "bad.journal"
    bad.write_bytes(b"junk")
    real = _watch.state

    def slowly(found):
        bad.unlink()
        return real(found)

    watch = Watch(Journal(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(_watch, "state", slowly)
        assert watch.ready({}) == []
    assert watch.ready({}) == []


def test_recording_is_seen_while_it_lasts(tmp_path):
    recording = Recording(Journal(tmp_path))
    assert not recording.now()
    documents = run_documents({"x": key("number")}, [{"x": 1.0}])
    writer = JournalWriter(tmp_path)
    writer(*documents[0])
    assert recording.now()
    assert recording.now()
    (next(tmp_path.iterdir()) / "bad.journal").write_bytes(b"junk")
    for item in documents[1:]:
        writer(*item)
    assert not recording.now()
    writer(*(again := run_documents({"x": key("number")}, []))[0])
    assert recording.now()
    writer.close()
    assert not recording.now()
    assert again


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no sched_autogroup here")
def test_the_feed_gives_way_while_a_run_is_recorded_and_no_longer(tmp_path):
    code = (
        "import sys, threading, pathlib; from beamline.catalog._priority import give_way; "
        "from beamline.documents import Journal; "
        "give_way(Journal(pathlib.Path(sys.argv[1])), threading.Event()); sys.stdin.read()"
    )
    documents = run_documents({"x": key("number")}, [])
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, start_new_session=True
    ) as feed:
        group = Path(f"/proc/{feed.pid}/autogroup")

        def given(niceness):
            deadline = time.monotonic() + 60
            while group.read_text().split()[-1] != niceness:
                assert time.monotonic() < deadline, group.read_text()
                time.sleep(0.02)

        given("0")
        with JournalWriter(tmp_path) as writer:
            writer(*documents[0])
            given("19")
            for item in documents[1:]:
                writer(*item)
        given("0")


# --- the places and the questions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("tiled.example.org", "no address of a tiled server"),
        ("postgresql://db/x", "no address of a tiled server"),
        ("http://host:1?api_key=abc", "carries a secret"),
        ("http://me:abc@host", "carries a secret"),
    ],
)
def test_addresses_that_are_refused(tmp_path, uri, reason):
    for call in (CatalogFeed, open_catalog):
        with pytest.raises(CatalogError, match=reason):
            call(tmp_path, uri=uri)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_told_at_once(tmp_path):
    code = (
        "import sys; from beamline.catalog import UnreachableError, open_catalog\n"
        "try: open_catalog(sys.argv[1], uri=sys.argv[2])\n"
        "except UnreachableError as error: print(error, 'tiled' in sys.modules)"
    )
    with socket.socket() as silent:
        # Bound, so that nobody else listens there meanwhile.
        silent.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), uri],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert f"{uri}, does not answer: Connection refused; check the setting" in out.stdout
    assert out.stdout.endswith("False\n")


def test_each_server_has_its_own_list(tmp_path):
    places = {
        Location.of(tmp_path, uri).directory
        for uri in (
            None,
            "http://a:1",
            "http://a:1/",
            "https://a:2",
            "http://a:1/api/v1/metadata/x",
        )
    }
    assert len(places) == 4
    assert all(place.parent in (tmp_path, tmp_path / "catalog-server") for place in places)


def test_times_as_people_write_them():
    day = dt.datetime.fromisoformat("2026-03-01").timestamp()
    assert moment("2026-03-01") == day
    assert moment("2026-03-01T00:00:10") == day + 10
    assert moment("2026-03-01 00:01", end=True) == day + 60
    assert moment("2026-03-01", end=True) == dt.datetime.fromisoformat("2026-03-02").timestamp()
    assert moment("2026-03-01T12:00:00+00:00") == 1772366400.0
    assert moment("yesterday", end=True) == moment("Today")
    with pytest.raises(ConfigurationError, match="'noon' is no time: write it like"):
        moment("noon")


# --- the edges ------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported():
    code = (
        "import sys, beamline.catalog, beamline.documents; "
        "print([m for m in ('tiled', 'databroker', 'bluesky', 'pandas', 'dask', 'pyarrow', "
        "'sqlalchemy', 'event_model') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_sync_needs_a_journal(tmp_path):
    with pytest.raises(MissingError, match="there is no journal"):
        sync_catalog(tmp_path / "typing mistake")
    assert not (tmp_path / "typing mistake").exists()


def test_sync_with_nothing_to_do_makes_no_catalogue(tmp_path):
    JournalWriter(tmp_path / "journal")
    result = sync_catalog(tmp_path)
    assert (result.added, result.present, result.failed) == (0, 0, {})
    assert not (tmp_path / "catalog" / "catalog.db").exists()


@pytest.mark.parametrize("name", ["what?", "number#1"])
def test_paths_that_tiled_cannot_take_are_refused(tmp_path, name):
    with pytest.raises(CatalogError, match=r"no '\?' and no '#'"):
        open_catalog(tmp_path / name)


def test_waiting_without_a_process_says_so(tmp_path):
    feed = CatalogFeed(tmp_path)
    assert not feed.running
    feed.wait(timeout=0.1)
    with pytest.raises(CatalogError, match=r"run u was not in the catalogue after 0\.1 s; .*does"):
        feed.wait("u", timeout=0.1)
    (tmp_path / "catalog").mkdir()
    Ledger(tmp_path / "catalog").add(Entry("u", "failed", 1, "it is odd"))
    with pytest.raises(CatalogError, match=r"could not be brought .* it is odd"):
        feed.wait("u", timeout=0.1)


def test_a_refused_run_is_told_once_and_holds_up_no_other(tmp_path):
    with JournalWriter(tmp_path / "journal") as writer:
        uids = []
        for _ in range(3):
            documents = run_documents({"c": key("number")}, [{"c": 1.0}])
            uids.append(documents[0][1]["uid"])
            for name, doc in documents:
                writer(name, doc)
    (tmp_path / "catalog").mkdir()
    ledger = Ledger(tmp_path / "catalog")
    ledger.add(Entry(uids[0], "failed", 1, "it is odd"))
    ledger.add(Entry(uids[1], "failed", 1, "it is odd"))
    feed = CatalogFeed(tmp_path)
    with pytest.raises(CatalogError, match=f"run {uids[2]} was not in the catalogue"):
        feed.wait(timeout=0.1)
    ledger.add(Entry(uids[2], "complete", 1))
    first = min(uids[:2])
    with pytest.raises(CatalogError, match=f"run {first} could not .* it is odd, nor could 1 more"):
        feed.wait(timeout=0.1)
    feed.wait(timeout=0.1)
    with pytest.raises(CatalogError, match=f"run {uids[0]} could not be brought"):
        feed.wait(uids[0], timeout=0.1)
    feed.wait(uids[2], timeout=0.1)
