"""Parts of the document network: tails of journal files, messages, the server's ledger."""

from __future__ import annotations

import math
import threading
import time

import pytest
import zmq
from nexus_documents import xafs_run

from beamline.core.errors import ConfigurationError, FileFormatError
from beamline.documents import JournalWriter
from beamline.documents._encoding import unpack
from beamline.documents._network_tail import JournalTail, summary
from beamline.documents._network_wire import (
    CUT,
    ENDED,
    OPEN,
    WireError,
    checked_address,
    message,
    read_message,
    records,
)
from beamline.documents.network import DocumentSubscriber, Publisher
from callbacks._server_consumers import make_task
from callbacks._server_ledger import FAILED, FINISHED, INTERRUPTED, ServerEntry, ServerLedger
from callbacks.server import CallbackServer


@pytest.fixture
def recorded(tmp_path):
    """Journal file of a run of 66 documents, and the documents."""
    documents = list(xafs_run(60))
    with JournalWriter(tmp_path / "journal") as journal:
        for name, doc in documents:
            journal(name, doc)
    (path,) = (tmp_path / "journal").glob("*/*")
    return path, documents


def unpacked(block: bytes):
    return [tuple(unpack(payload)) for payload in records(block)]


def test_a_tail_gives_any_records_by_number(recorded):
    path, documents = recorded
    tail = JournalTail(path)
    assert tail.grow()
    assert (tail.count, tail.state, tail.uid) == (len(documents), ENDED, documents[0][1]["uid"])
    for first in range(len(documents)):
        block, count = tail.read(first, 7)
        assert unpacked(block) == documents[first : first + 7]
        assert count == len(documents[first : first + 7])
    # A record that is larger than what may be read at once is read nevertheless.
    assert unpacked(tail.read(5, 3, most_bytes=20)[0]) == documents[5:6]
    assert tail.read(len(documents), 5) == (b"", 0)
    tail.close()


def test_a_tail_takes_whole_records_only_and_sees_the_end(recorded, tmp_path, monkeypatch):
    from beamline.documents import _network_tail

    monkeypatch.setattr(_network_tail, "_QUIET", math.inf)
    path, documents = recorded
    whole = path.read_bytes()
    growing = tmp_path / "growing.journal"
    growing.write_bytes(whole[:4000])
    tail = JournalTail(growing)
    seen = []
    with growing.open("ab") as stream:
        for begin in range(4000, len(whole), 97):
            stream.write(whole[begin : begin + 97])
            stream.flush()
            tail.grow()
            seen += unpacked(tail.read(len(seen), 1000)[0])
            assert seen == documents[: len(seen)]
    assert seen == documents
    assert tail.state == ENDED
    tail.close()


def test_a_file_that_nobody_writes_and_without_end_is_cut_off(recorded, monkeypatch):
    from beamline.documents import _network_tail

    path, documents = recorded
    path.write_bytes(path.read_bytes()[:-20])
    assert summary(path) == (documents[0][1]["time"], CUT)
    monkeypatch.setattr(_network_tail, "_QUIET", 0.0)
    tail = JournalTail(path)
    tail.grow()
    assert tail.state == OPEN
    assert tail.grow()
    assert (tail.state, tail.count) == (CUT, len(documents) - 1)
    tail.close()


def test_what_is_no_journal_is_refused(tmp_path):
    (tmp_path / "x.journal").write_bytes(b"something else entirely")
    with pytest.raises(FileFormatError, match="is not a journal"):
        JournalTail(tmp_path / "x.journal")


def test_a_damaged_record_is_seen(recorded):
    path, _ = recorded
    tail = JournalTail(path)
    tail.grow()
    block = bytearray(tail.read(0, 3)[0])
    block[40] ^= 1
    assert [payload is None for payload in records(bytes(block))] == [True, False, False]
    assert len(list(records(bytes(block[:-1])))) == 2
    tail.close()


@pytest.mark.parametrize(
    "frames",
    [[], [b"hello"], [b"hello", b"\xc1"], [b"\xff", b"\x80"], [b"x", b"\x01"], [b"a"] * 4],
)
def test_a_message_that_is_none_is_refused(frames):
    with pytest.raises(WireError):
        read_message(frames)


