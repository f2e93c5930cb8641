"""Runs of bluesky's own plans with simulated devices, as other people's plans would make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedPause, RunEngineInterrupted
from nexus_validators import COMMUNITY, Validators, default_plot
from ophyd.sim import TrivialFlyer, hw

from callbacks.nexus import NeXusWriter

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


@pytest.fixture
def devices(tmp_path: Path) -> Any:
    """ophyd's simulated hardware."""
    (tmp_path / "assets").mkdir()
    return hw(str(tmp_path / "assets"))


@pytest.fixture
def writer(tmp_path: Path) -> NeXusWriter:
    """A writer."""
    return NeXusWriter(tmp_path / "nexus")


@pytest.fixture
def run_engine(writer: NeXusWriter) -> RunEngine:
    """A RunEngine with nothing but the writer."""
    engine = RunEngine({"scan_id": 41}, call_returns_result=False)
    engine.subscribe(writer)
    return engine


@pytest.fixture(scope="module")
def validators(validators: dict[str, Validators]) -> Validators:
    """The newer definitions."""
    return validators[COMMUNITY]


PLANS: dict[str, tuple[Callable[[Any], Any], dict[str, Any] | None]] = {
    "count": (lambda d: bp.count([d.det], 3), {"axes_names": ["time"], "signal_name": "det"}),
    "scan": (
        lambda d: bp.scan([d.det1], d.motor, -1, 1, 5),
        {"axes_names": ["motor"], "signal_name": "det1"},
    ),
    "two motors": (
        lambda d: bp.scan([d.det], d.motor1, -1, 1, d.motor2, 0, 1, 5),
        {"axes_names": ["motor1"], "is_curve": True},
    ),
    "rel_scan": (lambda d: bp.rel_scan([d.det], d.motor, -1, 1, 5), {"axes_names": ["motor"]}),
    "list_scan": (lambda d: bp.list_scan([d.det], d.motor, [1, 3, 9]), {"axes_names": ["motor"]}),
    "grid_scan": (
        lambda d: bp.grid_scan([d.det4], d.motor1, -1, 1, 3, d.motor2, 0, 2, 4, True),
        {"axes_names": ["motor1", "motor2"], "is_image": True},
    ),
    "cube": (
        lambda d: bp.grid_scan(
            [d.det4], d.motor1, -1, 1, 3, d.motor2, 0, 2, 4, True, d.motor3, 0, 1, 2, True
        ),
        {"axes_names": ["motor1", "motor2", "motor3"]},
    ),
    "rel_grid_scan": (
        lambda d: bp.rel_grid_scan([d.det4], d.motor1, -1, 1, 3, d.motor2, 0, 2, 4),
        {"axes_names": ["motor1", "motor2"]},
    ),
    "list_grid_scan": (
        lambda d: bp.list_grid_scan([d.det4], d.motor1, [1, 2, 7], d.motor2, [1, 5]),
        {"axes_names": ["motor1", "motor2"]},
    ),
    "spiral": (
        lambda d: bp.spiral_square(
            [d.det4],
            d.motor1,
            d.motor2,
            x_center=0,
            y_center=0,
            x_range=2,
            y_range=2,
            x_num=3,
            y_num=3,
        ),
        {"is_curve": True},
    ),
    "adaptive": (
        lambda d: bp.adaptive_scan([d.det], "det", d.motor, -1, 1, 0.1, 0.5, 0.1, True),
        {"axes_names": ["motor"]},
    ),
    "images in events": (lambda d: bp.count([d.direct_img], 3), {"signal_name": "img"}),
    "lists in events": (
        lambda d: bp.count([d.direct_img_list], 3),
        {"signal_name": "direct_img_list"},
    ),
    "images elsewhere": (
        lambda d: bp.scan([d.img, d.det], d.motor, -1, 1, 3),
        {"signal_name": "det"},
    ),
    "flyer": (lambda d: bp.fly([d.flyer1]), {"signal_name": "det"}),
    "flyer of nothing": (lambda d: bp.fly([TrivialFlyer()]), None),
    "boolean": (lambda d: bp.count([d.bool_sig], 2), {"signal_name": "bool_sig"}),
    "no detector": (lambda d: bp.scan([], d.motor, -1, 1, 3), {"signal_name": "motor"}),
    "nothing": (lambda d: bare(), None),
    "another stream": (lambda d: other_stream(d), {"signal_name": "det"}),
    "monitor": (lambda d: monitored(d), {"signal_name": "motor"}),
}


