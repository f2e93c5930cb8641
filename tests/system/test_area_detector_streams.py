"""Stream documents of the area detector: several frames per event, and sparse frames."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky.utils import FailedStatus

from beamline.core.errors import DetectorError
from beamline.plans import stills
from beamline.plans.arguments import PlanArgumentError
from callbacks.nexus import NeXusWriter

pytestmark = pytest.mark.system


@pytest.fixture
def ad(bl):
    bl.shutter.set("Open").wait(10)
    detector = bl.area_detector
    detector.exposure.set(0.02).wait(10)
    yield detector
    detector.frames_per_event = 1
    detector.sparse.set("Dense").wait(10)
    bl.shutter.set("Close").wait(10)


def path_of(resource) -> Path:
    return Path(unquote(urlparse(resource["uri"]).path))


def test_datum_i_is_rows_i_times_n(ad, engine, docs):
    ad.frames_per_event = 3
    engine(bp.count([ad], 4))
    (resource,) = docs.all("stream_resource")
    key = docs.descriptor("primary")["data_keys"]["ad1_image"]
    assert key["shape"][0] == 3
    assert resource["parameters"]["chunk_shape"] == [1, *key["shape"][1:]]
    assert [doc["indices"] for doc in docs.all("stream_datum")] == [
        {"start": i, "stop": i + 1} for i in range(4)
    ]
    with h5py.File(path_of(resource)) as file:
        assert file[resource["parameters"]["dataset"]].shape == (12, *key["shape"][1:])


def test_the_documents_of_sparse_frames_lead_to_their_photons(ad, engine, docs, tmp_path):
    writer = NeXusWriter(tmp_path / "nexus")
    engine.subscribe(writer)
    ad.sparse.set("Events").wait(10)
    ad.exposure.set(0.002).wait(10)
    engine(bp.count([ad], 3))
    descriptor = docs.descriptor("primary")
    key = descriptor["data_keys"]["ad1_image"]
    configuration = descriptor["configuration"]["ad1"]["data"]
    assert configuration["ad1_sparse"] == "Events"
    (resource,) = docs.all("stream_resource")
    parameters = resource["parameters"]
    assert parameters["frame_shape"] == key["shape"]
    with h5py.File(path_of(resource)) as file:
        index, ids = file[parameters["dataset"]][()], file[parameters["event_id"]][()]
        photons = file["entry/data/photons"][()]
    assert len(index) == 3
    last = np.bincount(ids[index[2] :], minlength=int(np.prod(key["shape"])))
    assert last.reshape(key["shape"]).sum() == photons[2] > 0
    (nexus,) = (tmp_path / "nexus").glob("*.nxs")
    with h5py.File(nexus) as file:
        assert file["entry/exit_status"][()] == b"success"


def test_a_run_fails_whose_sparse_frames_lack_photons(ad, engine, docs):
    ad.sparse.set("Events").wait(10)
    ad.exposure.set(1.0).wait(10)
    with pytest.raises(FailedStatus) as caught:
        engine(bp.count([ad], 3))
    assert isinstance(caught.value.__cause__, DetectorError)
    stop = docs.all("stop")[-1]
    assert stop["exit_status"] == "fail"
    assert "1 frame had more photons than an event frame holds; use dense frames" in stop["reason"]
    ad.exposure.set(0.002).wait(10)
    engine(bp.count([ad], 2))
    assert docs.all("stop")[-1]["exit_status"] == "success"


def test_the_whole_beamline_is_no_detector(bl, engine, docs):
    with pytest.raises(PlanArgumentError, match=r"beamline\.area_detector"):
        engine(stills(bl, 2))
    assert not docs.all("start")
    with pytest.raises(DetectorError, match="frames of ad1 would be lost"):
        engine(bp.count([bl], 2))
    assert docs.all("stop")[-1]["exit_status"] == "fail"
