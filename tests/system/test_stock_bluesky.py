"""Bluesky's and ophyd's own plans, devices, suspenders and magics on the simulated beamline."""

import asyncio
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.suspenders import SuspendBoolLow
from ophyd import EpicsMotor, EpicsScaler

pytestmark = pytest.mark.system

WAIT = 60.0
#: Preset of the scaler (s), 50 ms of real time. Stock `EpicsMotor` loses the end of a move that
#: begins while the subscriptions of the last one are still being cleared.
PRESET = 2.5


@pytest.fixture(scope="module")
def stock(simulated):
    """Two motors and the scaler as ophyd has them."""
    x = EpicsMotor(f"{simulated.prefix}SAMPLE:X", name="x", labels={"motors"})
    y = EpicsMotor(f"{simulated.prefix}SAMPLE:Y", name="y", labels={"motors"})
    scaler = EpicsScaler(f"{simulated.prefix}SCALER1", name="scaler")
    for device in (x, y, scaler):
        device.wait_for_connection(timeout=WAIT)
    scaler.stage_sigs["preset_time"] = PRESET
    yield x, y, scaler
    for motor in (x, y):
        motor.move(0, timeout=WAIT)
    for device in (x, y, scaler):
        device.destroy()


def column(docs, key):
    return np.array([event["data"][key] for event in docs.events("primary")])


def test_plans_with_stock_devices(engine, docs, stock):
    x, y, scaler = stock
    engine(bp.scan([scaler], x, -1, 1, 5))
    np.testing.assert_allclose(column(docs, "x"), [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    assert (column(docs, "scaler_channels_chan1") == PRESET * 1e7).all()
    docs.seen.clear()
    engine(bp.rel_scan([scaler], x, -1, 1, 3))
    np.testing.assert_allclose(column(docs, "x"), [0, 1, 2], atol=1e-6)
    docs.seen.clear()
    engine(bp.list_scan([scaler], x, [3, -2, 0.25], y, [0, 1, 0]))
    np.testing.assert_allclose(column(docs, "x"), [3, -2, 0.25], atol=1e-6)
    np.testing.assert_allclose(column(docs, "y"), [0, 1, 0], atol=1e-6)
    docs.seen.clear()
    engine(bp.grid_scan([scaler], y, 0, 1, 2, x, 0, 2, 3, snake_axes=True))
    np.testing.assert_allclose(column(docs, "x"), [0, 1, 2, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(column(docs, "y"), [0, 0, 0, 1, 1, 1], atol=1e-6)
    docs.seen.clear()
    engine(bp.count([scaler], 4))
    assert len(docs.events("primary")) == 4
    assert docs.stop["exit_status"] == "success"


def test_ours_and_theirs_in_one_scan(engine, docs, stock, bl):
    x, _, scaler = stock
    engine(bp.grid_scan([scaler, bl.counters], x, 0, 1, 2, bl.sample.y, 0, 1, 2))
    np.testing.assert_allclose(column(docs, "sample_y"), [0, 1, 0, 1], atol=1e-6)
    assert docs.stop["exit_status"] == "success"


def test_a_scan_that_only_moves_arrives_everywhere(engine, docs, bl):
    # Nothing between the moves: the end of one and the beginning of the next are as near as can be.
    # Stock `EpicsMotor` can't do that (see PRESET), so this is asked of our own axis only.
    engine(bp.scan([], bl.sample.x, 0, 1, 101))
    targets = np.linspace(0, 1, 101)
    np.testing.assert_allclose(column(docs, "sample_x_user_setpoint"), targets, atol=1e-9)
    np.testing.assert_allclose(column(docs, "sample_x"), targets, atol=1e-6)


def test_a_closed_shutter_suspends_a_scan_until_it_is_open(engine, docs, bl):
    bl.shutter.set("Open").wait(WAIT)
    engine.install_suspender(SuspendBoolLow(bl.shutter.status, sleep=0.2))
    opened = []
    told = threading.Event()

    def open_again():
        opened.append(time.time())
        bl.shutter.command.put(1)

    def hear(value, **_):
        if not value:
            told.set()
            threading.Timer(0.7, open_again).start()

    def close_after_five(detectors, step, pos_cache):
        yield from bps.one_nd_step(detectors, step, pos_cache)
        if step[bl.sample.x] == 4:
            # The RunEngine waits meanwhile: a suspender does nothing if it is busy for 0.1 s.
            yield from bps.checkpoint()
            bl.shutter.command.put(0)
            yield from bps.wait_for([lambda: asyncio.to_thread(told.wait, WAIT)])

    # Told after the suspender, which has subscribed before.
    subscription = bl.shutter.status.subscribe(hear, run=False)
    try:
        engine(bp.scan([bl.counters], bl.sample.x, 0, 19, 20, per_step=close_after_five))
    finally:
        engine.clear_suspenders()
        bl.shutter.status.unsubscribe(subscription)
        bl.shutter.set("Close").wait(WAIT)
    events = docs.events("primary")
    assert docs.stop["exit_status"] == "success"
    np.testing.assert_allclose(column(docs, "sample_x"), np.arange(20), atol=1e-6)
    # What was under way when the shutter closed may still be recorded; nothing more.
    dark = [event for event in events if event["data"]["i0"] < 1000]
    assert len(dark) <= 2
    late = [event for event in events if event["time"] > opened[0]]
    assert len(late) >= 12
    assert late[0]["time"] - opened[0] > 0.2
    assert all(event["data"]["i0"] > 1000 for event in late)


def test_best_effort_callback_without_a_screen(engine, stock, capsys):
    x, _, scaler = stock
    table = BestEffortCallback()
    table.disable_plots()
    engine.subscribe(table)
    scaler.channels.chan2.kind = "hinted"
    engine(bp.scan([scaler], x, -1, 1, 5))
    shown = capsys.readouterr().out
    assert "x" in shown
    assert "scan" in shown
    assert len([line for line in shown.splitlines() if line.startswith("|   ")]) >= 5


def test_relative_moves_and_magics(engine, bl, capsys):
    from bluesky.magics import BlueskyMagics
    from IPython.core.interactiveshell import InteractiveShell

    engine(bps.mv(bl.sample.x, 1, bl.sample.y, 2))
    engine(bps.mvr(bl.sample.x, 0.5))
    assert bl.sample.x.position == pytest.approx(1.5)
    shell = InteractiveShell()
    shell.user_ns.update(RE=engine, x=bl.sample.x, y=bl.sample.y, counters=bl.counters)
    magics = BlueskyMagics(shell)
    shell.register_magics(magics)
    magics.RE = engine
    shell.run_line_magic("mov", "x 3 y -1")
    shell.run_line_magic("movr", "y 0.5")
    assert (bl.sample.x.position, bl.sample.y.position) == pytest.approx((3, -0.5))
    capsys.readouterr()
    shell.run_line_magic("wa", "")
    shown = capsys.readouterr().out
    assert "sample_x" in shown
    assert "-0.5" in shown
    shell.run_line_magic("mov", "x 0 y 0")
