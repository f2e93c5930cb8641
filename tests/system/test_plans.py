"""Plans on the simulated beamline: what is recorded is what happened there."""

import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.utils import FailedStatus, RunEngineInterrupted
from simulated_beamline import PROMISED

from beamline.core.errors import MotorLimitError
from beamline.core.units import SI111_D_SPACING
from beamline.plans import linear_scan, mesh_scan, safe_state, stills, xafs_scan
from beamline.plans.arguments import PlanArgumentError

pytestmark = pytest.mark.system

WAIT = 60.0


def column(events, key):
    return np.array([event["data"][key] for event in events])


def test_linear_scan(engine, docs, bl):
    engine(linear_scan([bl.counters], bl.sample.x, -10, 10, 21, exposure=0.02))
    events = docs.events("primary")
    np.testing.assert_allclose(column(events, "sample_x"), np.linspace(-10, 10, 21), atol=1e-6)
    assert (column(events, "sample_x_user_setpoint") == np.linspace(-10, 10, 21)).all()
    assert (column(events, "exposure") == 0.02).all()
    assert (column(events, "i0") > 1000).all()
    assert docs.stop["exit_status"] == "success"
    assert docs.stop["num_events"] == {"primary": 21, "baseline": 2}
    first, last = docs.events("baseline")
    assert first["data"]["shutter"] == last["data"]["shutter"] == 1
    assert first["data"]["mono_energy"] == pytest.approx(bl.mono.energy.position)
    assert docs.descriptor("baseline")["configuration"]["sample"]["data"]["sample_select"] == "Cu"
    assert not bl.shutter.is_open
    assert bl.counters.exposure.get_setpoint(use_monitor=False) == 0.01


def test_the_start_document_says_what_files_need(engine, docs, bl):
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2))
    start = docs.start
    assert start["beamline_id"] == "BL02"
    assert start["sample"] == {"name": "Cu", "formula": "Cu"}
    assert start["motors"] == ["sample_x"]
    assert start["detectors"] == ["counters"]
    crystal = start["instrument"]["monochromator"]
    assert crystal["d_spacing"] == pytest.approx(SI111_D_SPACING)
    assert start["nexus"] == {"signal": "itrans"}
    assert start["instrument"]["simulated"] is True
    assert {"bluesky", "ophyd", "event-model", "beamline-dataflow"} <= set(start["versions"])


def test_wrong_arguments_are_refused_before_anything_happens(engine, docs, bl):
    for arguments, options, sentence in (
        (([bl.counters], bl.mono, 0, 1, 2), {}, r"mono is not a motor; did you mean mono\.energy"),
        (([bl.counters], bl.sample, 0, 1, 2), {}, r"did you mean sample\.x or sample\.y"),
        (([bl.counters], bl.sample.x, 0, 1, 2), {"exposure": 5000},
         r"0\.0001 to 1000 s for counters \(BL02:SCALER1\.TP\), found 5000 s"),
        (([bl.area_detector], bl.sample.x, 0, 1, 2), {"exposure": 5000},
         r"0\.0001 to 1000 s for ad1 \(BL02:AD1:cam1:AcquireTime\), found 5000 s"),
    ):  # fmt: skip
        with pytest.raises(PlanArgumentError, match=sentence):
            engine(linear_scan(*arguments, **options))
    assert docs.seen == []
    assert not bl.shutter.is_open


def test_the_table_needs_no_configuration(engine, bl, capsys):
    table = BestEffortCallback()
    table.disable_plots()
    engine.subscribe(table)
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 3))
    (header,) = [line for line in capsys.readouterr().out.splitlines() if "seq_num" in line][:1]
    for name in ("sample_x", "i0", "itrans", "ifluor", "irefer"):
        assert name in header


def test_mesh_scan(engine, docs, bl):
    engine(mesh_scan([bl.counters], bl.sample.y, -2, 2, 3, bl.sample.x, 0, 3, 4))
    events = docs.events("primary")
    np.testing.assert_allclose(column(events, "sample_y"), np.repeat([-2, 0, 2], 4), atol=1e-6)
    np.testing.assert_allclose(
        column(events, "sample_x"), [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3], atol=1e-6
    )


