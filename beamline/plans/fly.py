"""Fly scans: the motor sweeps, the hardware counts, events come in pages while it flies."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, NamedMovable, Readable
from bluesky.utils import Msg

from beamline.plans._run import Plan, QuietStop, attempt, guarded_run
from beamline.plans.arguments import PlanArgumentError, as_number, check_common, check_motor
from beamline.plans.metadata import (
    beamline_of,
    plot_metadata,
    run_engine_metadata,
    start_metadata,
)
from beamline.plans.points import number_of_points
from beamline.plans.xafs import absorption_edge
from devices import Beamline

__all__ = ["fly_scan", "fly_xafs"]

_log = logging.getLogger(__name__)

#: Seconds between two collections of points during a scan.
_FLUSH_PERIOD = 0.5
#: Seconds that a stopped motor may take to come to rest, and how often to look.
_LANDING_TIME, _LANDING_LOOKS = 5.0, 100


def fly_scan(
    motor: NamedMovable[float],
    start: float,
    stop: float,
    num: int,
    *,
    dwell: float = 0.01,
    flyer: Flyable | None = None,
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Count while one motor moves at constant speed.

    The counts of a point are those of its whole dwell time; the points follow each other without
    gaps. Positions, energies and counts have the data keys of a step scan.

    Parameters
    ----------
    motor
        What moves.
    start, stop
        Position in the middle of the first and of the last point, in the motor's unit.
    num
        Number of points, 2 to 1,000,000.
    dwell
        Time per point (s), 1e-5 to 1000.
    flyer
        The `devices.Flyer`; by default that of the beamline that the motor is part of.
    sample, use_shutter, baseline, md
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
        If the motor would leave its limits, run-up included, or go faster than it can; nothing has
        happened.

    Notes
    -----
    A pause that can wait (Ctrl-C once) takes effect after the scan; one that can't ends it, because
    a sweep can't go on from its middle.

    Examples
    --------
    >>> RE(fly_scan(bl.sample.x, -500, 500, 1001, dwell=0.002))
    """
    check_motor("motor", motor)
    check_common(sample, md, baseline)
    flyer = _flyer_of(motor, flyer)
    sweep = _sweep(motor, start, stop, num, dwell, flyer)
    known = yield from run_engine_metadata()
    metadata = start_metadata(
        known,
        plan_name="fly_scan",
        plan_args={"motor": motor.name, **_arguments(sweep)},
        detectors=[flyer],
        motors=[motor],
        beamline=beamline_of(motor, flyer),
        sample=sample,
    )
    metadata |= {
        **_dimensions(sweep),
        **(md or {}),
        **plot_metadata(known, md, [flyer]),
    }
    return (yield from _flight(flyer, sweep, metadata, use_shutter, baseline))


