"""Broken hardware, as the device server simulates it, surfaces: as the alarm of a record, as a
failed status, as the reason in the stop document; and once it is mended all works again.
"""

import math
import threading
import time
from types import SimpleNamespace

import pytest
from bluesky.suspenders import SuspendBoolLow, SuspendFloor
from bluesky.utils import FailedStatus
from ophyd import EpicsSignalRO
from ophyd.utils.epics_pvs import AlarmSeverity, AlarmStatus
from simulated_beamline import PROMISED, TIME_SCALE

from beamline.cli import main
from beamline.core.errors import (
    BeamLostError,
    ConnectionLostError,
    DeviceServerError,
)
from beamline.plans import linear_scan, stills, xafs_scan

pytestmark = [pytest.mark.system, pytest.mark.faults]

#: Seconds to wait for what must happen, on a machine that is slow and busy.
GRACE = 60.0
#: A counting time (s) that takes 20 s of real time.
LONG = 1000.0


def alarm(signal, timeout=GRACE):
    """Alarm status and severity of the record, fresh."""
    from devices._signals import read_many

    (sample,) = read_many([signal], timeout)
    return AlarmStatus(sample.status).name, AlarmSeverity(sample.severity).name


def until(condition, timeout=GRACE):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


NO_ALARM = ("NO_ALARM", "NO_ALARM")


@pytest.fixture
def bl(faulty_bl, device):
    """The beamline, sound at the beginning, and shown to be so again at the end."""
    yield faulty_bl
    device.request("FAULT:ALL:NONE")
    for axis in (faulty_bl.sample.x, faulty_bl.mono.energy):
        until(lambda axis=axis: alarm(axis.user_readback) in (NO_ALARM, ("STATE", "MAJOR")))
        axis.set(0.0 if axis is faulty_bl.sample.x else 9000.0).wait(GRACE)
        assert alarm(axis.user_readback) == NO_ALARM