def test_xafs_scan_sees_the_edge(engine, docs, bl, simulated):
    # Into the foil, which is not at the motors' zero.
    bl.sample.x.set(380).wait(WAIT)
    bl.sample.y.set(-260).wait(WAIT)
    regions = [(-60, -20, 20, 0.05), (-20, 30, 2.5, 0.1), (2.85, 5, 0.25, 0.2, "k")]
    engine(xafs_scan(bl, "Cu", regions=regions))
    events = docs.events("primary")
    energy = column(events, "mono_energy")
    assert (np.diff(energy) > 0).all()
    assert len(events) == docs.start["num_points"]
    np.testing.assert_allclose(energy[:3] - 8979, [-60, -40, -20], atol=0.01)
    exposure = column(events, "exposure")
    assert (exposure[:3] == 0.05).all()
    assert exposure[-1] == 0.2
    mu = np.log(column(events, "i0") / column(events, "itrans"))
    assert mu[energy > 8979 + 50].mean() - mu[:3].mean() > 0.5
    assert bl.counters.exposure.get_setpoint(use_monitor=False) == 0.01
    for axis in (bl.sample.x, bl.sample.y):
        axis.set(0).wait(WAIT)


def test_stills(engine, docs, bl):
    complete_at_stop = []

    def look_into_the_file(name, doc):
        with h5py.File(path_of(docs), "r", locking=False) as file:
            complete_at_stop.append((int(file.attrs["complete"]), file["/entry/data/data"].shape))

    engine.subscribe(look_into_the_file, "stop")
    engine(stills(bl.area_detector, 6, exposure=0.02))
    events = docs.events("primary")
    assert len(events) == len(docs.all("stream_datum")) == 6
    assert len(docs.all("stream_resource")) == 1
    uid = docs.descriptor("primary")["uid"]
    for number, datum in enumerate(docs.all("stream_datum")):
        assert datum["descriptor"] == uid
        assert datum["indices"] == {"start": number, "stop": number + 1}
        assert datum["seq_nums"] == {"start": number + 1, "stop": number + 2}
    key = docs.descriptor("primary")["data_keys"]["ad1_image"]
    assert key["external"] == "STREAM:"
    assert complete_at_stop == [(1, (6, *key["shape"]))]
    np.testing.assert_allclose(column(events, "mono_energy"), bl.mono.energy.position)
    with h5py.File(path_of(docs), "r") as file:
        frames = file["/entry/data/data"][:]
    assert (frames.reshape(6, -1).sum(axis=1) > 0).all()
    assert not np.array_equal(frames[0], frames[1])


def path_of(docs) -> Path:
    return Path(unquote(urlparse(docs.all("stream_resource")[-1]["uri"]).path))


def test_frames_and_counts_in_one_scan(engine, docs, bl):
    engine(linear_scan([bl.area_detector, bl.counters], bl.sample.x, 0, 2, 3, exposure=0.02))
    assert len(docs.events("primary")) == len(docs.all("stream_datum")) == 3
    assert docs.stop["exit_status"] == "success"


def test_blueskys_own_plans_work_as_well(engine, docs, bl):
    engine(bp.scan([bl.counters], bl.sample.x, -1, 1, 5))
    np.testing.assert_allclose(column(docs.events("primary"), "sample_x"), [-1, -0.5, 0, 0.5, 1])
    docs.seen.clear()
    engine(bp.count([bl.area_detector], 2))
    assert len(docs.all("stream_datum")) == 2
    docs.seen.clear()
    engine(bp.rel_scan([bl.counters], bl.sample.x, -1, 1, 3))
    assert bl.sample.x.position == pytest.approx(1)


def test_nothing_moves_when_a_point_is_outside_the_limits(engine, docs, bl):
    before = bl.sample.x.read()["sample_x"]
    with pytest.raises(MotorLimitError) as caught:
        engine(linear_scan([bl.counters], bl.sample.x, 0, 12000, 7))
    assert str(caught.value) == (
        "sample_x (BL02:SAMPLE:X) cannot go to 12000 um: its limits are -10000 to 10000 um, "
        "1 of 7 points lie outside; nothing has moved."
    )
    assert docs.seen == []
    assert bl.sample.x.read()["sample_x"] == before
    assert not bl.shutter.is_open


def test_a_stock_plan_stops_at_the_limits_of_a_motor(engine, docs, bl):
    with pytest.raises(MotorLimitError, match="this move was not started"):
        engine(bp.list_scan([bl.counters], bl.sample.z, [0, 1, 6000]))
    assert len(docs.events("primary")) == 2
    assert docs.stop["exit_status"] == "fail"
    assert "sample_z (BL02:SAMPLE:Z) cannot go to 6000 um" in docs.stop["reason"]
    bl.sample.z.set(0).wait(WAIT)


