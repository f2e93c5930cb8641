"""Ophyd devices against the real IOC and device server."""

import os
import queue
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import pytest
from ophyd import EpicsMotor, EpicsSignal
from ophyd.utils import LimitError
from simulated_beamline import PROMISED

from beamline.core.errors import (
    ConfigurationError,
    ConnectionLostError,
    DetectorError,
    MissingError,
    MotionError,
    MotorLimitError,
)
from devices import Axis, AxisLimitError, Beamline
from devices._signals import FreshSignalRO, read_many

pytestmark = pytest.mark.system

WAIT = 60.0


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "this did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def x(bl):
    bl.sample.x.set(0).wait(WAIT)
    return bl.sample.x


@pytest.fixture
def slow_x(x):
    """The same axis, on whose long ways (9 s) nobody comes too late."""
    x.velocity.put(20, wait=True)
    yield x
    x.velocity.put(2000, wait=True)


def under_way(axis):
    return lambda: axis.user_readback.get(use_monitor=False) > 0


@pytest.fixture
def counters(bl):
    """The counters, with beam on them."""
    bl.shutter.set("Open").wait(WAIT)
    yield bl.counters
    bl.counters.exposure.set(0.01).wait(WAIT)
    bl.shutter.set("Close").wait(WAIT)


# ---- names, units, hints


def test_data_keys_need_no_configuration(bl):
    keys = {}
    for device in (*bl.baseline, bl.counters):
        keys |= device.describe()
    units = {name: key["units"] for name, key in keys.items()}
    assert units | {"shutter": "", "attenuator": ""} == units
    for name, unit in {
        "mono_energy": "eV", "sample_x": "um", "sample_y": "um", "sample_z": "um",
        "sample_theta": "deg", "det_tth": "deg", "mono_energy_user_setpoint": "eV",
        "i0": "counts", "itrans": "counts", "ifluor": "counts", "irefer": "counts",
        "idiffr": "counts", "exposure": "s", "ring_current": "mA", "hutch_temperature": "degC",
        "vacuum_pressure": "mbar",
    }.items():  # fmt: skip
        assert units[name] == unit, name
    assert keys["mono_energy"]["precision"] == 3
    assert keys["sample_x"]["precision"] == 2
    assert keys["sample_x"]["lower_ctrl_limit"] == -10000
    for device in (*bl.baseline, bl.counters):
        assert device.read().keys() == device.describe().keys()


def test_hints_name_what_a_table_shows(bl):
    assert bl.counters.hints == {"fields": ["i0", "itrans", "ifluor", "irefer"]}
    assert bl.mono.energy.hints == {"fields": ["mono_energy"]}
    assert bl.area_detector.hints == {"fields": []}


def test_machine_readings(bl):
    assert 300 < bl.ring.read()["ring_current"]["value"] <= 400
    environment = bl.environment.read()
    assert 20 < environment["hutch_temperature"]["value"] < 26
    assert 1e-10 < environment["vacuum_pressure"]["value"] < 1e-8


def test_the_sample_is_chosen_by_name(bl):
    assert bl.sample.select.choices == ("Cu", "Fe")
    for name in ("Fe", "Cu"):
        bl.sample.select.set(name).wait(WAIT)
        assert bl.sample.read_configuration()["sample_select"]["value"] == name
    with pytest.raises(MissingError, match="no choice 'Unobtainium': expected one of Cu, Fe"):
        bl.sample.select.set("Unobtainium")


@pytest.mark.parametrize("missed", ["metadata", "access rights", "connection", "channel", "last"])
def test_what_was_missed_while_connecting_is_asked_again(bl, missed):
    signal = bl.sample.x.user_setpoint
    # As ophyd and pyepics leave a signal whose callbacks came too early, or in another order.
    if missed == "metadata":
        signal._received_first_metadata[signal.pvname] = False
    if missed == "access rights":
        signal._access_rights_valid[signal.pvname] = False
    if missed in ("connection", "channel"):
        signal._connection_states[signal.pvname] = False
    if missed == "channel":
        signal._read_pv.connected = False
    signal._metadata["connected"] = False
    signal._signal_is_ready.clear()
    assert not signal.connected
    bl.connect(timeout=WAIT)
    assert signal.connected


