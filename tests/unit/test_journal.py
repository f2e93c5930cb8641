"""The journal: exact round trip, safety, hostile files, finding runs."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import logging
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import event_model
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamline.core.errors import FileFormatError, MissingError
from beamline.documents import Journal, JournalError, JournalWriter, read_journal
from beamline.documents._encoding import pack, unpack
from beamline.documents._records import MAGIC, JournalReader, record

KEYS = {"x": {"source": "sim", "dtype": "number", "shape": []}}


def run_documents(events=3, values=None, begun=None, **metadata):
    run = event_model.compose_run(metadata=metadata, time=begun)
    descriptor = run.compose_descriptor(name="primary", data_keys=KEYS)
    documents = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    for i in range(events):
        value = values[i] if values is not None else float(i)
        event = descriptor.compose_event(
            data={"x": value}, timestamps={"x": time.time()}, validate=False
        )
        documents.append(("event", event))
    stop = run.compose_stop(time=begun + 2.0 if begun else None)
    return [*documents, ("stop", stop)]


def write(directory, documents):
    with JournalWriter(directory) as writer:
        for name, doc in documents:
            writer(name, doc)
    return next(Path(directory).glob(f"*/{documents[0][1]['uid']}.journal"))


def same(a, b):
    """Equality that is as strict as the journal's promise: types, dtypes, NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ma.MaskedArray):
        return same(a.filled(), b.filled()) and np.array_equal(a.mask, b.mask)
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.hasobject:
            return all(same(x, y) for x, y in zip(a.flat, b.flat, strict=True))
        return a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


EXACT = [
    None,
    True,
    0,
    2**63 - 1,
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    10**60,
    1.5,
    -0.0,
    math.nan,
    math.inf,
    "µ χ 試料 \N{MICROSCOPE}",
    "lone \udcff surrogate",
    b"\x00\xff",
    (),
    (1, (2.5, [3, ()])),
    {"shape": (2, 3), "nested": {"a": [None, {"b": ("c",)}]}},
    {1: "int key", ("a", 1): "tuple key"},
    1 + 2j,
    {1, 2},
    frozenset({"a"}),
    dt.datetime(2024, 2, 29, 12, 30, 1, 5),  # noqa: DTZ001  (zoneless on purpose)
    dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    dt.date(2024, 2, 29),
    dt.time(12, 30),
    dt.timedelta(days=1, microseconds=3),
    np.float64(1.25),
    np.float64("nan"),
    np.float32(0.1),
    np.int16(-3),
    np.uint64(2**64 - 1),
    np.bool_(False),
    np.str_("text"),
    np.datetime64("2024-02-29T12:00:00.123"),
    np.arange(6, dtype="<u2").reshape(2, 3),
    np.arange(6, dtype=">f4").reshape(3, 2),
    np.array(5),
    np.zeros((0, 4)),
    np.array(["a", "bcd"]),
    np.array([1, None, "x", [1, 2]], dtype=object),
    np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8", (2,))]),
    np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8", (2,))])[0],
    np.array(["2024", "NaT"], dtype="M8[D]"),
    np.ma.MaskedArray([1.0, 2.0], mask=[False, True], fill_value=-1.0),
]


@pytest.mark.parametrize("value", EXACT, ids=lambda v: f"{type(v).__name__}-{v!r:.20}")
def test_values_come_back_exactly(tmp_path, value):
    documents = run_documents(events=1, values=[value])
    documents[0][1]["odd"] = value
    got = list(read_journal(write(tmp_path, documents)))
    assert same([list(item) for item in got], [list(item) for item in documents])


PLAINER = [
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.namedtuple("P", "x y")(1, 2), (1, 2)),
    (bytearray(b"ab"), b"ab"),
    (Path("/data/f.h5"), "/data/f.h5"),
    (signal.Signals.SIGINT, 2),
]


@pytest.mark.parametrize(("value", "plain"), PLAINER, ids=lambda v: type(v).__name__)
def test_values_that_come_back_plainer(value, plain):
    assert same(unpack(pack(value)), plain)