def failing(engine, docs, plan, error=FailedStatus, *, within=math.inf):
    """Run a plan that must fail within so many seconds; the text of the failure."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        engine(plan)
    assert time.monotonic() - began < within
    assert docs.stop["exit_status"] == "fail"
    if error is FailedStatus:
        assert docs.stop["reason"] == str(caught.value.args[0])
    else:
        assert docs.stop["reason"] == str(caught.value)
    return docs.stop["reason"]


def scan(bl, stop=1000.0, num=11):
    return linear_scan([bl.counters], bl.sample.x, 0, stop, num)


def works(engine, docs, bl):
    engine(scan(bl, num=3))
    assert docs.stop["exit_status"] == "success"
    assert docs.stop["num_events"]["primary"] == 3
    assert not bl.shutter.is_open


def test_a_stuck_motor(engine, docs, bl, device):
    device.request("FAULT:FAULTY:SAMPLE:X:STUCK")
    reason = failing(engine, docs, scan(bl), within=1000 / 2000 / TIME_SCALE + PROMISED)
    assert "FAULTY:SAMPLE:X" in reason
    assert "MAJOR (STATE)" in reason
    assert "the axis has stalled (FAULTY:SAMPLE:X.MSTA" in reason
    assert alarm(bl.sample.x.user_readback) == ("STATE", "MAJOR")
    assert bl.sample.x.missed.get() == 1
    assert device.request("FAULTS") == "FAULTY:SAMPLE:X:STUCK"
    with pytest.raises(DeviceServerError, match="stalled"):
        device.request("STATUS:FAULTY:SAMPLE:X")
    # A drive that has given up refuses the next move.
    reason = failing(engine, docs, scan(bl), within=PROMISED)
    assert "FAULTY:SAMPLE:X" in reason
    device.request("FAULT:FAULTY:SAMPLE:X:NONE")
    works(engine, docs, bl)


@pytest.mark.parametrize(
    ("stop", "status", "field"), [(1000, "HIGH", "HLS"), (-1000, "LOW", "LLS")]
)
def test_a_limit_switch_on_the_way(engine, docs, bl, device, stop, status, field):
    device.request(f"FAULT:FAULTY:SAMPLE:X:LIMIT={stop * 0.45}")
    reason = failing(engine, docs, scan(bl, stop))
    assert len(docs.events("primary")) == 5
    assert f"(FAULTY:SAMPLE:X.{field} is 1)" in reason
    assert f"MAJOR ({status})" in reason
    assert alarm(bl.sample.x.user_readback) == (status, "MAJOR")
    assert 450 <= abs(bl.sample.x.user_readback.get()) < 500
    bl.sample.x.set(0).wait(GRACE)  # away from the switch is allowed
    assert alarm(bl.sample.x.user_readback) == NO_ALARM
    device.request("FAULT:ALL:NONE")
    works(engine, docs, bl)


def test_the_switches_lie_beyond_the_soft_limits(bl):
    axis = bl.sample.z
    for limit in axis.limits:
        axis.set(limit).wait(GRACE)
        assert axis.user_readback.get() == limit
        assert axis.high_switch.get() == axis.low_switch.get() == 0
        assert alarm(axis.user_readback) == NO_ALARM
    axis.set(0).wait(GRACE)


def test_a_lost_encoder(engine, docs, bl, device):
    def lose(name, doc):
        if name == "event" and doc["seq_num"] == 2:
            device.request("FAULT:FAULTY:SAMPLE:X:ENCODER")

    engine.subscribe(lose)
    reason = failing(engine, docs, scan(bl))
    assert "FAULTY:SAMPLE:X" in reason
    assert alarm(bl.sample.x.user_readback) == ("STATE", "MAJOR")
    status = int(bl.sample.x.status_word.get())
    assert not status & 1 << 8
    assert status & 1 << 9
    assert bl.sample.x.user_readback.get() == 100
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.sample.x.user_readback) == NO_ALARM)


def test_an_encoder_lost_during_a_move(engine, docs, bl, device):
    x = bl.sample.x
    velocity = x.velocity.get()
    x.velocity.put(20, wait=True)  # 9 s of real time
    try:
        status = x.set(9000)
        until(lambda: x.user_readback.get(use_monitor=False) > 0)
        device.request("FAULT:FAULTY:SAMPLE:X:ENCODER")
        error = status.exception(timeout=GRACE)
    finally:
        x.velocity.put(velocity, wait=True)
    assert "its encoder is lost (FAULTY:SAMPLE:X.MSTA" in str(error)
    assert "MAJOR (STATE)" in str(error)
    device.request("FAULT:ALL:NONE")
    works(engine, docs, bl)


def test_a_frozen_readback(engine, docs, bl, device):
    device.request("FAULT:FAULTY:MONO:ENERGY:FROZEN")
    reason = failing(engine, docs, xafs_scan(bl, "Cu", regions=[(-20, 20, 5, 0.01)]))
    assert "FAULTY:MONO:ENERGY" in reason
    assert "MAJOR (STATE)" in reason
    assert "the readback is not at the target (FAULTY:MONO:ENERGY.MISS is 1)" in reason
    assert "9000 eV" in reason
    assert alarm(bl.mono.energy.user_readback) == ("STATE", "MAJOR")
    assert bl.mono.energy.missed.get() == 1
    assert int(bl.mono.energy.status_word.get()) & 1 << 9 == 0
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.mono.energy.user_readback) == NO_ALARM)
    works(engine, docs, bl)


@pytest.mark.parametrize(("pv", "number", "name"), [("DET:I0", 2, "i0"), ("DET:IF", 4, "ifluor")])
def test_a_dead_counter(engine, docs, bl, device, pv, number, name):
    device.request(f"FAULT:FAULTY:{pv}:DEAD")
    reason = failing(engine, docs, scan(bl), within=PROMISED)
    assert f"FAULTY:SCALER1.S{number} ({name}) is in alarm, INVALID (READ)" in reason
    assert alarm(getattr(bl.counters, name)) == ("READ", "INVALID")
    record = EpicsSignalRO(f"FAULTY:{pv}", name="record")
    record.wait_for_connection(timeout=10)
    record.get()
    assert (record.alarm_status.name, record.alarm_severity.name) == ("READ", "INVALID")
    record.destroy()
    device.request("FAULT:ALL:NONE")
    works(engine, docs, bl)
    assert alarm(getattr(bl.counters, name)) == NO_ALARM


def test_a_dead_area_detector(engine, docs, bl, device):
    device.request("FAULT:FAULTY:AD1:DEAD")
    plan = stills(bl.area_detector, 3, exposure=0.1)
    reason = failing(engine, docs, plan, within=PROMISED)
    assert "FAULTY:AD1:cam1:Acquire" in reason
    assert "INVALID (READ)" in reason
    assert "delivers no frames" in reason
    assert alarm(bl.area_detector.acquire) == ("READ", "INVALID")
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.area_detector.acquire) == NO_ALARM)
    engine(stills(bl.area_detector, 2, exposure=0.1))
    assert docs.stop["exit_status"] == "success"


def test_a_beam_dump_ends_the_run(engine, docs, bl, device):
    def dump(name, doc):
        if name == "event" and doc["seq_num"] == 4:
            device.request("FAULT:FAULTY:RING:CURRENT:DUMP")

    token = engine.subscribe(dump)
    reason = failing(engine, docs, scan(bl), BeamLostError)
    engine.unsubscribe(token)
    assert "FAULTY:RING:CURRENT is 0 mA, in alarm (LOLO, MAJOR)" in reason
    # The alarm overtakes the count without beam: no event has it.
    assert [event["data"]["i0"] > 10000 for event in docs.events("primary")] == [True] * 4
    assert alarm(bl.ring.current) == ("LOLO", "MAJOR")
    assert not bl.shutter.is_open
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.ring.current) == NO_ALARM)  # top-up, 2 mA/s of simulated time
    works(engine, docs, bl)


def test_a_suspender_waits_for_the_beam(engine, docs, bl, device):
    def dump_and_refill(name, doc):
        if name == "event" and doc["seq_num"] == 4:
            device.request("FAULT:FAULTY:RING:CURRENT:DUMP")
            time.sleep(0.2)
            device.request("FAULT:FAULTY:RING:CURRENT:NONE")

    token = engine.subscribe(dump_and_refill)
    engine.install_suspender(SuspendFloor(bl.ring.current, 200, resume_thresh=250))
    engine(scan(bl))
    engine.unsubscribe(token)
    engine.clear_suspenders()
    assert docs.stop["exit_status"] == "success"
    events = docs.events("primary")
    assert len(events) == 11
    # What was counted without beam has been counted again.
    assert min(event["data"]["i0"] for event in events) > 10000


def test_the_command_line(bl, device, capsys):
    def beamline(*arguments):
        where = ("--server", f"127.0.0.1:{device.port}", "--prefix", "FAULTY:")
        try:
            status = main(["fault", *arguments, *where])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    assert beamline("inject", "SAMPLE:X", "limit", "500").returncode == 0
    assert beamline("inject", "FAULTY:DET:IT", "DEAD").returncode == 0
    assert beamline("list").stdout == "FAULTY:SAMPLE:X:LIMIT=500\nFAULTY:DET:IT:DEAD\n"
    wrong = beamline("inject", "LINK", "DUMP")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("beamline: the device server refused 'FAULT:LINK:DUMP'")
    assert "protocol.md" in wrong.stderr
    assert beamline("clear", "DET:IT").returncode == 0
    assert device.request("FAULTS") == "FAULTY:SAMPLE:X:LIMIT=500"
    assert beamline("clear").returncode == 0
    assert device.request("FAULTS") == ""


def test_a_slow_link_slows_the_scan(engine, docs, bl, device):
    device.request("FAULT:LINK:DELAY=0.1")
    began = time.monotonic()
    engine(scan(bl, num=4))
    assert time.monotonic() - began > 4 * 2 * 0.1  # a move and a count each
    assert docs.stop["exit_status"] == "success"


def test_a_link_that_is_too_slow_is_lost(engine, docs, bl, device):
    def slow(name, doc):
        if name == "event" and doc["seq_num"] == 2:
            device.request("FAULT:LINK:DELAY=60")

    token = engine.subscribe(slow)
    reason = failing(engine, docs, scan(bl), within=PROMISED)
    engine.unsubscribe(token)
    assert "FAULTY:" in reason
    for signal in (bl.sample.x.user_readback, bl.counters.i0, bl.ring.current):
        until(lambda signal=signal: alarm(signal) == ("COMM", "INVALID"))
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.counters.i0) == NO_ALARM)
    works(engine, docs, bl)


class TooLate(SuspendBoolLow):
    """A suspender that is installed and never trips."""

    def _should_suspend(self, value):
        return False


def once(engine, number, action):
    """Do something after event `number` of the next run; the token to unsubscribe."""
    done = []

    def act(name, doc):
        if doc["seq_num"] == number and "i0" in doc["data"] and not done:
            done.append(True)
            action()

    return engine.subscribe(act, "event")


def during_the_count_after(engine, bl, number, action):
    """Do something while the count after event `number` goes on, which would take 20 s."""

    def act():
        until(lambda: bl.counters.count.get() == 1)
        action()

    def prolong():
        bl.counters.exposure.set(LONG).wait(GRACE)
        threading.Thread(target=act).start()

    return once(engine, number, prolong)


def test_a_cut_connection(engine, docs, bl, device):
    during_the_count_after(engine, bl, 2, lambda: device.request("FAULT:LINK:DROP"))
    reason = failing(engine, docs, scan(bl), (FailedStatus, ConnectionLostError))
    assert "FAULTY:" in reason
    until(lambda: alarm(bl.counters.i0) == NO_ALARM)
    until(lambda: alarm(bl.sample.x.user_readback) == NO_ALARM)
    bl.counters.exposure.set(0.01).wait(GRACE)
    works(engine, docs, bl)


def test_a_suspender_that_does_not_trip_saves_no_point_without_beam(
    engine, docs, bl, device, monkeypatch
):
    monkeypatch.setattr("beamline.plans._beam._PATIENCE", 1.0)
    once(engine, 4, lambda: device.request("FAULT:FAULTY:RING:CURRENT:DUMP"))
    engine.install_suspender(TooLate(bl.ring.current))
    reason = failing(engine, docs, scan(bl), BeamLostError)
    assert "FAULTY:RING:CURRENT is 0 mA" in reason
    assert "No suspender has tripped for 1 s" in reason
    assert [event["data"]["i0"] > 10000 for event in docs.events("primary")] == [True] * 4
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.ring.current) == NO_ALARM)


def test_a_point_is_taken_again_when_the_beam_is_back_before_the_suspender(
    engine, docs, bl, device
):
    def dump_and_refill():
        device.request("FAULT:FAULTY:RING:CURRENT:DUMP")
        threading.Timer(0.5, device.request, ["FAULT:FAULTY:RING:CURRENT:NONE"]).start()

    once(engine, 4, dump_and_refill)
    engine.install_suspender(TooLate(bl.ring.current))
    engine(scan(bl))
    assert docs.stop["exit_status"] == "success"
    assert len(docs.events("primary")) == 11
    assert min(event["data"]["i0"] for event in docs.events("primary")) > 100


def test_a_shutter_closed_by_somebody_ends_the_run(engine, docs, bl):
    once(engine, 4, lambda: bl.shutter.set("Close").wait(GRACE))
    reason = failing(engine, docs, scan(bl), BeamLostError)
    assert "FAULTY:SHUTTER:STATUS is closed" in reason
    assert [event["data"]["i0"] > 10000 for event in docs.events("primary")] == [True] * 4
    works(engine, docs, bl)


def test_a_suspender_on_the_shutter(engine, docs, bl):
    """It waits while somebody has the shutter closed, and not when the plan itself closes it."""

    def close_and_open():
        bl.shutter.set("Close").wait(GRACE)
        threading.Timer(0.5, bl.shutter.command.put, [1]).start()

    bl.shutter.set("Open").wait(GRACE)
    engine.install_suspender(SuspendBoolLow(bl.shutter.status, sleep=0.1))
    until(lambda: not engine.suspenders[0].tripped)
    hung = threading.Timer(GRACE, engine.clear_suspenders)
    hung.start()
    try:
        for number in (1, 2):  # the second begins with the shutter closed
            token = once(engine, 4, close_and_open)
            engine(scan(bl))
            engine.unsubscribe(token)
            assert docs.stop["exit_status"] == "success", number
            assert docs.stop["num_events"]["primary"] == 11
            assert not bl.shutter.is_open
        counts = [doc["data"]["i0"] for doc in docs.all("event") if "i0" in doc["data"]]
        assert min(counts) > 10000
        # The way out after a failure closes it as well.
        during_the_count_after(engine, bl, 1, lambda: bl.counters.count.put(0))
        with pytest.raises(FailedStatus):
            engine(scan(bl, stop=10))
        assert not bl.shutter.is_open
        assert len(engine.suspenders) == 1
    finally:
        hung.cancel()
        engine.clear_suspenders()
        bl.counters.exposure.set(0.01).wait(GRACE)


def test_a_count_that_somebody_stops_is_no_point(engine, docs, bl):
    during_the_count_after(engine, bl, 2, lambda: bl.counters.count.put(0))
    try:
        reason = failing(engine, docs, scan(bl, stop=10, num=4))
    finally:
        bl.counters.exposure.set(0.01).wait(GRACE)
    assert "ended early" in reason
    assert "s of 1000 s (FAULTY:SCALER1.T; FAULTY:SCALER1.TP" in reason
    assert {event["data"]["exposure"] for event in docs.events("primary")} == {0.01}


def test_a_count_whose_preset_somebody_changes_is_no_point(engine, docs, bl):
    once(engine, 2, lambda: bl.counters.exposure.put(0.001, wait=True))
    try:
        reason = failing(engine, docs, scan(bl, stop=10, num=4))
    finally:
        bl.counters.exposure.set(0.01).wait(GRACE)
    assert "ended early: 0.001 s of 0.01 s (FAULTY:SCALER1.T; FAULTY:SCALER1.TP" in reason
    assert {event["data"]["exposure"] for event in docs.events("primary")} == {0.01}


@pytest.mark.parametrize("loss", ["dump", "close"])
def test_a_slow_callback_of_somebody_lets_no_point_without_beam_be_saved(
    engine, docs, bl, device, loss
):
    def slow(**_):
        time.sleep(0.2)

    def lose():
        if loss == "dump":
            device.request("FAULT:FAULTY:RING:CURRENT:DUMP")
        else:
            bl.shutter.command.put(0, wait=True)
            until(lambda: not bl.shutter.is_open)

    # ophyd has one thread for all monitors.
    bl.sample.x.user_readback.subscribe(slow, run=False)
    once(engine, 4, lose)
    try:
        failing(engine, docs, scan(bl), BeamLostError)
    finally:
        bl.sample.x.user_readback.clear_sub(slow)
    assert [event["data"]["i0"] > 10000 for event in docs.events("primary")] == [True] * 4
    device.request("FAULT:ALL:NONE")
    until(lambda: alarm(bl.ring.current) == NO_ALARM)