def fly_xafs(
    beamline: Beamline,
    element: str | None = None,
    edge: str | None = None,
    *,
    e0: float | None = None,
    start: float = -200.0,
    stop: float = 800.0,
    num: int = 2001,
    dwell: float = 0.005,
    mode: Literal["transmission", "fluorescence"] = "transmission",
    sample: str | Mapping[str, Any] | None = None,
    use_shutter: bool = True,
    baseline: Sequence[Readable[Any]] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Measure the absorption of the sample in one sweep over an edge (quick XAFS).

    The monochromator turns at constant angular speed, so the points are equidistant in Bragg
    angle; the energy of each is the mean over its dwell time.

    Parameters
    ----------
    beamline
        The `devices.Beamline`: its ``mono.energy`` moves, its ``flyer`` counts.
    element, edge, e0, mode
        As for `xafs_scan`.
    start, stop
        Energy in the middle of the first and of the last point (eV), relative to `e0`.
    num
        Number of points.
    dwell
        Time per point (s).
    sample, use_shutter, baseline, md
        As for `linear_scan`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    PlanArgumentError
        For an unknown element or edge, or wrong arguments, which are named.
    MotorLimitError
        If the monochromator would leave its limits, run-up included, or go faster than it can;
        nothing has happened.

    Examples
    --------
    >>> RE(fly_xafs(bl, "Cu"))
    >>> RE(fly_xafs(bl, "Fe", start=-100, stop=400, num=5001, dwell=0.001))
    """
    motor = getattr(getattr(beamline, "mono", None), "energy", None)
    if motor is None or not hasattr(beamline, "flyer"):
        raise PlanArgumentError(
            "beamline must be the whole beamline, with mono.energy and flyer, found "
            f"{getattr(beamline, 'name', repr(beamline))}."
        )
    check_common(sample, md, baseline)
    if mode not in ("transmission", "fluorescence"):
        raise PlanArgumentError(f'mode must be "transmission" or "fluorescence", found {mode!r}.')
    element, edge, e0 = absorption_edge(element, edge, e0, getattr(motor, "limits", None))
    first, last = e0 + as_number("start", start), e0 + as_number("stop", stop)
    flyer = _flyer_of(motor, beamline.flyer)
    sweep = _sweep(motor, first, last, num, dwell, flyer)
    known = yield from run_engine_metadata()
    metadata = start_metadata(
        known,
        plan_name="fly_xafs",
        plan_args={
            "element": element,
            "edge": edge,
            "e0": e0,
            **_arguments(sweep),
            "start": float(start),
            "stop": float(stop),
            "mode": mode,
        },
        detectors=[flyer],
        motors=[motor],
        beamline=beamline_of(beamline),
        sample=sample,
    )
    metadata |= {
        **({"element": element, "edge": edge} if element is not None else {}),
        "e0": e0,
        "mode": mode,
        **_dimensions(sweep),
        **(md or {}),
    }
    return (yield from _flight(flyer, sweep, metadata, use_shutter, baseline))


def _flyer_of(motor: Any, flyer: Any | None) -> Any:
    found = flyer if flyer is not None else getattr(beamline_of(motor), "flyer", None)
    if found is None or not hasattr(found, "kickoff"):
        raise PlanArgumentError(
            f"a fly scan of {getattr(motor, 'name', motor)} needs a flyer: take a motor of the "
            "beamline, such as bl.sample.x, or give flyer=bl.flyer."
        )
    return found


def _sweep(motor: Any, start: float, stop: float, num: int, dwell: float, flyer: Any) -> Any:
    if not flyer.can_fly(motor):
        raise PlanArgumentError(
            f"motor must be an axis of the beamline, such as bl.sample.x, found {motor.name}: "
            f"{flyer.name} can fly no other."
        )
    number = number_of_points("num", num)
    first, last = as_number("start", start), as_number("stop", stop)
    seconds = as_number("dwell", dwell)
    low, high = flyer.dwell.limits
    if number < 2:
        raise PlanArgumentError(f"num must be at least 2 for a fly scan, found {num!r}.")
    if first == last:
        raise PlanArgumentError(f"start and stop must differ for a fly scan, both are {first:g}.")
    if not low <= seconds <= high:
        raise PlanArgumentError(
            f"dwell must be {low:g} to {high:g} s for {flyer.name} "
            f"({flyer.dwell.setpoint_pvname}), found {dwell!r}."
        )
    sweep = flyer.sweep(motor, first, last, number, seconds)
    sweep.check()
    return sweep


def _arguments(sweep: Any) -> dict[str, Any]:
    return {"start": sweep.start, "stop": sweep.stop, "num": sweep.num, "dwell": sweep.dwell}


def _dimensions(sweep: Any) -> dict[str, Any]:
    return {
        "num_points": sweep.num,
        "num_intervals": sweep.num - 1,
        "hints": {"dimensions": [([sweep.axis.name], "primary")]},
    }


def _flight(
    flyer: Any,
    sweep: Any,
    metadata: Mapping[str, Any],
    use_shutter: bool,
    baseline: Sequence[Any] | None,
) -> Plan:
    beamline = beamline_of(sweep.axis, flyer)

    def body() -> Plan:
        yield from bps.prepare(flyer, sweep, wait=True)
        # From here on there is no way back: a pause that can't wait ends the run.
        yield from bps.clear_checkpoint()
        yield from bpp.contingency_wrapper(_fly(flyer), except_plan=keep_the_rest)
        yield from bps.checkpoint()

    def keep_the_rest(error: Exception) -> Plan:  # noqa: ARG001
        """Collect what was taken before a failure or an abort."""
        for step in (_end, _collect):
            problem = yield from attempt(lambda _, step=step: step(flyer))  # type: ignore[misc]
            if problem is not None:
                _log.error("after a failure, points may be missing: %s", problem)
                return

    return (
        yield from guarded_run(
            body,
            metadata,
            detectors=[flyer],
            motors=[sweep.axis],
            beamline=beamline,
            use_shutter=use_shutter,
            baseline=baseline,
        )
    )


def _fly(flyer: Any) -> Plan:
    group = f"flight-{id(flyer)}"
    yield from bps.kickoff(flyer, wait=True)
    yield from bps.complete(flyer, group=group, wait=False)
    done = False
    while not done:
        done = yield from bps.wait(group, timeout=_FLUSH_PERIOD, error_on_timeout=False)
        yield from _collect(flyer)


def _collect(flyer: Any) -> Plan:
    yield from bps.collect(flyer, return_payload=False)


def _end(flyer: Any) -> Plan:
    """Stop the flyer and wait until the motor is at rest: all points are known then."""
    yield Msg("stop", QuietStop(flyer))
    for _ in range(_LANDING_LOOKS):
        if not flyer.flying:
            return
        yield from bps.sleep(_LANDING_TIME / _LANDING_LOOKS)