def interrupt_during_the_third_count(engine, bl):
    """Pause the RunEngine at once, as Ctrl-C pressed twice does, while the counters count.

    That count would take 20 s of real time, so that it has not ended when the pause comes.
    """
    counts = []

    def watch(message):
        if message.command == "trigger" and message.obj is bl.counters:
            counts.append(message)
            if len(counts) == 3:
                bl.counters.exposure.set(1000).wait(WAIT)
        elif message.command == "wait" and len(counts) == 3:
            counts.append(message)
            threading.Thread(target=engine.request_pause, kwargs={"defer": False}).start()

    engine.msg_hook = watch


def test_a_pause_closes_the_shutter_and_a_resume_takes_the_point_again(engine, docs, bl):
    interrupt_during_the_third_count(engine, bl)
    with pytest.raises(RunEngineInterrupted):
        engine(linear_scan([bl.counters], bl.sample.x, 0, 4, 5, exposure=2.0))
    assert bl.counters.exposure.get() < 1000
    assert not bl.shutter.is_open
    bl.counters.exposure.set(2).wait(WAIT)
    engine.resume()
    events = docs.events("primary")
    np.testing.assert_allclose(column(events, "sample_x"), [0, 1, 2, 3, 4])
    assert column(events, "exposure") == pytest.approx(2.0, rel=0.01)
    assert (column(events, "i0") > 1000).all()
    assert docs.stop["exit_status"] == "success"
    assert not bl.shutter.is_open


def test_abort_leaves_the_beamline_safe(engine, docs, bl):
    interrupt_during_the_third_count(engine, bl)
    with pytest.raises(RunEngineInterrupted):
        engine(linear_scan([bl.counters], bl.sample.x, 0, 4, 5, exposure=2.0))
    engine.abort(reason="seen enough")
    assert docs.stop["exit_status"] == "abort"
    assert docs.stop["reason"] == "seen enough"
    assert len(docs.events("primary")) == 2
    assert not bl.shutter.is_open
    assert not bl.counters.count.get()
    assert bl.counters.exposure.get_setpoint(use_monitor=False) == 0.01


def test_a_failing_motor_fails_the_run_and_leaves_the_beamline_safe(engine, docs, bl):
    x = bl.sample.x
    x.set(0).wait(WAIT)
    velocity = x.velocity.get()
    # Nine seconds for the way of the scan.
    x.velocity.put(20, wait=True)

    def stop_the_motor(value, **_):
        if value > 50:
            x.motor_stop.put(1, wait=False)

    x.user_readback.subscribe(stop_the_motor)
    try:
        with pytest.raises(FailedStatus):
            engine(linear_scan([bl.counters], x, 0, 9000, 2))
    finally:
        x.user_readback.clear_sub(stop_the_motor)
        x.velocity.put(velocity, wait=True)
    assert docs.stop["exit_status"] == "fail"
    assert "BL02:SAMPLE:X" in docs.stop["reason"]
    assert "did not arrive" in docs.stop["reason"]
    assert not bl.shutter.is_open
    x.set(0).wait(WAIT)


def test_safe_state(engine, bl):
    bl.shutter.set("Open").wait(WAIT)
    engine(safe_state(bl))
    assert not bl.shutter.is_open


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "victim"),
    [
        ("scan", "ioc"),
        pytest.param("scan", "server", marks=pytest.mark.slow),
        pytest.param("stills", "ioc", marks=pytest.mark.slow),
        ("stills", "server"),
    ],
)
def test_a_killed_process_ends_a_run_with_the_name_of_the_pv(
    engine, docs, fragile, fragile_bl, kind, victim
):
    killed = []

    def kill(name, doc):
        if doc["seq_num"] == 5:
            getattr(fragile, victim).kill()
            killed.append(time.monotonic())

    engine.subscribe(kill, "event")
    bl = fragile_bl
    plans = {
        "scan": lambda: linear_scan([bl.counters], bl.sample.x, 0, 100, 101),
        "stills": lambda: stills(bl.area_detector, 50, exposure=0.02),
    }
    with pytest.raises(Exception, match="FRAGILE:"):
        engine(plans[kind]())
    assert time.monotonic() - killed[0] < PROMISED
    assert docs.stop["exit_status"] == "fail"
    assert "FRAGILE:" in docs.stop["reason"]
    assert len(docs.events("primary")) == 5
