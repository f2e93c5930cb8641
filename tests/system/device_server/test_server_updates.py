"""Monitors and subscriptions of the device server."""

from __future__ import annotations

import time

import pytest
from device_client import (
    TIME_SCALE,
    Client,
    Subscriber,
)

pytestmark = pytest.mark.system


def test_monitor(client: Client) -> None:
    begun = time.monotonic()
    assert client.ask("MONITOR:BL02:MONO:ENERGY:20") == "OK:MONITORING"
    assert [client.line() for _ in range(10)] == ["DATA:9000"] * 10
    assert time.monotonic() - begun > 0.15
    # A second monitor replaces the first.
    client.send(b"MONITOR:BL02:SAMPLE:X:1\n")
    for reply in iter(client.line, "OK:MONITORING"):
        assert reply == "DATA:9000"
    assert {client.line() for _ in range(20)} == {"DATA:0"}
    client.send(b"STOP\n")
    for reply in iter(client.line, "OK:STOPPED"):
        assert reply == "DATA:0"
    time.sleep(0.05)
    assert client.ask("PING") == "OK:PONG"


@pytest.mark.parametrize("interval", ["0", "0.5", "-1", "nan", "", "x"])
def test_monitor_interval(client: Client, interval: str) -> None:
    assert client.ask(f"MONITOR:BL02:MONO:ENERGY:{interval}") == "ERR:INVALID_VALUE"
    assert client.ask(f"SUBSCRIBE:BL02:*:{interval}") == "ERR:INVALID_VALUE"
    assert client.ask(f"MONITOR:BL02:NO:SUCH:{interval}") == "ERR:UNKNOWN_PV"


def test_monitored_detectors_are_fresh(client: Client) -> None:
    assert client.ask("MONITOR:BL02:DET:I0:1") == "OK:MONITORING"
    assert len({client.line() for _ in range(50)}) > 5


def test_subscription_follows_a_move(client: Client, port: int) -> None:
    client.do("PUT:BL02:SAMPLE:X.VELO:200")
    with Subscriber(port) as follower:
        client.do("MOVE:BL02:SAMPLE:X:4000")
        began = follower.until("SAMPLE:X.DMOV", "0")
        assert began["BL02:SAMPLE:X"] == "4000"
        positions = [0.0]
        while follower.values["BL02:SAMPLE:X.DMOV"] == "0":
            new = follower.update()
            if "BL02:SAMPLE:X.RBV" in new:
                positions.append(float(new["BL02:SAMPLE:X.RBV"]))
        # With "done", or before it, comes the final readback.
        assert follower.values["BL02:SAMPLE:X.RBV"] == "4000"
        assert new["BL02:SAMPLE:X.MOVN"] == "0"
        assert positions == sorted(positions)
        assert len(positions) >= 4


def test_every_put_blinks_done_once(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:SAMPLE:Y.DMOV", 1) as follower:
        for target in (0, 0, 1, 1, -5, 0):
            client.do(f"PUT:BL02:SAMPLE:Y:{target}")
            assert follower.update() == {"BL02:SAMPLE:Y.DMOV": "0"}
            assert follower.update() == {"BL02:SAMPLE:Y.DMOV": "1"}
            assert client.get("SAMPLE:Y.RBV") == target


def test_only_changes_are_sent_and_not_too_often(client: Client, port: int) -> None:
    begun = time.monotonic()
    with Subscriber(port, "BL02:RING:CURRENT", 100) as ring:
        for _ in range(4):
            assert set(ring.update()) == {"BL02:RING:CURRENT"}
        assert time.monotonic() - begun > 0.25
    with Subscriber(port, "BL02:ATTEN:FACTOR", 5) as quiet:
        time.sleep(0.05)
        client.do("PUT:BL02:ATTEN:FACTOR:0.5")
        assert quiet.update() == {"BL02:ATTEN:FACTOR": "0.5"}


def test_a_count_is_told_in_one_line(client: Client, port: int) -> None:
    results = [f"BL02:DET:{name}" for name in ("I0", "IT", "IF", "IR", "XRD")]
    with Subscriber(port) as follower:
        for _ in range(3):  # in the dark, counts may well be equal: they are told all the same
            assert client.ask("COUNT:0.01") == "OK:COUNTING"
            assert follower.until("DET:COUNTING", "1")
            done = follower.until("DET:COUNTING", "0")
            assert done["BL02:DET:ELAPSED"] == "0.01"
            assert set(results) <= set(done)
        # What clients read in between is not what was counted, and does not replace it.
        latched = {name: follower.values[name] for name in results}
        client.open_shutter()
        assert client.counts()["I0"] > 1e5
        follower.until("SHUTTER:STATUS", "1")
        assert {name: follower.values[name] for name in results} == latched


def test_count_takes_its_time_and_can_be_stopped(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:DET:*") as follower:
        begun = time.monotonic()
        client.send(b"COUNT:4\nCOUNT:1\n")
        assert [client.line(), client.line()] == ["OK:COUNTING", "ERR:BUSY"]
        follower.until("DET:COUNTING", "0")
        assert time.monotonic() - begun >= 4 / TIME_SCALE
        client.do("COUNT:1000")
        client.do("COUNTSTOP")
        done = follower.until("DET:COUNTING", "0")
        assert 0 < float(done["BL02:DET:ELAPSED"]) < 1000