def bare() -> Any:
    yield from bps.open_run()
    yield from bps.close_run()


def other_stream(devices: Any) -> Any:
    yield from bps.open_run()
    for _ in range(3):
        yield from bps.trigger_and_read([devices.det], name="odd-stream")
    yield from bps.close_run()


def monitored(devices: Any) -> Any:
    yield from bps.open_run()
    yield from bps.monitor(devices.motor.readback, name="watched")
    yield from bps.mv(devices.motor, 3)
    yield from bps.unmonitor(devices.motor.readback)
    yield from bps.close_run()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("plan", PLANS)
def test_any_plan_makes_a_valid_file_with_a_plot(
    run_engine: RunEngine, writer: NeXusWriter, devices: Any, validators: Validators, plan: str
):
    make, expected = PLANS[plan]
    run_engine(make(devices))
    (path,) = writer.files
    assert validators.base_classes(path).errors == []
    with h5py.File(path, "r") as file:
        assert file["entry/exit_status"][()] == b"success"
        assert file["entry/scan_id"][()] == 42
    if expected is not None:
        plot = default_plot(path)
        assert {name: plot[name] for name in expected} == expected


def test_positions_and_counts_are_those_of_the_devices(
    run_engine: RunEngine, writer: NeXusWriter, devices: Any
):
    run_engine(bp.rel_grid_scan([devices.det4], devices.motor1, -1, 1, 3, devices.motor2, 0, 2, 4,
                                snake_axes=True))  # fmt: skip
    with h5py.File(writer.files[0], "r") as file:
        y, x = file["entry/data/motor1"][()], file["entry/data/motor2"][()]
        np.testing.assert_allclose(y, [-1, 0, 1])
        np.testing.assert_allclose(x, np.linspace(0, 2, 4))
        grid = file["entry/data/det4"][()]
        np.testing.assert_allclose(grid, np.exp(-(y[:, None] ** 2 + x**2) / 2), rtol=1e-9)


def test_a_failing_plan_ends_in_a_labelled_file(
    run_engine: RunEngine, writer: NeXusWriter, devices: Any
):
    @bpp.run_decorator(md={"plan_name": "failing"})
    def failing() -> Any:
        yield from bps.trigger_and_read([devices.det])
        raise RuntimeError("the beam has gone")

    with pytest.raises(RuntimeError, match="gone"):
        run_engine(failing())
    with h5py.File(writer.files[0], "r") as file:
        assert file["entry/exit_status"][()] == b"fail"
        assert b"the beam has gone" in file["entry/reason"][()]
        assert file["entry/data/det"].shape == (1,)


def test_a_paused_scan_has_every_point_once(
    run_engine: RunEngine, writer: NeXusWriter, devices: Any
):
    paused = []

    def interrupted() -> Any:
        for message in bp.scan([devices.det], devices.motor, 0, 4, 5):
            yield message
            # After the event of the third point, before the next checkpoint.
            if message.command == "save" and len(writer_events) == 3 and not paused:
                paused.append(True)
                yield from bps.pause()

    writer_events: list[Any] = []
    run_engine.subscribe(lambda name, doc: writer_events.append(doc), "event")
    with pytest.raises((RunEngineInterrupted, FailedPause)):
        run_engine(interrupted())
    run_engine.resume()
    numbers = [doc["seq_num"] for doc in writer_events]
    assert numbers == [1, 2, 3, 3, 4, 5], "the point was not taken again"
    with h5py.File(writer.files[0], "r") as file:
        assert file["entry/data/motor"][()].tolist() == [0, 1, 2, 3, 4]
        times = file["entry/bluesky/streams/primary/time"][()]
        assert times[2] == pytest.approx(writer_events[3]["time"] - run_start(file))


def run_start(file: Any) -> float:
    return float(file["entry/bluesky/metadata/time"][()])


def test_a_writer_that_fails_ends_the_scan(run_engine: RunEngine, devices: Any, tmp_path: Path):
    writer = NeXusWriter(tmp_path / "gone")
    run_engine.subscribe(writer)
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("")
    with pytest.raises(OSError, match="cannot write the NeXus file of run"):
        run_engine(bp.count([devices.det], 3))