def test_arrays_come_back_writable():
    array = unpack(pack(np.zeros(3)))
    array[0] = 1.0
    assert array[0] == 1.0


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


@given(json_like)
def test_any_document_round_trips(value):
    assert same(unpack(pack({"v": value})), {"v": value})


def test_files_are_plain_msgpack(tmp_path):
    """Somebody without this project can read them with any msgpack library."""
    documents = run_documents()
    with write(tmp_path, documents).open("rb") as stream:
        head, *records, _ = msgpack.Unpacker(stream)
    assert head == "beamline journal 1\n"
    assert [msgpack.unpackb(payload)[0] for _, payload in records] == [n for n, _ in documents]
    assert msgpack.unpackb(records[2][1])[1] == documents[2][1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "'sample.holder' is object"),
        (lambda: 0, "'sample.holder' is function"),
        (np.array([object()]), "'sample.holder' is object"),
    ],
)
def test_what_cannot_be_recorded_is_named(tmp_path, value, words):
    writer = JournalWriter(tmp_path)
    documents = run_documents(sample={"name": "Cu"})
    documents[0][1]["sample"]["holder"] = value
    uid = documents[0][1]["uid"]
    with pytest.raises(JournalError, match=f"start document of run {uid[:8]}.*{words}"):
        writer(*documents[0])
    # The run has no record, and says so each time rather than never.
    with pytest.raises(JournalError, match="start document"):
        writer(*documents[1])
    assert list(Journal(tmp_path).paths()) == []
    good = run_documents()
    for item in good:
        with_run = good[0][1]["uid"]
        writer(*item)
    assert Journal(tmp_path).find(-1).uid == with_run


def test_an_event_that_cannot_be_recorded_leaves_the_rest_whole(tmp_path):
    documents = run_documents(events=3, values=[1.0, object(), 3.0])
    writer = JournalWriter(tmp_path)
    for name, doc in documents:
        if doc.get("seq_num") == 2:
            with pytest.raises(JournalError, match=r"'data\.x' is object"):
                writer(name, doc)
        else:
            writer(name, doc)
    names = [name for name, _ in Journal(tmp_path).documents(-1)]
    assert names == ["start", "descriptor", "event", "event", "stop"]


def test_every_document_is_on_disk_at_once(tmp_path):
    documents = run_documents()
    with JournalWriter(tmp_path) as writer:
        for count, (name, doc) in enumerate(documents, 1):
            writer(name, doc)
            (path,) = Journal(tmp_path).paths()
            assert len(list(read_journal(path))) == count


def test_synced_at_start_descriptor_and_stop(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    state = {"name": None}

    def spy(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            synced.append(state["name"])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with JournalWriter(tmp_path) as writer:
        for name, doc in run_documents(events=50):
            state["name"] = name
            writer(name, doc)
    assert synced == ["start", "descriptor", "stop"]


def test_interleaved_runs_have_files_of_their_own(tmp_path):
    one, two = run_documents(), run_documents()
    with JournalWriter(tmp_path) as writer:
        for pair in zip(one, two, strict=True):
            for item in pair:
                writer(*item)
    assert writer.last_uid == two[0][1]["uid"]
    journal = Journal(tmp_path)
    for documents in (one, two):
        assert list(journal.documents(documents[0][1]["uid"])) == documents


def test_a_recorded_run_is_never_overwritten(tmp_path):
    documents = run_documents()
    path = write(tmp_path, documents)
    before = path.read_bytes()
    writer = JournalWriter(tmp_path)
    with pytest.raises(JournalError, match="recorded before"):
        writer(*documents[0])
    assert path.read_bytes() == before


def test_a_uid_cannot_leave_the_directory(tmp_path):
    inside = tmp_path / "deep" / "journal"
    documents = run_documents()
    evil = "../../../evil"
    documents[0][1]["uid"] = documents[-1][1]["run_start"] = evil
    documents[1][1]["run_start"] = evil
    with JournalWriter(inside) as writer:
        for item in documents:
            writer(*item)
    assert [path.parent.parent for path in tmp_path.rglob("*.journal")] == [inside]
    assert Journal(inside).find("../..").uid == evil


@pytest.mark.parametrize("begun", [math.nan, 1e30, -1e30, "yesterday", None])
def test_a_start_without_a_usable_time_is_recorded(tmp_path, begun):
    documents = run_documents()
    documents[0][1]["time"] = begun
    path = write(tmp_path, documents)
    assert path.parent.name == "undated"
    assert math.isfinite(Journal(tmp_path).find(-1).time)
    assert same([list(d) for d in read_journal(path)], [list(d) for d in documents])


def test_unusable_directory_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(JournalError, match=r"cannot write the journal in .*file/journal") as error:
        JournalWriter(tmp_path / "file" / "journal")
    assert isinstance(error.value, OSError)
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(JournalError, match="cannot write the journal"):
            JournalWriter(closed)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 5, 16, 60, 200])
