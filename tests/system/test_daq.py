"""Scans of the scripting interface over the line protocol of a real device server."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexus_validators import COMMUNITY, OFFICIAL, Validators

from beamline.core.errors import (
    BeamLostError,
    ConfigurationError,
    ConnectionLostError,
    DetectorError,
    DeviceServerError,
    MotionError,
    MotorLimitError,
)
from beamline.daq import (
    DeviceClient,
    LinearScanConfig,
    MeshScanConfig,
    NeXusWriter,
    ScanEngine,
    XAFSScanConfig,
)
from ioc.simulator import start_device_server

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

I0, IT, IF = "BL02:DET:I0", "BL02:DET:IT", "BL02:DET:IF"


@pytest.fixture
def client(simulated) -> Iterator[DeviceClient]:
    host, port = simulated.address.rsplit(":", 1)
    with DeviceClient(host, int(port)) as connected:
        before = connected.get("BL02:DET:EXPOSURE")
        yield connected
        assert connected.get("BL02:DET:EXPOSURE") == before
        assert connected.get("BL02:SHUTTER:STATUS") == 0


def test_a_linear_scan(client: DeviceClient, tmp_path: Path):
    writer = NeXusWriter(tmp_path / "live")
    engine = ScanEngine(client, consumers=[writer])
    config = LinearScanConfig(
        motor="BL02:SAMPLE:X", start=-100, stop=100, steps=11, detectors=[I0, IT], dwell_time=0.05
    )
    data = engine.run(config)
    assert len(data) == 11
    np.testing.assert_allclose(data.motor_positions["BL02:SAMPLE:X"], config.positions, atol=0.5)
    assert (data.detector_readings[I0] > 1e4).all()
    assert (np.diff(data.timestamps) > 0).all()
    assert data.metadata["scan_type"] == "linear"
    assert data.metadata["stop_document"]["exit_status"] == "success"
    assert (data.metadata["start"], data.metadata["stop"]) == (-100.0, 100.0)
    assert data.metadata["ring_current"] > 300
    data.to_nexus(tmp_path / "by_hand.nxs")
    with h5py.File(writer.files[0]) as live, h5py.File(tmp_path / "by_hand.nxs") as by_hand:
        assert live["entry/entry_identifier_uuid"][()] == by_hand["entry/entry_identifier_uuid"][()]
        for path in ("data/i0", "data/sample_x", "instrument/detector/data", "start_time"):
            if path == "start_time":
                continue
            np.testing.assert_array_equal(live[f"entry/{path}"], by_hand[f"entry/{path}"])


def test_a_mesh(client: DeviceClient, tmp_path: Path):
    config = MeshScanConfig(
        motor1=("BL02:SAMPLE:Y", -50.0, 50.0, 3),
        motor2=("BL02:SAMPLE:X", -20.0, 20.0, 4),
        detectors=[I0, IF],
        dwell_time=0.01,
        snake=True,
    )
    data = ScanEngine(client).run_mesh(config)
    assert len(data) == 12
    assert data.metadata["shape"] == [3, 4]
    data.to_nexus(tmp_path / "x.nxs", scan_type="mesh")
    with h5py.File(tmp_path / "x.nxs") as file:
        assert file["entry/data/i0"].shape == (3, 4)
        np.testing.assert_allclose(file["entry/data/sample_x"], config.positions2)


def test_a_spectrum_is_a_valid_file(
    client: DeviceClient, tmp_path: Path, validators: dict[str, Validators]
):
    config = XAFSScanConfig(
        edge=8979.0,
        regions=[(-60.0, -20.0, 10.0), (-20.0, 40.0, 4.0), (40.0, 100.0, 10.0)],
        detectors=[I0, IT],
        dwell_time=0.1,
    )
    data = ScanEngine(client).run_xafs(config)
    assert data.metadata["edge"] == 8979.0
    assert data.metadata["element"] == "Cu"
    mut = np.log(data.detector_readings[I0] / data.detector_readings[IT])
    energy = data.motor_positions["BL02:MONO:ENERGY"]
    np.testing.assert_allclose(energy, config.generate_energies(), atol=0.1)
    assert mut[energy > 9050].mean() > mut[energy < 8950].mean() + 0.5
    path = tmp_path / "x.nxs"
    data.to_nexus(path, title="Cu", scan_type="xafs")
    for definitions in (OFFICIAL, COMMUNITY):
        assert validators[definitions].application(path, "NXxas").errors == []
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["entry/monitor/preset"], np.full(len(data), 0.1))


def test_a_scan_that_is_interrupted_is_cleaned_up_and_the_next_one_runs(
    client: DeviceClient, tmp_path: Path
):
    events = []

    def interrupt(name: str, doc: Any) -> None:
        if name == "event":
            events.append(doc)
            if len(events) == 4:
                os.kill(os.getpid(), signal.SIGINT)

    writer = NeXusWriter(tmp_path)
    engine = ScanEngine(client, consumers=[writer, interrupt])
    config = LinearScanConfig(
        motor="BL02:SAMPLE:X", start=-10, stop=10, steps=300, detectors=[I0], dwell_time=0.01
    )
    with pytest.raises(KeyboardInterrupt):
        engine.run(config)
    with h5py.File(writer.files[0]) as file:
        assert file["entry/exit_status"].asstr()[()] == "abort"
        assert 1 <= len(file["entry/data/i0"]) < 300
    assert len(engine.run(config.model_copy(update={"steps": 3}))) == 3


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        ("BL02:SAMPLE:X:STUCK", DeviceServerError, "has stalled"),
        ("BL02:SAMPLE:X:LIMIT=5", DeviceServerError, "stands on a limit switch"),
        ("BL02:SAMPLE:X:ENCODER", DeviceServerError, "lost its encoder"),
        ("BL02:SAMPLE:X:FROZEN", MotionError, "was sent to 10 um and its readback says 0"),
        ("BL02:DET:I0:DEAD", DetectorError, "BL02:DET:I0 reads nothing"),
    ],
)
def test_a_fault_is_an_error_and_no_data(
    client: DeviceClient, tmp_path: Path, fault: str, error: type[Exception], told: str
):
    client.move("BL02:SAMPLE:X", 0)
    writer = NeXusWriter(tmp_path)
    client.request(f"FAULT:{fault}")
    try:
        with pytest.raises(error, match=told):
            ScanEngine(client, consumers=[writer]).run_linear(
                LinearScanConfig(
                    motor="BL02:SAMPLE:X", start=0, stop=10, steps=2, detectors=[I0],
                    dwell_time=0.01,
                )
            )  # fmt: skip
    finally:
        client.request("FAULT:ALL:NONE")
        client.move("BL02:SAMPLE:X", 0)
        client.request("ABORT")
    with h5py.File(writer.files[0]) as file:
        assert file["entry/exit_status"].asstr()[()] == "fail"
        assert told in file["entry/reason"].asstr()[()]


def test_a_ring_without_current_is_no_beam(client: DeviceClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("beamline.daq._devices.RING_LOLO", 1e4)
    with pytest.raises(BeamLostError, match=r"BL02:RING:CURRENT is [0-9.]+ mA"):
        ScanEngine(client).run_linear(
            LinearScanConfig(motor="BL02:SAMPLE:X", start=0, stop=1, steps=2, detectors=[I0])
        )


def test_any_pv_can_be_a_detector_and_scan_numbers_go_on(client: DeviceClient, tmp_path: Path):
    writer = NeXusWriter(tmp_path)
    readback = "BL02:SAMPLE:Y.RBV"
    config = LinearScanConfig(
        motor="BL02:SAMPLE:X", start=0, stop=1, steps=2, detectors=[readback], dwell_time=0.01
    )
    metadata: dict[str, Any] = {"scan_id": 6}
    data = ScanEngine(client, consumers=[writer], metadata=metadata).run_linear(config)
    assert data.detector_readings[readback].tolist() == [client.get(readback)] * 2
    assert data.metadata["scan_id"] == metadata["scan_id"] == 7
    with h5py.File(writer.files[0]) as file:
        assert file["entry/instrument/BL02_SAMPLE_Y_RBV/data"].shape == (2,)


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[str]:
    """The address of a device server for whoever makes it slow: no IOC would like that."""
    with start_device_server(log=tmp_path / "log", time_scale=50.0) as server:
        yield f"{server.info['host']}:{server.info['port']}"


def test_a_client_takes_numpy_numbers_and_one_line_and_comes_back(
    slow_server: str, monkeypatch: pytest.MonkeyPatch
):
    host, port = slow_server.rsplit(":", 1)
    monkeypatch.setenv("DEVICE_PORT", "no")
    with pytest.raises(ConfigurationError, match="DEVICE_PORT must be a number, found 'no'"):
        DeviceClient(host)
    monkeypatch.setenv("DEVICE_PORT", port)
    with DeviceClient(host, timeout=0.2) as client, DeviceClient(host, timeout=60) as other:
        other.put("BL02:SAMPLE:Z", np.float64(1.5))
        other.move("BL02:SAMPLE:Z", np.int64(0))
        with pytest.raises(ConfigurationError, match="a request is one line"):
            other.request("PING\nPING")
        other.request("FAULT:LINK:DELAY=60")
        with pytest.raises(ConnectionLostError, match="did not answer 'PING'"):
            client.ping()
        other.request("FAULT:LINK:NONE")
        monkeypatch.setattr(client, "_timeout", 60)
        # The late answer belongs to nobody.
        assert client.get("BL02:SAMPLE:Z.HLM") == 5000


def test_what_is_wrong_is_said_before_anything_moves(client: DeviceClient):
    engine = ScanEngine(client)
    before = client.get("BL02:SAMPLE:X.RBV")
    far = {"start": 0.0, "stop": 1e6, "steps": 3, "detectors": [I0]}
    with pytest.raises(MotorLimitError, match="sample_x cannot go to"):
        engine.run_linear(LinearScanConfig(motor="BL02:SAMPLE:X", **far))
    with pytest.raises(DeviceServerError, match="BL02:SAMPLE:Q is no motor"):
        engine.run_linear(LinearScanConfig(motor="BL02:SAMPLE:Q", **far))
    with pytest.raises(DeviceServerError, match="BL02:DET:NO"):
        engine.run_linear(
            LinearScanConfig(
                motor="BL02:SAMPLE:X", start=0, stop=1, steps=2, detectors=["BL02:DET:NO"]
            )
        )
    assert math.isclose(client.get("BL02:SAMPLE:X.RBV"), before, abs_tol=1e-6)