def test_missing_pvs_are_named():
    beamline = Beamline("NOWHERE:")
    with pytest.raises(ConnectionLostError, match=r"NOWHERE:RING:CURRENT.*EPICS_CA_ADDR_LIST"):
        beamline.connect(timeout=0.5)
    beamline.destroy()


# ---- axes


def test_what_is_read_is_where_the_motor_stands(x):
    # A monitored readback was measured to be stale after most moves.
    for target in np.linspace(-1, 1, 60):
        x.set(target).wait(WAIT)
        reading = x.read()
        assert reading["sample_x"]["value"] == pytest.approx(target, abs=x.tolerance)
        assert reading["sample_x_user_setpoint"]["value"] == target
        assert x.position == pytest.approx(target, abs=x.tolerance)


def test_a_move_to_the_same_place_ends(x):
    for _ in range(5):
        x.set(0).wait(WAIT)


def test_limits_are_checked_before_the_put(bl, x):
    before = x.user_setpoint.get(use_monitor=False)
    with pytest.raises(MotorLimitError) as caught:
        x.set(10001)
    assert str(caught.value) == (
        "sample_x (BL02:SAMPLE:X) cannot go to 10001 um: its limits are -10000 to 10000 um; "
        "this move was not started."
    )
    assert isinstance(caught.value, LimitError)
    assert type(caught.value) is AxisLimitError
    with pytest.raises(MotorLimitError, match="finite"):
        x.set(float("nan"))
    time.sleep(0.2)
    assert x.user_setpoint.get(use_monitor=False) == before
    assert x.read()["sample_x"]["value"] == before


def test_changed_limits_count(bl):
    z = bl.sample.z
    try:
        z.high_limit_travel.put(100, wait=True)
        until(lambda: z.limits == (-5000, 100))
        with pytest.raises(MotorLimitError, match="-5000 to 100 um"):
            z.set(101)
    finally:
        z.high_limit_travel.put(5000, wait=True)


class Unchecked(Axis):
    """An axis whose limits are checked by nobody but the record."""

    def check_value(self, pos):
        pass


def test_a_move_that_the_record_refuses_fails(simulated):
    axis = Unchecked(f"{simulated.prefix}SAMPLE:X", name="unchecked")
    axis.wait_for_connection(timeout=WAIT)
    with pytest.raises(MotionError, match=r"BL02:SAMPLE:X\.LVIO"):
        axis.set(20000).wait(WAIT)
    axis.destroy()


def test_a_stopped_move_fails_and_says_where_it_stands(slow_x):
    x = slow_x
    status = x.set(9000)
    until(under_way(x))
    x.stop()
    with pytest.raises(MotionError, match=r"BL02:SAMPLE:X\) to 9000 um was stopped: it stands at"):
        status.wait(WAIT)
    assert "was stopped" in str(status)
    assert 0 < x.position < 9000


def test_a_stop_may_be_a_success(slow_x):
    x = slow_x
    status = x.set(9000)
    until(under_way(x))
    x.stop(success=True)
    status.wait(WAIT)
    assert x.position < 9000


def test_a_replaced_move_fails_and_the_new_one_arrives(slow_x):
    x = slow_x
    first = x.set(9000)
    until(under_way(x))
    second = x.set(100)
    with pytest.raises(MotionError, match="was replaced by one to 100"):
        first.wait(WAIT)
    second.wait(WAIT)
    assert x.position == pytest.approx(100, abs=x.tolerance)


def test_a_move_that_takes_too_long_is_stopped(bl):
    theta = bl.sample.theta
    theta.set(0).wait(WAIT)
    theta.velocity.put(0.1, wait=True)
    try:
        with pytest.raises(MotionError, match=r"BL02:SAMPLE:THETA.*did not end within 0\.5 s"):
            theta.move(170, timeout=0.5)
        until(lambda: not theta.moving)
    finally:
        theta.velocity.put(20, wait=True)
        theta.set(0).wait(WAIT)


def test_progress_is_reported(slow_x):
    seen = []
    status = slow_x.set(500)
    status.watch(lambda **progress: seen.append(progress))
    status.wait(WAIT)
    until(lambda: seen)
    assert seen[-1]["target"] == 500
    assert seen[-1]["unit"] == "um"
    assert 0 <= seen[-1]["fraction"] <= 1