def test_hostile_messages_hinder_nobody(recorded):
    path, documents = recorded
    publisher = Publisher(path.parent.parent)
    stopping = threading.Event()
    thread = threading.Thread(target=publisher.run, args=(stopping.is_set,))
    thread.start()
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as bad:
            bad.set(zmq.LINGER, 0)
            bad.connect(publisher.address)
            hello = {"version": 1, "name": "bad", "since": "yesterday"}
            for frames in (
                [b""],
                [b"hello", b"\xc1"],
                message("hello", {}),
                message("hello", hello),
                message("hello", {**hello, "version": 99}),
                message("follow", {"run": "../../etc/passwd", "first": -5}),
                message("follow", {"run": documents[0][1]["uid"], "first": 10**15}),
                message("ack", {"run": documents[0][1]["uid"], "next": 10**18}),
                message("refill", {"run": documents[0][1]["uid"], "first": -3, "count": 10**9}),
                message("failed", {"id": []}),
                message("dance", {}),
                [b"docs", b"\x80", b"x" * 100_000],
            ):
                bad.send_multipart(frames)
            subscriber = DocumentSubscriber(publisher.address, since=lambda: 0.0)
            got = []
            deadline = time.monotonic() + 60
            while len(got) < len(documents) and time.monotonic() < deadline:
                got += [(item.name, item.doc) for item in subscriber.receive(0.05)]
            subscriber.close()
        assert got == documents
    finally:
        stopping.set()
        thread.join(60)
        publisher.close()


@pytest.mark.parametrize(("began", "offered"), [(0.0, True), (None, False)])
def test_a_publisher_that_is_started_again_offers_what_its_session_had_recorded(
    recorded, began, offered
):
    path, documents = recorded
    publisher = Publisher(path.parent.parent, began=began)
    stopping = threading.Event()
    thread = threading.Thread(target=publisher.run, args=(stopping.is_set,))
    thread.start()
    try:
        subscriber = DocumentSubscriber(publisher.address)
        got: list[dict] = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            len(got) == len(documents) if offered else subscriber.idle
        ):
            got += [item.doc for item in subscriber.receive(0.05)]
        subscriber.close()
    finally:
        stopping.set()
        thread.join(60)
        publisher.close()
    assert got == ([doc for _, doc in documents] if offered else [])


@pytest.mark.parametrize(
    ("given", "full"),
    [("127.0.0.1:5578", "tcp://127.0.0.1:5578"), ("ipc:///tmp/x", "ipc:///tmp/x")],
)
def test_addresses(given, full):
    assert checked_address(given) == full


@pytest.mark.parametrize("given", ["5578", "host:", "host:port", "http://host:80", "tcp://h:70000"])
def test_what_is_no_address_is_told(given):
    with pytest.raises(ConfigurationError, match=r"expected HOST:PORT"):
        checked_address(given)


def test_a_ledger_remembers_and_survives_a_torn_line(tmp_path):
    ledger = ServerLedger(tmp_path)
    assert ledger.since is None
    ledger.begin(100.0)
    ledger.add(ServerEntry("a", "nexus", 1e6, FINISHED, settled=True))
    ledger.add(ServerEntry("b", "nexus", 1e6 + 1, FAILED, "a reason."))
    ledger.add(ServerEntry("c", "nexus", 1e6 + 2, INTERRUPTED, files=["x.nxs"]))
    with pytest.raises(ConfigurationError, match="another callback server"):
        ServerLedger(tmp_path)
    ledger.close()
    with (tmp_path / "callbacks.jsonl").open("a") as stream:
        stream.write('{"run": "d", "cons')
    ledger = ServerLedger(tmp_path)
    ledger.add(ServerEntry("e", "nexus", 1e6 + 3, FINISHED))
    ledger.close()
    ledger = ServerLedger(tmp_path, again=True)
    assert [ledger.done(run, "nexus") for run in "abcde"] == [True, False, False, False, True]
    assert not ledger.done("a", "cxi")
    assert ledger.entry("c", "nexus").files == ["x.nxs"]
    # What was settled is not asked for again, but for a day in which clocks may have differed.
    assert ledger.since == 1e6 - 86400
    ledger.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nexsu", "there is no consumer 'nexsu'"),
        ("nexus=explode", "must be stop, pause or warn"),
        ("no_such_module:make", "cannot be imported"),
        ("os:no_such_name", "cannot be imported"),
        ("os:sep", "is a str"),
    ],
)
def test_a_consumer_that_is_none_is_told(tmp_path, text, says):
    with pytest.raises(ConfigurationError, match=says):
        make_task(text, "warn", tmp_path)


def test_a_consumer_has_one_policy(tmp_path):
    with pytest.raises(ConfigurationError, match="'nexus' is asked for with different policies"):
        CallbackServer("127.0.0.1:9", ["nexus=stop", "cxi", "nexus=warn"], tmp_path)
