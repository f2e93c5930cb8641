"""Step scans of motors along a line and over a mesh."""

from collections.abc import Mapping, Sequence
from typing import Any

from bluesky.protocols import NamedMovable, Readable

from beamline.plans._run import Plan, check_limits, checkpoint, guarded_run, move, take_point
from beamline.plans.arguments import (
    PlanArgumentError,
    check_common,
    check_motor,
    devices_of,
    exposure_of,
)
from beamline.plans.metadata import (
    beamline_of,
    plot_metadata,
    run_engine_metadata,
    start_metadata,
)
from beamline.plans.points import line_points, mesh_points

__all__ = ["linear_scan", "mesh_scan"]


def linear_scan(
    detectors: Sequence[Readable[Any]],
    motor: NamedMovable[float],
    start: float,
    stop: float,
    num: int,
    *,
    exposure: float | None = None,
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan one motor over equidistant positions.

    Parameters
    ----------
    detectors
        Devices to trigger and read at every point.
    motor
        What moves; it is read as well.
    start, stop
        First and last position, in the motor's unit.
    num
        Number of points, at least 1.
    exposure
        Counting or exposure time of the detectors for this scan (s); default: as they are set.
    sample
        Name of the sample, or a mapping with ``name``, ``formula``, …; default: that of the
        RunEngine's ``md``, else the sample that is in the beam.
    use_shutter
        Open the shutter for the scan.
    baseline
        Devices to read before and after; default: those of the beamline.
    md
        Further metadata for the start document.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    PlanArgumentError
        For wrong arguments, which are named; nothing has happened.
    MotorLimitError
        If any point is outside the motor's limits; nothing has moved.

    Examples
    --------
    >>> RE(linear_scan([bl.counters], bl.sample.x, -1000, 1000, 41))
    """
    detectors = devices_of("detectors", detectors)
    check_motor("motor", motor)
    points = line_points(start, stop, num)
    check_common(sample, md, baseline)
    settings = exposure_of(detectors, exposure)
    check_limits([(motor, points)])
    beamline = beamline_of(motor, *detectors)
    known = yield from run_engine_metadata()
    metadata = start_metadata(
        known,
        plan_name="linear_scan",
        plan_args={
            "detectors": [device.name for device in detectors],
            "motor": motor.name,
            "start": float(start),
            "stop": float(stop),
            "num": int(num),
            "exposure": exposure,
        },
        detectors=detectors,
        motors=[motor],
        beamline=beamline,
        sample=sample,
    )
    metadata |= {
        "num_points": points.size,
        "num_intervals": points.size - 1,
        "plan_pattern": "linspace",
        "hints": {"dimensions": [([motor.name], "primary")]},
        **(md or {}),
        **plot_metadata(known, md, detectors),
    }

    def body() -> Plan:
        for position in points.tolist():
            yield from checkpoint()
            yield from move(motor, position)
            yield from take_point(detectors, [motor])

    return (
        yield from guarded_run(
            body,
            metadata,
            detectors=detectors,
            motors=[motor],
            beamline=beamline,
            use_shutter=use_shutter,
            baseline=baseline,
            settings=settings,
        )
    )


def mesh_scan(
    detectors: Sequence[Readable[Any]],
    slow_motor: NamedMovable[float],
    slow_start: float,
    slow_stop: float,
    slow_num: int,
    fast_motor: NamedMovable[float],
    fast_start: float,
    fast_stop: float,
    fast_num: int,
    *,
    snake: bool = True,
    exposure: float | None = None,
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan two motors over a rectangular grid.

    Parameters
    ----------
    detectors
        Devices to trigger and read at every point.
    slow_motor, slow_start, slow_stop, slow_num
        Motor that moves from row to row, its first and last position, and the number of rows.
    fast_motor, fast_start, fast_stop, fast_num
        The same for the motor that moves along each row.
    snake
        Walk every second row backwards.
    exposure, sample, use_shutter, baseline, md
        As for `linear_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    PlanArgumentError
        For wrong arguments, which are named; nothing has happened.
    MotorLimitError
        If any point is outside the limits of its motor; nothing has moved.

    Examples
    --------
    >>> RE(mesh_scan([bl.counters], bl.sample.y, -500, 500, 11, bl.sample.x, -500, 500, 11))
    """
    detectors = devices_of("detectors", detectors)
    check_motor("slow_motor", slow_motor)
    check_motor("fast_motor", fast_motor)
    slow = line_points(slow_start, slow_stop, slow_num, prefix="slow_")
    fast = line_points(fast_start, fast_stop, fast_num, prefix="fast_")
    if slow_motor is fast_motor:
        raise PlanArgumentError(
            "slow_motor and fast_motor must differ, a mesh needs two motors, found "
            f"{slow_motor.name} twice."
        )
    if not isinstance(snake, bool):
        raise PlanArgumentError(f"snake must be True or False, found {snake!r}.")
    check_common(sample, md, baseline)
    points = mesh_points(slow, fast, snake=snake)
    settings = exposure_of(detectors, exposure)
    check_limits([(slow_motor, points[:, 0]), (fast_motor, points[:, 1])])
    motors = [slow_motor, fast_motor]
    beamline = beamline_of(*motors, *detectors)
    known = yield from run_engine_metadata()
    metadata = start_metadata(
        known,
        plan_name="mesh_scan",
        plan_args={
            "detectors": [device.name for device in detectors],
            "slow_motor": slow_motor.name,
            "slow_start": float(slow_start),
            "slow_stop": float(slow_stop),
            "slow_num": int(slow_num),
            "fast_motor": fast_motor.name,
            "fast_start": float(fast_start),
            "fast_stop": float(fast_stop),
            "fast_num": int(fast_num),
            "snake": bool(snake),
            "exposure": exposure,
        },
        detectors=detectors,
        motors=motors,
        beamline=beamline,
        sample=sample,
    )
    metadata |= {
        "num_points": len(points),
        "num_intervals": len(points) - 1,
        "plan_pattern": "outer_product",
        "shape": [slow.size, fast.size],
        "extents": [[float(slow_start), float(slow_stop)], [float(fast_start), float(fast_stop)]],
        "snaking": [False, bool(snake)],
        "hints": {
            "gridding": "rectilinear",
            "dimensions": [([motor.name], "primary") for motor in motors],
        },
        **(md or {}),
        **plot_metadata(known, md, detectors),
    }

    def body() -> Plan:
        row: float | None = None
        for y, x in points.tolist():
            yield from checkpoint()
            # The slow motor moves at the end of a row only.
            yield from move(*((slow_motor, y) if y != row else ()), fast_motor, x)
            row = y
            yield from take_point(detectors, motors)

    return (
        yield from guarded_run(
            body,
            metadata,
            detectors=detectors,
            motors=motors,
            beamline=beamline,
            use_shutter=use_shutter,
            baseline=baseline,
            settings=settings,
        )
    )