def test_the_stock_epics_motor_drives_the_same_record(simulated, x):
    motor = EpicsMotor(f"{simulated.prefix}SAMPLE:X", name="stock")
    motor.wait_for_connection(timeout=WAIT)
    motor.move(50, timeout=WAIT)
    assert x.read()["sample_x"]["value"] == 50
    motor.destroy()


def test_a_velocity_that_its_monitor_tells_late_makes_no_move_late(slow_x):
    slow_x.velocity._readback = 1e9
    move = slow_x.set(9000)
    slow_x.velocity._readback = 20
    assert not move.inspect(time.monotonic() + 15, WAIT)
    slow_x.stop(success=True)
    move.wait(WAIT)


def test_a_destroyed_reading_is_lost_in_every_thread(simulated):
    # One that has not used the library before crashed in it.
    reading = FreshSignalRO(f"{simulated.prefix}SAMPLE:Z.TWV", name="reading")
    reading.wait_for_connection(timeout=WAIT)
    assert read_many([reading])
    reading.destroy()
    with ThreadPoolExecutor(1) as new, pytest.raises(ConnectionLostError, match=r"SAMPLE:Z\.TWV"):
        new.submit(read_many, [reading]).result(timeout=WAIT)


# ---- counters


def test_a_count_has_one_time_stamp_and_follows_the_exposure(counters):
    means = []
    for exposure in (0.02, 0.2):
        counters.exposure.set(exposure).wait(WAIT)
        counters.trigger().wait(WAIT)
        reading = counters.read()
        assert len({value["timestamp"] for value in reading.values()}) == 1
        assert reading["exposure"]["value"] == pytest.approx(exposure, rel=0.01)
        means.append(reading["i0"]["value"])
    assert means[1] / means[0] == pytest.approx(10, rel=0.05)


def test_every_count_is_a_new_one(counters):
    readings = []
    for _ in range(20):
        counters.trigger().wait(WAIT)
        readings.append(counters.read()["i0"])
    assert len({reading["timestamp"] for reading in readings}) == 20
    assert len({reading["value"] for reading in readings}) > 15


def test_reading_without_a_count_gives_the_last_one(counters):
    counters.trigger().wait(WAIT)
    assert counters.read() == counters.read()


def test_counts_are_dark_when_the_shutter_is_closed(bl, counters):
    counters.trigger().wait(WAIT)
    bright = counters.read()["i0"]["value"]
    bl.shutter.set("Close").wait(WAIT)
    counters.trigger().wait(WAIT)
    assert counters.read()["i0"]["value"] < bright / 100


def test_a_count_can_be_stopped(counters):
    counters.exposure.set(1000).wait(WAIT)
    status = counters.trigger()
    time.sleep(0.05)
    counters.stop()
    with pytest.raises(DetectorError, match=r"BL02:SCALER1\.CNT was stopped"):
        status.wait(WAIT)
    status = counters.trigger()
    time.sleep(0.05)
    counters.stop(success=True)
    status.wait(WAIT)
    assert counters.read()["exposure"]["value"] < 1000


def test_a_wrong_exposure_is_refused(counters):
    with pytest.raises(ValueError, match="range"):
        counters.exposure.set(1e6)


# ---- shutter, attenuator


def test_the_shutter_opens_and_closes(bl):
    for word, expected in (
        ("Open", True),
        ("open", True),
        ("Closed", False),
        (1, True),
        (0, False),
    ):
        bl.shutter.set(word).wait(WAIT)
        assert bl.shutter.is_open is expected
        assert bl.shutter.read()["shutter"]["value"] == int(expected)
    with pytest.raises(ValueError, match=r'takes "Open", "Close", 1 or 0'):
        bl.shutter.set("Ajar")


def test_the_shutter_is_done_when_suspenders_know(bl):
    # A suspender gets what the monitor told last when it is installed; bluesky waits for ever if
    # that is wrong and is put right while a plan begins.
    for wanted in (1, 0) * 15:
        bl.shutter.set(wanted).wait(WAIT)
        told = queue.SimpleQueue()
        subscription = bl.shutter.status.subscribe(lambda value, **_: told.put(value))  # noqa: B023
        assert told.get(timeout=WAIT) == wanted
        bl.shutter.status.unsubscribe(subscription)


