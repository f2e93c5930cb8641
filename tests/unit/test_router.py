"""Routing: native documents, interleaved runs, consumers that fail."""

from __future__ import annotations

import logging
import time

import event_model
import pytest

from beamline.core.errors import MissingError
from beamline.documents import (
    ConsumerError,
    DocumentError,
    Fanout,
    PerRunRouter,
    deliver,
    from_run_router_factory,
)

KEYS = {"x": {"source": "sim", "dtype": "number", "shape": []}}


class Recorder:
    """Consumer that keeps what it gets, and fails where it is told to."""

    def __init__(self, fail_on: str | None = None) -> None:
        self.got: list[tuple[str, dict]] = []
        self.fail_on = fail_on

    def __call__(self, name, doc):
        self.got.append((name, doc))
        if name == self.fail_on:
            raise OSError("no space left")

    @property
    def names(self):
        return [name for name, _ in self.got]


def run_documents(events=2, pages=False, stream="primary", **metadata):
    """Documents of one run, as a list."""
    run = event_model.compose_run(metadata=metadata)
    descriptor = run.compose_descriptor(name=stream, data_keys=KEYS)
    documents = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    rows = [
        descriptor.compose_event(data={"x": float(i)}, timestamps={"x": time.time()})
        for i in range(events)
    ]
    if pages:
        documents.append(("event_page", event_model.pack_event_page(*rows)))
    else:
        documents += [("event", row) for row in rows]
    return [*documents, ("stop", run.compose_stop())]


def feed(consumer, documents):
    for name, doc in documents:
        consumer(name, doc)


@pytest.mark.parametrize("pages", [False, True])
def test_documents_pass_unchanged(pages):
    documents = run_documents(pages=pages)
    consumer = Recorder()
    router = PerRunRouter([lambda start: [consumer]])
    feed(router, documents)
    assert len(consumer.got) == len(documents)
    for (_, got), (_, sent) in zip(consumer.got, documents, strict=True):
        assert got is sent
    assert router.open_runs == ()


def test_interleaved_runs_keep_apart():
    made = {}

    def factory(start):
        made[start["uid"]] = Recorder()
        return [made[start["uid"]]]

    one, two = run_documents(events=3), run_documents(events=5)
    router = PerRunRouter([factory])
    longest = max(len(one), len(two))
    for index in range(longest):
        for documents in (one, two):
            if index < len(documents):
                router(*documents[index])
    for documents in (one, two):
        assert made[documents[0][1]["uid"]].got == documents
    assert not router._by_descriptor
    assert not router._runs


def test_a_factory_may_decline():
    consumer = Recorder()
    router = PerRunRouter([lambda start: [consumer] if start["plan_name"] == "a" else []])
    feed(router, run_documents(plan_name="b"))
    assert consumer.got == []
    feed(router, run_documents(plan_name="a"))
    assert consumer.names[0] == "start"


def test_failing_consumer_does_not_starve_others_nor_lose_runs():
    bad, good = Recorder(fail_on="event"), Recorder()
    router = PerRunRouter([lambda start: [bad], lambda start: [good]])
    other = run_documents(events=1)
    documents = run_documents(events=2)
    feed(router, other[:2])
    errors = []
    for name, doc in documents:
        try:
            router(name, doc)
        except ConsumerError as error:
            errors.append(error)
    uid = documents[0][1]["uid"]
    assert len(errors) == 2
    assert uid[:8] in str(errors[0])
    assert "Recorder (OSError: no space left)" in str(errors[0])
    assert isinstance(errors[0].__cause__, OSError)
    assert [d for d in good.got if d in documents] == documents
    # The one that failed still gets the stop document, to close its file.
    assert bad.names[-1] == "stop"
    assert router.open_runs == (other[0][1]["uid"],)
    good.got.clear()
    with pytest.raises(ConsumerError):
        router(*other[2])
    router(*other[3])
    assert good.names == ["event", "stop"]


def test_failing_factory_leaves_the_others_at_work():
    good = Recorder()

    def factory(start):
        raise ValueError("cannot open")

    router = PerRunRouter([factory, lambda start: [good]])
    documents = run_documents()
    with pytest.raises(ConsumerError, match=r"factory .*cannot open"):
        router(*documents[0])
    feed(router, documents[1:])
    assert good.got == documents


def test_state_is_dropped_when_stop_fails():
    router = PerRunRouter([lambda start: [Recorder(fail_on="stop")]])
    documents = run_documents()
    feed(router, documents[:-1])
    with pytest.raises(ConsumerError, match="stop document"):
        router(*documents[-1])
    assert router.open_runs == ()
    assert not router._by_descriptor


