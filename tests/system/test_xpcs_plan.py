"""The plan `xpcs_series` on the simulated beamline: documents, files, repeats, dose, abort."""

from __future__ import annotations

import itertools
import threading
from urllib.parse import unquote, urlparse

import h5py
import pytest
from bluesky.utils import RunEngineInterrupted

from beamline.core.errors import MotorLimitError
from beamline.plans import xpcs_series
from beamline.plans.arguments import PlanArgumentError
from callbacks.cxi import CXIWriter
from callbacks.nexus import NeXusWriter

pytestmark = pytest.mark.system


@pytest.fixture
def bl(speckle_bl):
    return speckle_bl


@pytest.fixture
def ad(bl):
    return bl.area_detector


def rows(resource):
    with h5py.File(unquote(urlparse(resource["uri"]).path), locking=False) as file:
        return file.attrs["complete"], file[resource["parameters"]["dataset"]].shape[0]


def test_a_series_is_one_run_whose_documents_refer_to_every_frame(ad, engine, docs, tmp_path):
    nexus, cxi = NeXusWriter(tmp_path / "nexus"), CXIWriter(tmp_path / "cxi")
    engine.subscribe(nexus)
    engine.subscribe(cxi)
    settings = (ad.exposure, ad.period, ad.sparse)
    before = [signal.get(use_monitor=False) for signal in settings]
    (uid,) = engine(xpcs_series(ad, 60, exposure=0.01, period=0.02, attenuation=0.02, sparse=True))
    assert docs.start["technique"] == "XPCS"
    assert docs.start["uid"] == uid
    assert docs.start["xpcs"]["frame_time"] == 0.02
    assert docs.start["xpcs"]["dose"] == pytest.approx(60 * 0.02 * 0.02)
    assert docs.stop["exit_status"] == "success"
    indices = [doc["indices"] for doc in docs.all("stream_datum")]
    assert indices[0]["start"] == 0
    assert indices[-1]["stop"] == 60
    assert all(a["stop"] == b["start"] for a, b in itertools.pairwise(indices))
    (resource,) = docs.all("stream_resource")
    assert "event_id" in resource["parameters"]
    assert rows(resource) == (1, 60)
    configuration = docs.descriptor("primary")["configuration"]["ad1"]["data"]
    assert (configuration["ad1_exposure"], configuration["ad1_period"]) == (0.01, 0.02)
    assert [signal.get(use_monitor=False) for signal in settings] == before
    # Photon lists of a series are no stills: nothing is searched for peaks.
    assert not cxi.files
    (path,) = nexus.files
    with h5py.File(path) as file:
        assert file["entry/exit_status"].asstr()[()] == "success"


def test_repeats_and_positions_are_runs_of_their_own(bl, ad, engine, docs):
    engine(
        xpcs_series(
            ad, 5, exposure=0.005, repeats=2, motors=[bl.sample.x, bl.sample.y],
            positions=[(10, 0), (20, 5)], sparse=False, dose_limit=100,
        )
    )  # fmt: skip
    starts = docs.all("start")
    assert [
        (doc["xpcs"]["position"]["sample_x"], doc["xpcs"]["position"]["sample_y"],
         doc["xpcs"]["repeat"])
        for doc in starts
    ] == [(10, 0, 0), (10, 0, 1), (20, 5, 0), (20, 5, 1)]  # fmt: skip
    assert all(doc["exit_status"] == "success" for doc in docs.all("stop"))
    baselines = [doc for doc in docs.all("event") if "sample_x" in doc["data"]]
    assert [round(doc["data"]["sample_x"]) for doc in baselines] == [10] * 4 + [20] * 4


def test_repeats_that_would_cost_too_much_are_left_out(ad, engine, docs, caplog):
    # A series of 1 ms takes longer than that: the detector has to be started.
    engine(xpcs_series(ad, 1, exposure=0.001, attenuation=1.0, repeats=3, dose_limit=0.0031))
    assert len(docs.all("start")) < 3
    assert "of 3 repeats at position 0 are left out" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num": 0}, "num"),
        ({"period": 0.001, "exposure": 0.002}, "period must be at least"),
        ({"attenuation": 1.5}, "attenuation"),
        ({"sparse": "yes"}, "sparse must be"),
        ({"dose_limit": 0.01, "exposure": 0.01, "attenuation": 1.0}, "dose_limit is 0.01"),
        ({"positions": [1]}, "belong together"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_happens(ad, engine, docs, arguments, said):
    with pytest.raises(PlanArgumentError, match=said):
        engine(xpcs_series(ad, **{"num": 10, **arguments}))
    assert not docs.seen


def test_a_position_beyond_the_limits_is_refused(bl, ad, engine, docs):
    with pytest.raises(MotorLimitError, match="sample_x"):
        engine(xpcs_series(ad, 10, motors=[bl.sample.x], positions=[0, 1e6]))
    assert not docs.seen


def test_an_aborted_series_refers_to_what_was_taken(ad, bl, engine, docs):
    began = threading.Event()
    engine.subscribe(lambda name, doc: began.set(), "stream_datum")

    def interrupt():
        began.wait(60)
        engine.request_pause(defer=False)

    helper = threading.Thread(target=interrupt, daemon=True)
    helper.start()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        engine(xpcs_series(ad, 100_000, exposure=0.002, attenuation=0.02, sparse=True))
    helper.join(60)
    if isinstance(caught.value, RunEngineInterrupted) and engine.state == "paused":
        engine.abort("enough")
    assert docs.stop["exit_status"] in ("abort", "fail")
    (resource,) = docs.all("stream_resource")
    stop = docs.all("stream_datum")[-1]["indices"]["stop"]
    assert 0 < stop < 100_000
    assert rows(resource)[1] == stop
    assert not bl.shutter.is_open
    engine(xpcs_series(ad, 3, exposure=0.002))
    assert docs.stop["exit_status"] == "success"