def test_truncated_tail_is_tolerated_and_reported(tmp_path, cut, caplog):
    documents = run_documents(events=10)
    path = write(tmp_path, documents)
    path.write_bytes(path.read_bytes()[:-cut])
    with caplog.at_level(logging.WARNING):
        got = list(read_journal(path))
    assert got == documents[: len(got)]
    assert len(got) >= len(documents) - 3
    assert "unreadable" in caplog.text
    summary = Journal(tmp_path).find(-1)
    assert summary.exit_status == "incomplete"
    assert summary.damage is not None
    assert summary.num_events == {"primary": [name for name, _ in got].count("event")}


def test_every_truncation_gives_a_prefix(tmp_path):
    documents = run_documents(events=2)
    whole = write(tmp_path, documents).read_bytes()
    path = tmp_path / "cut.journal"
    last = 0
    for size in range(len(MAGIC), len(whole)):
        path.write_bytes(whole[:size])
        got = list(read_journal(path))
        assert got == documents[: len(got)]
        assert len(got) >= last
        last = len(got)


def test_zeroes_at_the_end_as_after_a_power_cut(tmp_path):
    documents = run_documents()
    path = write(tmp_path, documents[:-1])
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert list(read_journal(path)) == documents[:-1]
    assert "not a record" in (Journal(tmp_path).find(-1).damage or "")


