"""Frames of documents on Q1: what goes with them, and what happens when there is no room."""

from __future__ import annotations

import threading
import uuid

import numpy as np
import pytest

from beamline.core.errors import ConfigurationError
from beamline.crystallography.geometry import Detector
from beamline.streaming.config import RaySettings
from beamline.streaming.queue import ShardedQueueManager
from callbacks.inference import RayFeeder

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

DETECTOR = Detector((24, 20), 0.1, (1e-4, 1e-4), (10.0, 12.0))


def documents(number, *, energy=True, uid=None):
    """A run whose events hold their frames; sample_x is 10 times the number of the event."""
    uid, descriptor = uid or str(uuid.uuid4()), str(uuid.uuid4())
    image = {"source": "s", "dtype": "array", "shape": [24, 20], "dtype_numpy": "<u2"}
    scalar = {"source": "s", "dtype": "number", "shape": []}
    keys = {"image": image, "sample_x": {**scalar, "units": "um"}}
    if energy:
        keys["mono_energy"] = {**scalar, "units": "keV"}
    yield "start", {"uid": uid, "time": 1000.0, "scan_id": 7, "plan_name": "line",
                    "sample": {"name": "chip"}}  # fmt: skip
    yield "descriptor", {"uid": descriptor, "run_start": uid, "name": "primary",
                         "time": 1000.0, "data_keys": keys}  # fmt: skip
    for i in range(1, number + 1):
        data = {"image": np.full((24, 20), i, np.uint16), "sample_x": 10.0 * i}
        if energy:
            data["mono_energy"] = 9.5
        yield "event", {"descriptor": descriptor, "seq_num": i, "time": 1000.0 + i, "data": data,
                        "timestamps": dict.fromkeys(data, 1000.0 + i), "filled": {}}  # fmt: skip
    yield "stop", {"uid": str(uuid.uuid4()), "run_start": uid, "time": 2000.0,
                   "exit_status": "success"}  # fmt: skip


@pytest.fixture
def settings(namespace):
    return RaySettings.model_validate({"namespace": namespace})


def feeder(name, settings, **options):
    options = {"image_key": "image", "geometry": DETECTOR, **options}
    return RayFeeder(name, 1, options.pop("maxsize", 100), ray=settings, **options)


def items_of(name, namespace):
    queue = ShardedQueueManager(name, None, namespace=namespace, create=False)
    while not queue.ended:
        leases = queue.lease(10, timeout=1.0)
        for lease in leases:
            yield lease.item
        queue.ack(leases)


def test_each_frame_goes_with_its_energy_time_and_position(settings, namespace):
    with feeder("q1_feeder", settings, batch_size=4, batch_seconds=1000.0) as fed:
        for name, doc in documents(10, uid="one"):
            fed(name, doc)
        for name, doc in documents(3, uid="two"):
            fed(name, doc)
    assert (fed.statistics["frames"], fed.statistics["dropped"]) == (13, 0)
    items = list(items_of("q1_feeder", namespace))
    assert [len(item.get_numpy_array()) for item in items] == [4, 4, 2, 3]
    one = items[1]
    assert one.get_numpy_array().shape == (4, 1, 24, 20)
    assert one.get_numpy_array().dtype == np.uint16
    assert one.get_numpy_array()[:, 0, 0, 0].tolist() == [5, 6, 7, 8]
    about = one.metadata
    assert about["photon_energy"].tolist() == [9500.0] * 4
    assert about["sample_x"].tolist() == [50.0, 60.0, 70.0, 80.0]
    assert about["seq_num"].tolist() == [5, 6, 7, 8]
    assert about["units"]["sample_x"] == "um"
    assert (about["timestamp"] >> np.uint64(32)).tolist() == [1005, 1006, 1007, 1008]
    assert (about["run_uid"], about["scan"], about["sample"]) == ("one", "7", "chip")
    assert items[-1].metadata["run_uid"] == "two"
    assert len({(i.metadata["run_uid"], i.batch_id) for i in items}) == 4


def test_a_frame_without_energy_is_counted_and_told(settings, namespace):
    told = []
    with feeder("q1_dark", settings, on_error=told.append) as fed:
        for name, doc in documents(2, energy=False):
            fed(name, doc)
        for name, doc in documents(1):
            fed(name, doc)
    assert (fed.statistics["frames"], fed.statistics["refused"]) == (1, 2)
    assert len(told) == 2
    assert "photon energy is unknown" in str(told[0])


def test_a_full_q1_delays_no_run_and_what_is_left_out_is_counted(settings, namespace):
    fed = feeder("q1_full", settings, maxsize=2, batch_size=1, max_waiting=6)
    # Nobody takes frames from Q1: who waited for room would wait for ever.
    for name, doc in documents(40):
        fed(name, doc)
    fed.close(timeout=1.0)
    counts = fed.statistics
    assert counts["frames"] == 2
    assert counts["dropped"] + counts["refused"] == 38
    assert counts["documents"] + counts["dropped"] == 43


def test_a_run_can_be_made_to_wait_and_then_nothing_is_dropped(settings, namespace):
    fed = feeder("q1_wait", settings, maxsize=2, batch_size=1, max_waiting=2, policy="wait")
    seen = []
    taker = threading.Thread(
        target=lambda: seen.extend(items_of("q1_wait", namespace)), daemon=True
    )
    taker.start()
    for name, doc in documents(30):
        fed(name, doc)
    fed.close()
    taker.join(200)
    assert fed.statistics["dropped"] == fed.statistics["refused"] == 0
    assert [int(item.metadata["seq_num"][0]) for item in seen] == list(range(1, 31))


def test_a_q1_with_other_shards_is_refused_at_once(settings, namespace):
    ShardedQueueManager("q1_other", 2, namespace=namespace)
    with pytest.raises(ConfigurationError, match="shards"):
        feeder("q1_other", settings)
