"""Motors move and signals follow the beam, seen through the line protocol."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
from device_client import (
    TIME_SCALE,
    Client,
    Subscriber,
    wait,
)

from beamline.core.units import bragg_angle
from ioc.simulator import start_device_server

pytestmark = pytest.mark.system


def test_a_move_is_a_trapezoid_in_time(client: Client, port: int) -> None:
    distance, speed, ramp = 8000.0, 500.0, client.get("SAMPLE:X.ACCL")
    client.do(f"PUT:BL02:SAMPLE:X.VELO:{speed}")
    track = []
    with Subscriber(port, "BL02:SAMPLE:X.*", 5) as follower:
        begun = time.monotonic()
        client.do(f"MOVE:BL02:SAMPLE:X:{distance}")
        follower.until("SAMPLE:X.DMOV", "0")
        while follower.values["BL02:SAMPLE:X.DMOV"] == "0":
            follower.update()
            track.append((follower.stamp, float(follower.values["BL02:SAMPLE:X.RBV"])))
        took = (time.monotonic() - begun) * TIME_SCALE
    assert took > distance / speed + ramp - 0.05 * TIME_SCALE
    assert client.get("SAMPLE:X.RBV") == distance
    times, positions = np.array(track).T
    inside = (positions > 500) & (positions < 7500)
    assert np.count_nonzero(inside) > 20
    slope = np.polyfit((times[inside] - times[0]) * TIME_SCALE, positions[inside], 1)[0]
    assert slope == pytest.approx(speed, rel=0.01)


def test_energy_is_a_bragg_angle(client: Client) -> None:
    client.do("MOVE:BL02:MONO:ENERGY:12000")
    while client.get("MONO:ENERGY.DMOV") == 0:
        reply = client.ask("MGET:BL02:MONO:ENERGY.RBV,BL02:MONO:ENERGY.ANGLE")
        energy, angle = map(float, reply[3:].split(","))
        assert angle == pytest.approx(bragg_angle(energy), abs=1e-9)
    assert client.get("MONO:ENERGY.ANGLE") == pytest.approx(bragg_angle(12000.0), abs=1e-9)


def test_retarget_stop_and_abort(client: Client) -> None:
    client.do("PUT:BL02:SAMPLE:X.VELO:200")
    client.do("PUT:BL02:MONO:ENERGY.VELO:50")
    client.do("MOVE:BL02:SAMPLE:X:10000")
    wait(lambda: client.get("SAMPLE:X.RBV") > 500)
    client.do("MOVE:BL02:SAMPLE:X:-1000")
    assert client.get("SAMPLE:X.DMOV") == 0
    wait(lambda: client.get("SAMPLE:X.DMOV") == 1)
    assert client.get("SAMPLE:X.RBV") == -1000
    client.do("MOVE:BL02:SAMPLE:X:10000")
    wait(lambda: client.get("SAMPLE:X.RBV") > 0)
    client.do("MSTOP:BL02:SAMPLE:X")
    wait(lambda: client.get("SAMPLE:X.DMOV") == 1)
    assert 0 < client.get("SAMPLE:X.RBV") == client.get("SAMPLE:X") < 10000
    client.do("MOVE:BL02:SAMPLE:X:10000")
    client.do("MOVE:BL02:MONO:ENERGY:20000")
    client.do("COUNT:1000")
    client.do("ABORT")
    wait(lambda: client.get("SAMPLE:X.DMOV") == client.get("MONO:ENERGY.DMOV") == 1)
    assert client.get("DET:COUNTING") == 0
    assert client.get("MONO:ENERGY.RBV") < 20000


def test_motor_settings(client: Client) -> None:
    assert client.get("SAMPLE:Z.HLS") == client.get("SAMPLE:Z.LLS") == 0
    assert int(client.get("SAMPLE:Z.MSTA")) & 0x2  # done
    assert int(client.get("SAMPLE:THETA.MSTA")) & 0x240 == 0x240  # stalled: slip and problem
    client.do("PUT:BL02:SAMPLE:Z.BDST:10")
    client.move("SAMPLE:Z", -100.0)
    client.do("PUT:BL02:SAMPLE:Z.BDST:0")
    for field, value in (("VELO", 0), ("ACCL", -1), ("HLM", 5001), ("LLM", -5001), ("BDST", 1e4)):
        before = client.get(f"SAMPLE:Z.{field}")
        assert client.ask(f"PUT:BL02:SAMPLE:Z.{field}:{value}") == "ERR:INVALID_VALUE"
        assert client.get(f"SAMPLE:Z.{field}") == before


def test_closed_shutter_means_darks(client: Client) -> None:
    client.do("PUT:BL02:DET:EXPOSURE:10")
    dark = client.counts()
    for name in ("I0", "IT", "IR"):
        assert dark[name] == pytest.approx(2000, abs=300)
    assert dark["IF"] < 150
    assert dark["XRD"] < 150
    client.open_shutter()
    assert client.counts()["I0"] > 1e8


def test_signals_follow_the_beam(client: Client) -> None:
    client.open_shutter()
    client.do("PUT:BL02:DET:EXPOSURE:1")
    full = client.counts()["I0"]
    current = client.get("RING:CURRENT")
    assert full == pytest.approx(2e7 * current / 400, rel=0.005)
    client.do("PUT:BL02:ATTEN:FACTOR:0.25")
    assert client.counts()["I0"] == pytest.approx(full / 4, rel=0.01)
    client.do("PUT:BL02:ATTEN:FACTOR:1")
    client.do("PUT:BL02:DET:EXPOSURE:0.1")
    assert client.counts()["I0"] == pytest.approx(full / 10, rel=0.01)
    client.move("MONO:ENERGY", 11000.0)
    assert client.counts()["I0"] < 0.099 * full
    client.do("PUT:BL02:DET:EXPOSURE:1000")  # 2e10 counts, below full scale
    assert client.counts()["I0"] == pytest.approx(
        1000 * full * 121 / 81 * math.exp(-4 / 9), rel=0.01
    )


def absorption(counts: dict[str, float], dark: float) -> float:
    return math.log((counts["I0"] - dark) / (counts["IT"] - dark))


def test_absorption_is_that_of_the_table(client: Client) -> None:
    client.open_shutter()
    client.do("PUT:BL02:DET:EXPOSURE:1")
    client.move("SAMPLE:X", 380.0)
    client.move("SAMPLE:Y", -260.0)
    for energy, expected in ((8500.0, 0.4978), (8979.0, 1.7), (9490.0, 2.5)):
        client.move("MONO:ENERGY", energy)
        counts = client.counts()
        assert absorption(counts, 200) == pytest.approx(expected, abs=0.01)
        if energy < 8978:
            assert counts["IF"] < 100
        else:
            assert counts["IF"] > 1e4
    client.move("SAMPLE:X", 380.0 + 1000)  # the edge of the foil cuts the beam in half
    counts = client.counts()
    half = (1 + math.exp(-2.5)) / 2
    assert counts["IT"] / counts["I0"] == pytest.approx(half, rel=0.02)
    client.move("SAMPLE:X", 380.0 + 1500)
    assert absorption(client.counts(), 200) == pytest.approx(0, abs=0.01)


def test_powder_reflection(client: Client) -> None:
    client.open_shutter()
    client.move("MONO:ENERGY", 8900.0)
    client.do("PUT:BL02:DET:EXPOSURE:10")
    peak = 2 * math.degrees(math.asin(12398.419843 / 8900 / (2 * 2.0871)))
    client.do("PUT:BL02:DET:TTH.VELO:200")
    readings = []
    for offset in (-1.0, -0.05, 0.0, 0.05, 1.0):
        client.move("DET:TTH", peak + offset)
        readings.append(client.counts()["XRD"])
    assert readings[2] > 20 * max(readings[0], readings[4])
    assert readings[1] / readings[2] == pytest.approx(0.5, abs=0.05)
    assert readings[3] / readings[2] == pytest.approx(0.5, abs=0.05)


def test_a_count_sees_the_shutter_move(client: Client, port: int) -> None:
    with Subscriber(port, "BL02:DET:*") as follower:
        client.send(b"PUT:BL02:SHUTTER:CMD:1\nCOUNT:0.2\n")  # open for three quarters of the gate
        assert client.line() == "OK:PUT"
        assert client.line() == "OK:COUNTING"
        follower.until("DET:COUNTING", "0")
    counted = float(follower.values["BL02:DET:I0"])
    assert counted == pytest.approx(2e7 * 0.15, rel=0.01)


def test_ring_and_hall(client: Client) -> None:
    readings = [client.get("RING:CURRENT")]
    for _ in range(20):
        time.sleep(0.01)
        readings.append(client.get("RING:CURRENT"))
        assert 1e-10 <= client.get("VACUUM:PRESSURE") <= 1e-8
        assert 20 <= client.get("HUTCH:TEMP") <= 26
    assert readings == sorted(readings, reverse=True)
    assert 350 <= readings[-1] < readings[0] <= 400


def dark_counts(seed: int, tmp_path: Path) -> list[str]:
    counts = []
    with (
        start_device_server(log=tmp_path / "log", seed=seed, time_scale=100) as child,
        Client(int(child.info["port"])) as client,
        Subscriber(int(child.info["port"]), "BL02:DET:*") as follower,
    ):
        for _ in range(10):
            client.do("COUNT:1")
            done = follower.until("DET:COUNTING", "0")
            counts.append(",".join(done[f"BL02:DET:{name}"] for name in ("I0", "IT", "IR", "XRD")))
            client.counts()  # reading in between must not disturb the sequence
    return counts


def test_seeds(tmp_path: Path) -> None:
    first = dark_counts(7, tmp_path)
    assert dark_counts(7, tmp_path) == first
    assert dark_counts(8, tmp_path) != first
    assert len(set(first)) > 5