def test_a_flipped_bit_is_never_data_and_costs_one_document(tmp_path):
    documents = run_documents(events=4)
    path = write(tmp_path, documents)
    whole = path.read_bytes()
    with JournalReader(path) as reader:
        ends = [reader.end for _ in reader]
    rng = np.random.default_rng(1)
    for position in map(int, rng.integers(len(MAGIC), len(whole), 300)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        hit = sum(position >= end for end in ends)
        with JournalReader(path) as reader:
            assert list(reader) == [doc for number, doc in enumerate(documents) if number != hit]
            (damage,) = reader.damages
            begin = [len(MAGIC), *ends][hit]
            assert (damage.begin, damage.end) == (begin, [*ends, len(whole)][hit])
            assert damage.records == (None if hit == len(documents) else 1), position


@pytest.mark.parametrize("width", [1, 30, 700, 2000])
def test_what_is_behind_damage_is_read_and_the_lost_are_counted(tmp_path, width):
    documents = run_documents(events=30)
    path = write(tmp_path, documents)
    whole = path.read_bytes()
    with JournalReader(path) as reader:
        spans = [(reader.begin, reader.end) for _ in reader]
    rng = np.random.default_rng(width)
    for fill in (b"\0", b"\xff", b"\x92\xce", None):
        begin = spans[5][0] + int(rng.integers(0, 40))
        rubbish = (fill * width)[:width] if fill else rng.bytes(width)
        path.write_bytes(whole[:begin] + rubbish + whole[begin + width :])
        hit = [n for n, (b, e) in enumerate(spans) if e > begin and b < begin + width]
        with JournalReader(path) as reader:
            got = list(reader)
            (damage,) = reader.damages
        assert got == [doc for n, doc in enumerate(documents) if n not in hit]
        assert damage.records is not None
        assert 1 <= damage.records <= len(hit)
        assert not damage.exact or damage.records == len(hit)


def hostile(documents):
    start = record("start", documents[0][1])
    return {
        "empty": b"",
        "half-magic": MAGIC[:7],
        "magic-only": MAGIC,
        "garbage": b"\x89HDF\r\n\x1a\n" * 100,
        "text": b"hello world, this is not a journal\n",
        "zeros": bytes(1000),
        "half-record": MAGIC + start[: len(start) // 2],
        "no-start": MAGIC + record("stop", documents[-1][1]),
        "not-a-dict": MAGIC + record("start", 5),
        "start-without-uid": MAGIC + record("start", {"time": 1.0}),
        "stop-is-odd": MAGIC + start + record("descriptor", {"data_keys": 1}),
        "event-without-descriptor": MAGIC + start + record("event", {"data": {}}),
        "huge-length": MAGIC + b"\x92\xce\x00\x00\x00\x00\xc6\xff\xff\xff\xff" + b"x" * 50,
        "bomb": MAGIC + b"\xdd\xff\xff\xff\xff" * 20,
    }


HOSTILE = sorted(hostile(run_documents()))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_sentence_and_do_not_hide_good_runs(tmp_path, kind, caplog):
    documents = run_documents()
    good = write(tmp_path, documents)
    bad = good.with_name("bad.journal")
    bad.write_bytes(hostile(run_documents())[kind])
    with pytest.raises(FileFormatError) as error:
        Journal(tmp_path).find("bad")
    assert "bad.journal" in str(error.value)
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert [run.uid for run in Journal(tmp_path).runs()] == [documents[0][1]["uid"]]
    assert "skipped" in caplog.text
    assert Journal(tmp_path).find(-1).uid == documents[0][1]["uid"]


@given(st.binary(max_size=300), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_or_read(tmp_path, data, with_magic):
    path = tmp_path / "any.journal"
    path.write_bytes((MAGIC if with_magic else b"") + data)
    try:
        assert list(read_journal(path)) == []
    except FileFormatError:
        assert not with_magic


@given(st.binary(max_size=100))
def test_decoding_any_bytes_gives_value_error_or_a_value(data):
    with contextlib.suppress(ValueError):
        unpack(data)


def test_directory_in_place_of_a_file(tmp_path):
    write(tmp_path, run_documents())
    day = next(tmp_path.iterdir())
    (day / "folder.journal").mkdir()
    assert len(Journal(tmp_path).runs()) == 1
    with pytest.raises(FileFormatError):
        list(read_journal(day / "folder.journal"))


# --- a writer that dies, a disk that is full ------------------------------------------------------


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


WRITE_FOREVER = """
    import sys, event_model
    from beamline.documents import JournalWriter
    writer = JournalWriter(sys.argv[1])
    run = event_model.compose_run()
    writer("start", run.start_doc)
    keys = {"x": {"source": "", "dtype": "integer", "shape": []}}
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    writer("descriptor", descriptor.descriptor_doc)
    for i in range(10**9):
        event = descriptor.compose_event(data={"x": i}, timestamps={"x": 0.0}, validate=False)
        writer("event", event)
        print(i, flush=True)
"""


def test_killed_writer_loses_nothing_it_had_accepted(tmp_path):
    with python(WRITE_FOREVER, tmp_path) as process:
        for _ in range(200):
            process.stdout.readline()
        running = Journal(tmp_path).find(-1)
        process.kill()
        said = process.stdout.read().splitlines()
    assert running.exit_status == "running"
    summary = Journal(tmp_path).find(-1)
    assert summary.exit_status == "incomplete"
    values = [doc["data"]["x"] for name, doc in read_journal(summary.path) if name == "event"]
    assert values == list(range(len(values)))
    assert len(values) > int(said[-1]) if said else len(values) >= 200
    assert summary.num_events == {"primary": len(values)}


def test_a_run_that_ends_while_it_is_looked_at_is_not_taken_for_cut_off(tmp_path, monkeypatch):
    documents = run_documents()
    writer = JournalWriter(tmp_path)
    for item in documents[:-1]:
        writer(*item)

    def ends(_):
        writer(*documents[-1])
        return False

    monkeypatch.setattr(JournalReader, "being_written", property(ends))
    assert Journal(tmp_path).find(-1).exit_status == "success"


def test_full_disk_is_an_error_and_nothing_is_lost_if_space_comes_back(tmp_path):
    """A file-size limit stands for a full disk: write() fails in the middle of a record."""
    code = """
        import resource, signal, sys, event_model
        from beamline.documents import Journal, JournalError, JournalWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        writer = JournalWriter(sys.argv[1])
        run = event_model.compose_run()
        writer("start", run.start_doc)
        keys = {"x": {"source": "", "dtype": "integer", "shape": []}}
        descriptor = run.compose_descriptor(name="primary", data_keys=keys)
        writer("descriptor", descriptor.descriptor_doc)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        refused, said = 0, []
        for i in range(20):
            event = descriptor.compose_event(data={"x": i}, timestamps={"x": 0.0})
            try:
                writer("event", event)
            except JournalError as error:
                assert "cannot record the event document of run" in str(error), error
                refused += 1
                said.append(str(error))
        assert "the first" not in said[0], said
        first = f"the first that could not be recorded was the event document {20 - refused + 1})"
        assert all(first in message for message in said[1:]), said
        assert refused > 5, refused
        half = Journal(sys.argv[1]).find(-1)
        assert half.num_events["primary"] == 20 - refused, half
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        writer("stop", run.compose_stop())
        documents = list(Journal(sys.argv[1]).documents(-1))
        assert [d["data"]["x"] for n, d in documents if n == "event"] == list(range(20))
        assert Journal(sys.argv[1]).find(-1).exit_status == "success"
        print("good")
    """
    with python(code, tmp_path) as process:
        out, _ = process.communicate(timeout=60)
    assert out == "good\n"


def test_full_disk_aborts_a_real_run(tmp_path):
    """Under the RunEngine the plan fails, and the next run works."""
    code = """
        import resource, signal, sys
        from bluesky import RunEngine, plans
        from ophyd.sim import det, motor
        from beamline.documents import Journal, JournalError, JournalWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        RE = RunEngine({})
        RE.subscribe(JournalWriter(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
        try:
            RE(plans.scan([det], motor, -1, 1, 200))
        except JournalError as error:
            print("aborted")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        RE(plans.count([det], 3))
        runs = Journal(sys.argv[1]).runs()
        print([(r.exit_status, r.num_events.get("primary", 0) < 200) for r in runs])
    """
    with python(code, tmp_path) as process:
        out, _ = process.communicate(timeout=60)
    lines = out.splitlines()
    assert lines[0] == "aborted"
    assert lines[1] in (
        "[('incomplete', True), ('success', True)]",
        "[('fail', True), ('success', True)]",
    )


def test_speed(tmp_path):
    """At most 0.1 ms of processor time per event."""
    documents = run_documents(events=1)
    start, descriptor, event, stop = (doc for _, doc in documents)
    event = {
        **event,
        "data": {f"signal{i}": i * 1.5 for i in range(10)},
        "timestamps": {f"signal{i}": event["time"] for i in range(10)},
    }
    best = math.inf
    with JournalWriter(tmp_path) as writer:
        writer("start", start)
        writer("descriptor", descriptor)
        for _ in range(5):
            begun = time.thread_time()
            for _ in range(500):
                writer("event", event)
            best = min(best, (time.thread_time() - begun) / 500)
        writer("stop", stop)
    assert best < 100e-6


# --- finding runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six runs on three days; scan_id 2 twice; one without scan_id."""
    directory = tmp_path_factory.mktemp("store")
    begun = time.time() - 3 * 86400
    uids = []
    for index, scan_id in enumerate([1, 2, 3, 2, None, 7]):
        metadata = {"scan_id": scan_id} if scan_id else {}
        documents = run_documents(
            events=index,
            begun=begun + index * 43200,
            plan_name=f"plan{index}",
            sample={"name": "Cu foil"} if index % 2 else "Fe",
            **metadata,
        )
        write(directory, documents)
        uids.append(documents[0][1]["uid"])
    return Journal(directory), uids


def test_runs_are_listed_in_order(store):
    journal, uids = store
    runs = journal.runs()
    assert [run.uid for run in runs] == uids
    assert [run.num_events.get("primary", 0) for run in runs] == [0, 1, 2, 3, 4, 5]
    assert [run.sample for run in runs[:2]] == ["Fe", "Cu foil"]
    assert runs[4].scan_id is None
    assert runs[0].duration == pytest.approx(2.0)
    assert all(run.complete and run.exit_status == "success" for run in runs)


@pytest.mark.parametrize("limit", [0, 1, 3, 6, 100])
def test_limit_gives_the_latest(store, limit):
    journal, uids = store
    assert [run.uid for run in journal.runs(limit)] == (uids[-limit:] if limit else [])


def test_finding(store):
    journal, uids = store
    assert journal.find(-1).uid == uids[5]
    assert journal.find("-2").uid == uids[4]
    assert journal.find(2).uid == uids[3]
    assert journal.find("3").uid == uids[2]
    assert journal.find(uids[4][:9]).uid == uids[4]
    assert journal.find(uids[4]).uid == uids[4]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (5, r"scan_id 5 .*the nearest are 3 and 7; it holds 6 runs, the latest is scan_id 7"),
        (-7, r"no run -7 .*it holds 6 runs"),
        ("zzzzzz", r"no run 'zzzzzz' .*it holds 6 runs"),
        ("", r"no run ''"),
        ("*", r"no run '\*'"),
    ],
)
def test_missing_runs_say_what_there_is(store, key, words):
    journal, _ = store
    with pytest.raises(MissingError, match=words):
        journal.find(key)


def test_near_and_ambiguous_uids(tmp_path):
    for uid in ("abcd1111", "abcd2222"):
        documents = run_documents()
        documents[0][1]["uid"] = documents[1][1]["run_start"] = uid
        documents[-1][1]["run_start"] = uid
        write(tmp_path, documents)
    journal = Journal(tmp_path)
    with pytest.raises(MissingError, match=r"2 runs begin with 'abcd' .*abcd1111, abcd2222"):
        journal.find("abcd")
    with pytest.raises(MissingError, match="did you mean 'abcd1111'"):
        journal.find("abcd1112")


def test_digits_may_be_a_uid(tmp_path):
    documents = run_documents(scan_id=1)
    documents[0][1]["uid"] = documents[1][1]["run_start"] = "12345678-a"
    documents[-1][1]["run_start"] = "12345678-a"
    write(tmp_path, documents)
    assert Journal(tmp_path).find("12345678").scan_id == 1


def test_no_directory_holds_no_runs(tmp_path):
    journal = Journal(tmp_path / "nothing")
    assert journal.runs() == []
    with pytest.raises(MissingError, match="there is no such directory"):
        journal.find(-1)
    journal.directory.mkdir()
    with pytest.raises(MissingError, match="it holds no runs"):
        journal.find(-1)


def test_listing_reads_the_ends_of_files_only(tmp_path, monkeypatch):
    path = write(tmp_path, run_documents(events=500))
    for index in range(5):
        shutil.copy(path, path.with_name(f"copy{index}.journal"))
    frames, real = [], JournalReader._frame

    def counted(self, position, size):
        frames.append(position)
        return real(self, position, size)

    monkeypatch.setattr(JournalReader, "_frame", counted)
    assert len(Journal(tmp_path).runs()) == 6
    assert len(frames) == 2 * 6