def test_a_pause_closes_the_shutter_and_a_resume_opens_it(bl):
    bl.shutter.set(1).wait(WAIT)
    bl.shutter.pause()
    assert not bl.shutter.is_open
    bl.shutter.resume()
    assert bl.shutter.is_open
    bl.shutter.set(0).wait(WAIT)
    bl.shutter.pause()
    bl.shutter.resume()
    assert not bl.shutter.is_open


def test_the_attenuator_dims_the_beam(bl, counters):
    counters.exposure.set(0.2).wait(WAIT)
    counts = []
    for factor in (1.0, 0.25):
        bl.attenuator.set(factor).wait(WAIT)
        counters.trigger().wait(WAIT)
        counts.append(counters.read()["i0"]["value"])
    bl.attenuator.set(1.0).wait(WAIT)
    assert counts[1] / counts[0] == pytest.approx(0.25, rel=0.05)
    with pytest.raises(ValueError, match="range"):
        bl.attenuator.set(1.5)


def test_make_safe_stops_everything(bl):
    bl.shutter.set("Open").wait(WAIT)
    bl.counters.exposure.set(1000).wait(WAIT)
    bl.sample.y.velocity.put(20, wait=True)
    count, move = bl.counters.trigger(), bl.sample.y.set(9000)
    assert bl.make_safe() == []
    for status in (count, move):
        assert isinstance(status.exception(WAIT), (DetectorError, MotionError))
    assert not bl.shutter.is_open
    bl.sample.y.velocity.put(2000, wait=True)
    bl.counters.exposure.set(0.01).wait(WAIT)
    bl.sample.y.set(0).wait(WAIT)


# ---- area detector


@pytest.fixture
def ad(bl):
    bl.shutter.set("Open").wait(WAIT)
    bl.area_detector.exposure.set(0.02).wait(WAIT)
    yield bl.area_detector
    bl.area_detector.unstage()
    bl.shutter.set("Close").wait(WAIT)


def path_of(resource) -> Path:
    return Path(unquote(urlparse(resource["uri"]).path))


def test_frames_are_in_the_file_when_their_documents_come(ad):
    ad.stage()
    documents = []
    for number in range(5):
        ad.trigger().wait(WAIT)
        documents += list(ad.collect_asset_docs())
        assert ad.get_index() == number + 1
        with h5py.File(path_of(documents[0][1]), "r", locking=False) as file:
            assert file["/entry/data/data"].shape[0] >= number + 1
    ad.unstage()
    assert [name for name, _ in documents] == ["stream_resource", *["stream_datum"] * 5]
    resource = documents[0][1]
    key = ad.describe()["ad1_image"]
    assert resource["data_key"] == "ad1_image"
    assert resource["mimetype"] == "application/x-hdf5"
    assert resource["parameters"]["chunk_shape"] == [1, *key["shape"]]
    assert [doc["indices"]["start"] for _, doc in documents[1:]] == [0, 1, 2, 3, 4]
    with h5py.File(path_of(resource), "r") as file:
        data = file[resource["parameters"]["dataset"]]
        assert data.shape == (5, *key["shape"])
        assert data.dtype == np.dtype(key["dtype_numpy"])
        assert file.attrs["complete"] == 1


def test_the_geometry_is_in_the_configuration(ad):
    configuration = {key: value["value"] for key, value in ad.read_configuration().items()}
    units = {key: value["units"] for key, value in ad.describe_configuration().items()}
    assert configuration["ad1_exposure"] == 0.02
    assert configuration["ad1_distance"] > 0
    assert (units["ad1_distance"], units["ad1_pixel_x"], units["ad1_beam_x"]) == ("mm", "m", "px")
    assert configuration["ad1_photon_energy"] > 4000


def test_without_staging_nothing_is_taken(ad):
    with pytest.raises(DetectorError, match="not staged"):
        ad.trigger()
    with pytest.raises(DetectorError, match="without a new frame"):
        list(ad.collect_asset_docs())


def test_staging_alone_makes_no_file(ad):
    before = set(ad.directory.iterdir())
    ad.stage()
    ad.unstage()
    assert set(ad.directory.iterdir()) == before


def test_a_frame_too_many_is_an_error(ad):
    ad.stage()
    ad.trigger().wait(WAIT)
    # Somebody else takes a frame into our file: rows and events would no longer agree.
    ad.acquire.put(1, wait=True, timeout=WAIT)
    with pytest.raises(DetectorError, match=r"the file holds 3 where 2 were expected.*HDF1:NumCap"):
        ad.trigger().wait(WAIT)


