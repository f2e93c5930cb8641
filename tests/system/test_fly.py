"""Fly scans on the simulated beamline, from the device server to the file."""

import threading
import time

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from nexus_validators import COMMUNITY, OFFICIAL, default_plot
from simulated_beamline import PROMISED

from beamline.analysis.xafs import XAFSProcessor
from beamline.core.errors import MotionError, MotorLimitError
from beamline.documents import JournalWriter, read_journal
from beamline.documents.replay import replay
from beamline.nexus.compare import compare_files
from beamline.plans import fly_scan, fly_xafs
from beamline.plans.arguments import PlanArgumentError
from callbacks.nexus import NeXusWriter
from devices import Sweep
from devices._operation import Operation

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

WAIT = 60.0
COUNTS = ("i0", "itrans", "ifluor", "irefer", "idiffr")
#: Of the copper foil.
EDGE = 8979.0


def pages(docs):
    uid = docs.descriptor("primary")["uid"]
    return [doc for doc in docs.all("event_page") if doc["descriptor"] == uid]


def column(docs, key, part="data"):
    return np.concatenate([page[part][key] for page in pages(docs)])


@pytest.fixture
def writer(engine, tmp_path):
    made = NeXusWriter(tmp_path / "nexus")
    engine.subscribe(made)
    return made


@pytest.fixture
def file_of(tmp_path):
    def find():
        (path,) = (tmp_path / "nexus").glob("*.nxs")
        return path

    return find


def test_fly_scan(engine, docs, bl, writer, file_of):
    engine(fly_scan(bl.sample.x, 100, -100, 401, dwell=0.01))
    assert docs.stop["exit_status"] == "success"
    assert docs.stop["num_events"] == {"primary": 401, "baseline": 2}
    assert docs.start["num_points"] == 401
    assert docs.start["motors"] == ["sample_x"]
    assert docs.start["plan_args"]["dwell"] == 0.01
    np.testing.assert_allclose(column(docs, "sample_x"), np.linspace(100, -100, 401), atol=1e-6)
    np.testing.assert_allclose(column(docs, "mono_energy"), bl.mono.energy.position, rtol=1e-12)
    assert (column(docs, "i0") > 10000).all()
    for key in COUNTS:
        assert (column(docs, key) >= 0).all()
    stamps = column(docs, "i0", "timestamps")
    np.testing.assert_allclose(np.diff(stamps), 0.01 / 50, atol=2e-6)
    assert docs.start["time"] < stamps[0] < stamps[-1] < docs.stop["time"]
    numbers = np.concatenate([page["seq_num"] for page in pages(docs)])
    assert (numbers == np.arange(1, 402)).all()
    descriptor = docs.descriptor("primary")
    assert descriptor["data_keys"]["sample_x"]["units"] == "um"
    assert descriptor["configuration"]["flyer"]["data"]["flyer_motor"] == "SAMPLE:X"
    assert not bl.shutter.is_open
    with h5py.File(file_of()) as file:
        data = file["entry/data"]
        assert (data.attrs["signal"], list(data.attrs["axes"])) == ("itrans", ["sample_x"])
        assert (data["sample_x"][:] == column(docs, "sample_x")).all()
        assert (data["itrans"][:] == column(docs, "itrans")).all()
        assert file["entry/instrument/sample_x"].attrs["NX_class"] == "NXpositioner"
        began = docs.start["time"]
        (log,) = [group for group in _logs(file) if group.name.endswith("/i0")]
        np.testing.assert_allclose(log["time"][:], stamps - began, atol=1e-6)
    assert default_plot(file_of())["signal_name"] == "itrans (counts)"


def _logs(file):
    found = []
    file.visititems(
        lambda _, node: (
            found.append(node)
            if getattr(node, "attrs", {}).get("NX_class") == "NXlog" and "time" in node
            else None
        )
    )
    return found


