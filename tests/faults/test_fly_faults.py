"""Broken hardware during a fly scan: the run ends with the reason, and keeps what was sound."""

import time

import numpy as np
import pytest
from bluesky.suspenders import SuspendFloor
from bluesky.utils import FailedStatus, RunEngineInterrupted
from simulated_beamline import PROMISED

from beamline.core.errors import BeamLostError, DetectorError, MotionError
from beamline.plans import fly_scan

pytestmark = [pytest.mark.system, pytest.mark.faults]

GRACE = 60.0


@pytest.fixture
def bl(faulty_bl, device):
    yield faulty_bl
    device.request("FAULT:ALL:NONE")
    deadline = time.monotonic() + GRACE
    while faulty_bl.ring.current.alarm_severity and time.monotonic() < deadline:
        time.sleep(0.05)
    faulty_bl.sample.x.set(0.0).wait(GRACE)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("FAULTY:SAMPLE:X:STUCK", FailedStatus, "FAULTY:SAMPLE:X is stalled after"),
        ("FAULTY:SAMPLE:X:LIMIT={ahead}", FailedStatus, "FAULTY:SAMPLE:X left its course after"),
        ("FAULTY:SAMPLE:X:ENCODER", FailedStatus, "FAULTY:SAMPLE:X left its course after"),
        (
            "FAULTY:SAMPLE:X:FROZEN",
            MotionError,
            "FAULTY:FLY1:Position does not follow the fly scan",
        ),
        ("FAULTY:DET:IT:DEAD", DetectorError, "FAULTY:FLY1:IT has no value for point"),
        ("FAULTY:RING:CURRENT:DUMP", BeamLostError, "FAULTY:RING:CURRENT is 0 mA"),
    ],
)
def test_a_fault_during_the_flight(engine, docs, bl, device, fault, error, words):
    broken = []

    def break_it(name, doc):
        if not broken and "sample_x" in doc["data"]:
            broken.append(time.monotonic())
            ahead = doc["data"]["sample_x"][-1] + 3  # it does 1 um/s of real time
            device.request(f"FAULT:{fault.format(ahead=ahead)}")

    engine.subscribe(break_it, "event_page")
    with pytest.raises(error):
        engine(fly_scan(bl.sample.x, 0, 10, 1001, dwell=0.5))
    assert time.monotonic() - broken[0] < 3 + PROMISED
    assert docs.stop["exit_status"] == "fail"
    assert words in docs.stop["reason"]
    uid = docs.descriptor("primary")["uid"]
    pages = [page for page in docs.all("event_page") if page["descriptor"] == uid]
    taken = docs.stop["num_events"]["primary"]
    assert 0 < taken == sum(len(page["seq_num"]) for page in pages) < 1001
    # What the documents hold is sound.
    x = np.concatenate([page["data"]["sample_x"] for page in pages])
    np.testing.assert_allclose(x, np.linspace(0, 10, 1001)[:taken], atol=0.05)
    assert np.isfinite(np.concatenate([page["data"]["itrans"] for page in pages])).all()
    assert not bl.shutter.is_open
    assert not bl.flyer.execute.get()


def test_a_stuck_motor_cannot_fly(engine, docs, bl, device):
    bl.sample.x.set(500).wait(GRACE)
    device.request("FAULT:FAULTY:SAMPLE:X:STUCK")
    with pytest.raises(FailedStatus):
        engine(fly_scan(bl.sample.x, 0, 100, 100, dwell=0.1))
    assert docs.stop["exit_status"] == "fail"
    assert "FAULTY:SAMPLE:X is stalled after 0 of 100 points" in docs.stop["reason"]
    device.request("FAULT:ALL:NONE")
    engine(fly_scan(bl.sample.x, 0, 100, 100, dwell=0.1))
    assert docs.stop["exit_status"] == "success"
    assert docs.stop["num_events"]["primary"] == 100


def test_a_suspender_that_ends_a_flight_is_the_reason(engine, docs, bl, device):
    def pull_down(name, doc):
        if "sample_x" in doc["data"]:
            bl.attenuator.factor.put(0.5)

    engine.subscribe(pull_down, "event_page")
    engine.install_suspender(SuspendFloor(bl.attenuator.factor, 0.9, tripped_message="too weak"))
    try:
        engine(fly_scan(bl.sample.x, 0, 10, 1001, dwell=0.5))
    except RunEngineInterrupted:
        pass
    finally:
        engine.clear_suspenders()
        bl.attenuator.set(1.0).wait(GRACE)
    assert docs.stop["exit_status"] == "abort"
    assert "could not have gone on: Signal attenuator = 0.5 fell below 0.9" in docs.stop["reason"]
    assert "too weak" in docs.stop["reason"]