def test_a_folder_that_cannot_be_made_is_named(ad):
    folder, ad.directory = ad.directory, Path("/proc/frames")
    try:
        ad.stage()
        with pytest.raises(ConfigurationError, match=r"/proc/frames.*ad1"):
            ad.trigger()
        ad.directory = None
        with pytest.raises(ConfigurationError, match="no folder"):
            ad.trigger()
    finally:
        ad.directory = folder


# ---- broken connections


@pytest.mark.faults
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_ioc_fails_whatever_is_pending(fragile, fragile_bl, sign):
    bl = fragile_bl
    bl.counters.exposure.set(1000).wait(WAIT)
    bl.sample.theta.velocity.put(0.1, wait=True)
    bl.area_detector.exposure.set(1000).wait(WAIT)
    bl.area_detector.stage()
    pending = {
        "SCALER1.CNT": bl.counters.trigger(),
        "SAMPLE:THETA": bl.sample.theta.set(170),
        "AD1:cam1:Acquire": bl.area_detector.trigger(),
    }
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(fragile.ioc.pid, sign)
    try:
        for name, status in pending.items():
            error = status.exception(timeout=WAIT)
            assert isinstance(error, ConnectionLostError)
            assert f"FRAGILE:{name}" in str(error)
        assert time.monotonic() - began < PROMISED
    finally:
        os.kill(fragile.ioc.pid, signal.SIGCONT)
    if sign == signal.SIGKILL:
        with pytest.raises(ConnectionLostError, match="FRAGILE:SAMPLE:X"):
            bl.sample.x.set(1).wait(WAIT)
        with pytest.raises(ConnectionLostError, match=r"FRAGILE:SAMPLE:X\.RBV"):
            bl.sample.x.read()
        with pytest.raises(ConnectionLostError, match=r"FRAGILE:SCALER1\.CNT"):
            bl.counters.trigger().wait(WAIT)
        with pytest.raises(ConnectionLostError, match="FRAGILE:SHUTTER:CMD"):
            bl.shutter.set("Open").wait(WAIT)
        assert len(bl.make_safe()) >= 2


@pytest.mark.faults
def test_a_dead_device_server_fails_whatever_is_pending(fragile, fragile_bl):
    bl = fragile_bl
    bl.counters.exposure.set(1000).wait(WAIT)
    bl.sample.theta.velocity.put(0.1, wait=True)
    bl.area_detector.exposure.set(1000).wait(WAIT)
    bl.area_detector.stage()
    frame = bl.area_detector.trigger()
    count, move = bl.counters.trigger(), bl.sample.theta.set(170)
    time.sleep(0.2)
    began = time.monotonic()
    fragile.server.kill()
    error = frame.exception(timeout=WAIT)
    assert isinstance(error, DetectorError)
    assert "connection to the device server" in str(error)
    assert "''" not in str(error)
    error = count.exception(timeout=WAIT)
    assert isinstance(error, DetectorError)
    assert "FRAGILE:SCALER1" in str(error)
    error = move.exception(timeout=WAIT)
    assert time.monotonic() - began < PROMISED
    assert isinstance(error, MotionError)
    assert "FRAGILE:SAMPLE:THETA" in str(error)


@pytest.mark.faults
def test_devices_work_again_when_the_ioc_is_back(fragile, fragile_bl):
    bl = fragile_bl
    bl.sample.x.set(10).wait(WAIT)
    fragile.ioc.kill()
    with pytest.raises(ConnectionLostError):
        bl.sample.x.set(20).wait(WAIT)
    fragile.restart_ioc()
    bl.connect(timeout=WAIT)
    bl.sample.x.set(20).wait(WAIT)
    assert bl.sample.x.read()["sample_x"]["value"] == 20
    bl.shutter.set("Open").wait(WAIT)
    bl.counters.trigger().wait(WAIT)
    assert bl.counters.read()["i0"]["value"] > 0


def test_a_signal_of_another_client_is_seen(simulated, x):
    other = EpicsSignal(f"{simulated.prefix}SAMPLE:X.VAL", name="other")
    other.wait_for_connection(timeout=WAIT)
    other.set(25).wait(WAIT) if other.put_complete else other.put(25, wait=True)
    assert x.read()["sample_x"]["value"] == 25
    other.destroy()