def test_fly_xafs_gives_the_edge_back(engine, docs, bl, writer, file_of, validators, tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        engine.subscribe(journal)
        bl.sample.x.set(380).wait(WAIT)
        bl.sample.y.set(-260).wait(WAIT)
        engine(fly_xafs(bl, "Cu", start=-150, stop=400, num=1501, dwell=0.05))
        for axis in (bl.sample.x, bl.sample.y):
            axis.set(0).wait(WAIT)
    assert docs.stop["num_events"]["primary"] == 1501
    energy = column(docs, "mono_energy")
    angle = np.degrees(np.arcsin(12398.419843 / (2 * bl.mono.d_spacing * energy)))
    np.testing.assert_allclose(np.diff(angle), np.diff(angle).mean(), rtol=1e-3)
    assert energy[0] == pytest.approx(EDGE - 150, abs=1e-3)
    assert energy[-1] == pytest.approx(EDGE + 400, abs=1e-3)
    with h5py.File(file_of()) as file:
        entry = file["entry"]
        assert entry["definition"][()] == b"NXxas"
        found = XAFSProcessor().find_edge(entry["energy"][:], entry["intensity"][:])
        assert (entry["monitor/preset"][:] == 0.05).all()
    assert found == pytest.approx(EDGE, abs=0.5)
    for definitions in (OFFICIAL, COMMUNITY):
        assert validators[definitions].application(file_of(), "NXxas").errors == []
    (recorded,) = (tmp_path / "journal").rglob("*.*")
    again = NeXusWriter(tmp_path / "again")
    replay(read_journal(recorded), [again])
    (copy,) = (tmp_path / "again").glob("*.nxs")
    assert compare_files(file_of(), copy) == []


def test_blueskys_own_fly_plan(engine, docs, bl):
    bl.flyer.prepare(Sweep(bl.sample.y, 0.0, 30.0, 301, 0.01)).wait(WAIT)
    for _ in range(2):
        docs.seen.clear()
        engine(bp.fly([bl.flyer]))
        np.testing.assert_allclose(column(docs, "sample_y"), np.linspace(0, 30, 301), atol=1e-6)
        assert docs.stop["num_events"] == {"primary": 301}
    bl.sample.y.set(0).wait(WAIT)


def test_more_points_than_a_block(engine, docs, bl):
    engine(fly_scan(bl.sample.theta, -1, 1, 25000, dwell=0.0005, use_shutter=False, baseline=[]))
    np.testing.assert_allclose(column(docs, "sample_theta"), np.linspace(-1, 1, 25000), atol=1e-6)
    assert docs.stop["num_events"] == {"primary": 25000}
    bl.sample.theta.set(0).wait(WAIT)


def test_wrong_arguments_are_refused_before_anything_happens(engine, docs, bl):
    for arguments, options, error, sentence in (
        ((bl.counters, 0, 1, 10), {}, PlanArgumentError, "motor must be a motor"),
        ((bl.sample.x, 0, 1, 1), {}, PlanArgumentError, "at least 2"),
        ((bl.sample.x, 0, 0, 10), {}, PlanArgumentError, "start and stop must differ"),
        ((bl.sample.x, 0, 1, 10), {"dwell": 1e-6}, PlanArgumentError,
         r"dwell must be 1e-05 to 1000 s for flyer \(BL02:FLY1:DwellTime\), found 1e-06"),
        ((bl.sample.x, 0, 10000, 100), {"dwell": 0.01}, MotorLimitError,
         r"sample_x \(BL02:SAMPLE:X\) would have to go to 10555\.56 um .* run-up included: its "
         r"limits are -10000 to 10000 um; nothing has moved"),
        ((bl.mono.energy, 4010, 9000, 100), {"dwell": 0.1}, MotorLimitError, "run-up included"),
        ((bl.sample.x, 0, 1000, 51), {"dwell": 0.0005}, MotorLimitError,
         r"sample_x \(BL02:SAMPLE:X\) would have to move at 40000 um/s .* its limit is 20000 um/s "
         r"\(BL02:SAMPLE:X\.VMAX\); nothing has moved"),
        ((bl.mono.energy, 9000, 9500, 101), {"dwell": 1e-4}, MotorLimitError,
         r"eV/s .*BL02:MONO:ENERGY\.VMAX"),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            engine(fly_scan(*arguments, **options))
    assert docs.seen == []
    assert not bl.shutter.is_open


def test_what_the_hardware_refuses_is_told_in_its_words(engine, docs, bl):
    # With simulated time 50 times faster, its gates can't be as short as the record allows.
    with pytest.raises(FailedStatus):
        engine(fly_scan(bl.sample.x, 0, 1, 51, dwell=2e-5))
    assert docs.stop["exit_status"] == "fail"
    assert "BL02:FLY1:ExecuteStatus" in docs.stop["reason"]
    assert "the time per point must be 0.0005 to 1000 s, found 2e-05 s" in docs.stop["reason"]
    assert docs.stop["num_events"] == {"baseline": 1, "primary": 0}
    assert not bl.shutter.is_open


def interrupt_during_the_flight(engine):
    """Pause the RunEngine when documents tell of more than ten points."""
    asked = []

    def watch(name, doc):
        if not asked and "sample_x" in doc["data"] and doc["seq_num"][-1] > 10:
            asked.append(doc)
            threading.Thread(target=engine.request_pause, kwargs={"defer": False}).start()

    engine.subscribe(watch, "event_page")


def test_an_interruption_keeps_what_was_taken(engine, docs, bl, writer, file_of):
    interrupt_during_the_flight(engine)
    with pytest.raises(RunEngineInterrupted):
        engine(fly_scan(bl.sample.x, 0, 1000, 1001, dwell=1.0))
    assert docs.stop["exit_status"] == "abort"
    assert "could not have gone on" in docs.stop["reason"]
    taken = docs.stop["num_events"]["primary"]
    assert 10 < taken < 1001
    np.testing.assert_allclose(column(docs, "sample_x"), np.arange(taken), atol=1e-6)
    assert not bl.shutter.is_open
    assert not bl.flyer.execute.get()
    assert bl.sample.x.motor_done_move.get()
    with h5py.File(file_of()) as file:
        assert file["entry/exit_status"][()] == b"abort"
        assert len(file["entry/data/i0"]) == taken
    bl.sample.x.set(0).wait(WAIT)


def test_a_motor_that_stops_on_its_way_fails_the_run(engine, docs, bl):
    def stop_the_motor(name, doc):
        if len(doc["seq_num"]) and "sample_z" in doc["data"]:
            bl.sample.z.motor_stop.put(1, wait=False)

    engine.subscribe(stop_the_motor, "event_page")
    with pytest.raises(FailedStatus):
        engine(fly_scan(bl.sample.z, 0, 1000, 1001, dwell=1.0))
    assert docs.stop["exit_status"] == "fail"
    assert "sample_z (BL02:SAMPLE:Z)" in docs.stop["reason"]
    assert "of 1001 points" in docs.stop["reason"]
    taken = docs.stop["num_events"]["primary"]
    np.testing.assert_allclose(column(docs, "sample_z"), np.arange(taken), atol=1e-6)
    assert not bl.shutter.is_open
    bl.sample.z.set(0).wait(WAIT)


def test_the_take_off_is_seen_however_late_one_looks(bl, monkeypatch):
    begin = Operation.begin

    def begin_and_sleep(operation, *arguments):
        begin(operation, *arguments)
        time.sleep(0.5)  # the motor flies meanwhile
        return operation

    monkeypatch.setattr(Operation, "begin", begin_and_sleep)
    bl.flyer.prepare(Sweep(bl.sample.x, 0.0, 1000.0, 1001, 1.0)).wait(WAIT)
    bl.flyer.kickoff().wait(WAIT)
    assert bl.flyer.flying
    bl.flyer.stop(success=True)
    bl.flyer.complete().wait(WAIT)
    bl.sample.x.set(0).wait(WAIT)


def test_nothing_else_counts_or_moves_the_motor_meanwhile(bl):
    bl.flyer.prepare(Sweep(bl.sample.x, 0.0, 1000.0, 1001, 1.0)).wait(WAIT)
    bl.flyer.kickoff().wait(WAIT)
    with pytest.raises(MotionError, match="BL02:SAMPLE:X"):
        bl.sample.x.set(5).wait(WAIT)
    with pytest.raises(Exception, match="BL02:SCALER1"):
        bl.counters.trigger().wait(WAIT)
    status = bl.flyer.complete()
    bl.flyer.stop()
    with pytest.raises(MotionError, match="the fly scan was aborted after"):
        status.wait(WAIT)
    bl.sample.x.set(0).wait(WAIT)


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["ioc", pytest.param("server", marks=pytest.mark.slow)])
def test_a_killed_process_ends_a_flight_with_the_name_of_the_pv(
    engine, docs, fragile, fragile_bl, writer, file_of, victim
):
    killed = []

    def kill(name, doc):
        if not killed and "sample_x" in doc["data"]:
            getattr(fragile, victim).kill()
            killed.append(time.monotonic())

    engine.subscribe(kill, "event_page")
    with pytest.raises(Exception, match="FRAGILE:"):
        engine(fly_scan(fragile_bl.sample.x, 0, 1000, 1001, dwell=2.0))
    assert time.monotonic() - killed[0] < PROMISED
    assert docs.stop["exit_status"] == "fail"
    assert "FRAGILE:" in docs.stop["reason"]
    taken = docs.stop["num_events"]["primary"]
    assert taken > 0
    with h5py.File(file_of()) as file:
        assert file["entry/exit_status"][()] == b"fail"
        assert len(file["entry/data/i0"]) == taken