def test_external_data_reaches_its_run():
    run = event_model.compose_run()
    keys = {"image": {"source": "", "dtype": "array", "shape": [2, 2], "external": "STREAM:"}}
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    stream = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri="file://localhost/f.h5",
        data_key="image",
        parameters={"dataset": "/entry/data/data"},
    )
    stream_datum = stream.compose_stream_datum(
        indices={"start": 0, "stop": 1},
        seq_nums={"start": 1, "stop": 2},
        descriptor=descriptor.descriptor_doc,
    )
    resource = run.compose_resource(
        spec="AD_HDF5", root="/", resource_path="f.h5", resource_kwargs={}
    )
    datum = resource.compose_datum(datum_kwargs={"point_number": 0})
    documents = [
        ("start", run.start_doc),
        ("descriptor", descriptor.descriptor_doc),
        ("stream_resource", stream.stream_resource_doc),
        ("stream_datum", stream_datum),
        ("resource", resource.resource_doc),
        ("datum", datum),
        ("datum_page", event_model.pack_datum_page(datum)),
        ("stop", run.compose_stop()),
    ]
    mine, other = Recorder(), Recorder()
    router = PerRunRouter([lambda start: [mine if start["uid"] == run.start_doc["uid"] else other]])
    feed(router, run_documents()[:2])
    feed(router, documents)
    assert mine.got == documents
    assert other.names == ["start", "descriptor"]
    assert not router._by_resource


def test_resource_without_run_goes_to_every_open_run():
    consumers = []
    router = PerRunRouter([lambda start: [consumers.append(Recorder()) or consumers[-1]]])
    runs = [run_documents(), run_documents()]
    for documents in runs:
        feed(router, documents[:2])
    router("resource", {"uid": "r", "spec": "X"})
    router("datum", {"resource": "r", "datum_id": "r/0", "datum_kwargs": {}})
    router(*runs[0][-1])
    router("datum", {"resource": "r", "datum_id": "r/1", "datum_kwargs": {}})
    assert consumers[0].names == ["start", "descriptor", "resource", "datum", "stop"]
    assert consumers[1].names == ["start", "descriptor", "resource", "datum", "datum"]
    router(*runs[1][-1])
    assert not router._by_resource


def test_run_seen_from_its_middle_is_ignored_with_one_warning(caplog):
    consumer = Recorder()
    router = PerRunRouter([lambda start: [consumer]])
    documents = run_documents(events=20)
    with caplog.at_level(logging.WARNING):
        feed(router, documents[1:])
        feed(router, run_documents(events=20)[2:])
    assert consumer.got == []
    assert len(caplog.records) == 2
    assert documents[0][1]["uid"] in caplog.text
    assert not router._unseen
    feed(router, run_documents())
    assert consumer.names == ["start", "descriptor", "event", "event", "stop"]


def test_bad_documents_are_named_and_other_runs_go_on():
    consumer = Recorder()
    router = PerRunRouter([lambda start: [consumer]])
    documents = run_documents()
    feed(router, documents[:2])
    with pytest.raises(MissingError, match="descriptor nowhere"):
        router("event", {"descriptor": "nowhere", "uid": "e"})
    with pytest.raises(MissingError, match="resource r9"):
        router("datum", {"resource": "r9"})
    with pytest.raises(DocumentError, match="'telegram'"):
        router("telegram", {})
    with pytest.raises(DocumentError, match="event document has no key 'descriptor'"):
        router("event", {})
    with pytest.raises(DocumentError, match="started twice"):
        router(*documents[0])
    feed(router, documents[2:])
    assert consumer.got == documents


def test_run_router_factories_are_adapted():
    """The same documents through event_model.RunRouter and through ours."""

    class Reader(event_model.DocumentRouter):
        def __init__(self):
            super().__init__()
            self.rows = []

        def event(self, doc):
            self.rows.append(doc["data"]["x"])
            return doc

    def build():
        log = {"whole": [], "primary": [], "reader": Reader()}

        def factory(name, start):
            def subfactory(name, descriptor):
                if descriptor["name"] != "primary":
                    return []
                return [lambda name, doc: log["primary"].append(name)]

            return [lambda name, doc: log["whole"].append(name), log["reader"]], [subfactory]

        return factory, log

    documents = run_documents(events=3)
    theirs, expected = build()
    feed(event_model.RunRouter([theirs]), documents)
    ours, log = build()
    feed(PerRunRouter([from_run_router_factory(ours)]), documents)
    assert log["whole"] == expected["whole"]
    assert log["primary"] == expected["primary"]
    assert log["reader"].rows == expected["reader"].rows == [0.0, 1.0, 2.0]


def test_fanout_serves_all_and_names_the_failing_one_behind_a_router():
    good = Recorder()
    router = PerRunRouter([lambda start: [Recorder(fail_on="event")]])
    fanout = Fanout(router, good)
    documents = run_documents(events=1)
    feed(fanout, documents[:2])
    with pytest.raises(ConsumerError, match=r"PerRunRouter → Recorder \(OSError: no space left\)"):
        fanout(*documents[2])
    assert good.names[-1] == "event"


def test_interruption_is_not_held_back():
    def consumer(name, doc):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver([consumer], "start", {"uid": "u"})
