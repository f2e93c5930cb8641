"""Runs of the simulated beamline, from the RunEngine through the journal to the catalogue."""

import h5py
import numpy as np
import pytest
from bluesky import plans

from beamline.catalog import sync_catalog
from beamline.catalog._client import opened
from beamline.documents import JournalWriter
from beamline.documents.replay import replay
from beamline.nexus.compare import compare_files
from beamline.plans import fly_scan
from callbacks.nexus import NeXusWriter

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture
def detector(bl):
    bl.shutter.set("Open").wait(10)
    bl.area_detector.exposure.set(0.02).wait(10)
    yield bl.area_detector
    bl.area_detector.frames_per_event = 1
    bl.area_detector.sparse.set("Dense").wait(10)
    bl.shutter.set("Close").wait(10)


def test_a_fly_scan_is_in_with_every_point_of_its_pages(engine, docs, bl, tmp_path):
    writer = NeXusWriter(tmp_path / "nexus")
    with JournalWriter(tmp_path / "journal") as journal:
        engine.subscribe(journal)
        engine.subscribe(writer)
        engine(fly_scan(bl.sample.x, 100, -100, 401, dwell=0.01))
    pages = [
        page for page in docs.all("event_page")
        if page["descriptor"] == docs.descriptor("primary")["uid"]
    ]  # fmt: skip
    assert sum(len(page["seq_num"]) for page in pages) == 401
    assert sync_catalog(tmp_path).failed == {}
    with opened(tmp_path) as catalog:
        run = catalog[-1]
        assert run.start["plan_name"] == "fly_scan"
        data = run.primary.read()
        assert data.sizes == {"time": 401}
        for key in pages[0]["data"]:
            flown = np.concatenate([page["data"][key] for page in pages])
            np.testing.assert_array_equal(data[key].values, flown, err_msg=key)
        numbers = [
            doc["seq_num"] for name, doc in run.documents()
            if name == "event" and "sample_x" in doc["data"] and "i0" in doc["data"]
        ]  # fmt: skip
        assert numbers == list(range(1, 402))
        assert run.baseline.read().sizes == {"time": 2}
        again = NeXusWriter(tmp_path / "again")
        replay(run.documents(), [again])
    assert compare_files(writer.files[0], again.files[0]) == []


@pytest.mark.parametrize("per_event", [1, 3])
def test_frames_of_the_detector_come_with_the_documents(
    engine, docs, bl, detector, tmp_path, per_event
):
    detector.frames_per_event = per_event
    with JournalWriter(tmp_path / "journal") as journal:
        engine.subscribe(journal)
        engine(plans.count([detector, bl.counters], 4))
    key = next(
        key for key, declared in docs.descriptor("primary")["data_keys"].items()
        if "external" in declared
    )  # fmt: skip
    (resource,) = docs.all("stream_resource")
    with h5py.File(resource["uri"].removeprefix("file://localhost"), locking=False) as file:
        written = file[resource["parameters"]["dataset"]][()]
    assert sync_catalog(tmp_path).failed == {}
    with opened(tmp_path) as catalog:
        filled = [
            doc for name, doc in catalog[-1].documents(fill=True)
            if name == "event" and key in doc["data"]
        ]  # fmt: skip
    shape = tuple(docs.descriptor("primary")["data_keys"][key]["shape"])
    assert [doc["data"][key].shape for doc in filled] == [shape] * 4
    frames = np.stack([doc["data"][key] for doc in filled])
    assert np.array_equal(frames.reshape(written.shape), written)
    assert written.any()


def test_a_run_with_sparse_frames_is_in(engine, docs, bl, detector, tmp_path):
    detector.sparse.set("Events").wait(10)
    detector.exposure.set(0.002).wait(10)
    with JournalWriter(tmp_path / "journal") as journal:
        engine.subscribe(journal)
        engine(plans.count([detector, bl.counters], 3))
    assert sync_catalog(tmp_path).failed == {}
    with opened(tmp_path) as catalog:
        data = catalog[-1].primary.read(["i0"])
        assert data["i0"].values.tolist() == [e["data"]["i0"] for e in docs.events("primary")]
