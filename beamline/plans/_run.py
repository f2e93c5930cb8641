"""What all plans share: limits first, baseline, shutter, and a safe beamline at the end."""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import numpy.typing as npt
from bluesky.utils import (
    FailedPause,
    FailedStatus,
    Msg,
    RequestStop,
    RunEngineControlException,
    separate_devices,
)

from beamline.core.errors import BeamlineError, MotorLimitError
from beamline.documents.validation import quick_validation
from beamline.plans._beam import closing, tripped, watching_beam
from beamline.plans.metadata import name_of, running_engine
from devices import Beamline

__all__ = [
    "Plan",
    "QuietStop",
    "attempt",
    "check_limits",
    "checkpoint",
    "guarded_run",
    "move",
    "safe_state",
    "take_point",
]

Plan = Generator[Msg, Any, Any]
_log = logging.getLogger(__name__)


def check_limits(motors_and_positions: Iterable[tuple[Any, npt.NDArray[np.float64]]]) -> None:
    """Check every position of a scan against the limits of its motor.

    Raises
    ------
    MotorLimitError
        One error that names every motor that would leave its limits, the first position that does,
        the limits and how many points lie outside. Nothing has moved.
    """
    problems = []
    for motor, positions in motors_and_positions:
        low, high = getattr(motor, "limits", None) or (0.0, 0.0)
        # EPICS convention: equal limits are no limits.
        bounded = low is not None and high is not None and low < high
        if not bounded:
            low, high = -math.inf, math.inf
        outside = ~((positions >= low) & (positions <= high) & np.isfinite(positions))
        if not outside.any():
            continue
        unit = f" {motor.egu}" if getattr(motor, "egu", "") else ""
        problems.append(
            f"{name_of(motor)} cannot go to {positions[outside][0]:.10g}{unit}: its limits are "
            f"{low:.10g} to {high:.10g}{unit}, {int(outside.sum())} of {positions.size} points "
            "lie outside"
        )
    if problems:
        raise MotorLimitError("; ".join(problems) + "; nothing has moved.")


def checkpoint() -> Plan:
    """Mark a point to which the plan may be rewound.

    Messages of every point are made without bluesky's stubs: each of those formats the whole stack
    for a warning that is hardly ever given, which takes as long as reading a device.
    """
    yield Msg("checkpoint")


def move(*motors_and_positions: Any) -> Plan:
    """Move several devices together and wait: ``mv`` without its bookkeeping."""
    group = object()
    pairs = iter(motors_and_positions)
    for device in pairs:
        yield Msg("set", device, next(pairs), group=group)
    yield Msg("wait", None, group=group)


def take_point(detectors: Sequence[Any], motors: Sequence[Any] = ()) -> Plan:
    """Trigger the detectors and read everything into one event of the stream ``primary``.

    ``trigger_and_read`` would trigger the motors as well, which costs a status for each.
    """
    group = object()
    for device in detectors:
        if hasattr(device, "trigger"):
            yield Msg("trigger", device, group=group)
    yield Msg("wait", None, group=group)
    yield Msg("create", None, name="primary")
    try:
        for device in separate_devices([*detectors, *motors]):
            yield Msg("read", device)
    except Exception:
        yield Msg("drop")
        raise
    yield Msg("save")


def guarded_run(
    body: Callable[[], Plan],
    metadata: Mapping[str, Any],
    *,
    detectors: Sequence[Any],
    motors: Sequence[Any],
    beamline: Any | None,
    use_shutter: bool,
    baseline: Sequence[Any] | None,
    settings: Sequence[tuple[Any, float | str]] = (),
    changes: Sequence[Any] = (),
) -> Plan:
    """Run the body of a plan: open shutter, start document, baseline, body, baseline, stop.

    Whatever happens, the shutter is closed and the settings are restored; on an error and on abort
    motors and detectors are stopped first. The one exception is ``RE.halt()``, which allows no
    clean-up: ``bl.make_safe()`` does it then.

    Parameters
    ----------
    body
        Makes the plan that takes the points.
    metadata
        For the start document.
    detectors, motors
        Staged for the run; stopped on an error.
    beamline
        Has the shutter and the baseline devices; None if the devices belong to no beamline.
    use_shutter
        Open the shutter for the run. The run needs beam then: it fails when the ring has none
        or somebody closes the shutter, unless a suspender waits for it; the point is taken again
        then.
    baseline
        Read before and after, unless the RunEngine does so itself; by default the beamline's.
    settings
        Signals and the values that they get for the run.
    changes
        Further signals that the body sets; they are restored as well.

    Returns
    -------
    str
        Uid of the run.
    """
    shutter = getattr(beamline, "shutter", None) if use_shutter else None
    if baseline is None:
        baseline = getattr(beamline, "baseline", ())
    read_before_and_after = list(baseline)
    touched = list(dict.fromkeys([*(signal for signal, _ in settings), *changes]))
    before = [(signal, _setpoint(signal)) for signal in touched]
    baseline_seen: list[str] = []
    made_safe: list[bool] = []

    def measure() -> Plan:
        run_engine = yield from running_engine()
        for signal, value in settings:
            yield from bps.abs_set(signal, value, group="settings")
        yield from bps.wait("settings")
        if shutter is not None:
            yield from bps.abs_set(shutter, "Open", wait=True)
        token = yield Msg("subscribe", None, note_baseline, "descriptor")
        uid = yield from bps.open_run(dict(metadata))
        # The stop document comes last: the frames are complete by then, the shutter is closed.
        try:
            yield from bpp.contingency_wrapper(
                bpp.contingency_wrapper(take_points(), except_plan=make_safe, else_plan=close),
                except_plan=partial(close_failed_run, run_engine),
                else_plan=bps.close_run,
            )
        except GeneratorExit:
            # A plan that is halted can't send messages: the RunEngine closes the run.
            if run_engine is not None and run_engine.state == "halting":
                run_engine._reason = _reason(run_engine, "halt")  # noqa: SLF001
            raise
        if token is not None:
            yield Msg("unsubscribe", None, token=token)
        return uid

    def close_failed_run(run_engine: Any, error: Exception) -> Plan:
        if isinstance(error, RequestStop):
            yield from bps.close_run("success", _reason(run_engine, "stop"))
        elif isinstance(error, FailedPause):
            why = "; ".join(tripped(run_engine))
            reason = "it was paused where it could not have gone on"
            yield from bps.close_run("abort", f"{reason}: {why}" if why else reason)
        elif isinstance(error, RunEngineControlException):
            yield from bps.close_run("abort", _reason(run_engine, "abort"))
        else:
            yield from bps.close_run("fail", str(error))

    def note_baseline(name: str, doc: Mapping[str, Any]) -> None:  # noqa: ARG001
        if doc.get("name") == "baseline":
            baseline_seen.append(doc["uid"])

    def take_points() -> Plan:
        # A RunEngine with SupplementalData has read its baseline right after the start document.
        ours = read_before_and_after if not baseline_seen else []
        yield from read_baseline(ours)
        yield from bps.stage_all(*detectors)
        yield from watching_beam(body(), shutter)
        yield from bps.unstage_all(*detectors)
        yield from read_baseline(ours)

    def read_baseline(devices: list[Any]) -> Plan:
        if devices:
            yield from bps.trigger_and_read(devices, name="baseline")

    def close() -> Plan:
        if shutter is not None:
            yield from closing(shutter, bps.abs_set(shutter, "Close", wait=True))

    def make_safe(error: Exception) -> Plan:  # noqa: ARG001
        if not made_safe:
            made_safe.append(True)
            problems = yield from _make_safe([*motors, *detectors], shutter, detectors)
            for problem in problems:
                _log.error("after a failure: %s", problem)

    def restore() -> Plan:
        for signal, value in before:
            problem = yield from attempt(_set_and_wait(signal, value))
            if problem is not None:
                _log.error("%s was not set back to %s: %s", signal.name, value, problem)

    with quick_validation():
        return (
            yield from bpp.contingency_wrapper(measure(), except_plan=make_safe, final_plan=restore)
        )


def _reason(run_engine: Any, request: str) -> str:
    """Return what the user gave as the reason of an abort, or else what was asked for."""
    # The RunEngine keeps the argument of RE.abort(reason) and has no public name for it.
    given = getattr(run_engine, "_reason", "")
    return str(given or f"the user asked the RunEngine to {request}")


def safe_state(beamline: Beamline) -> Plan:
    """Stop all motors and detectors and close the shutter.

    After ``RE.halt()`` the beamline is left as it stands, with the shutter open: bluesky lets no
    plan clean up then. This plan, or ``bl.make_safe()`` without a RunEngine, makes up for it.

    Parameters
    ----------
    beamline
        The `devices.Beamline`.

    Raises
    ------
    BeamlineError
        Naming what could not be stopped or closed; everything else has been.
    """
    detectors = [beamline.counters, beamline.area_detector, beamline.flyer]
    problems = yield from _make_safe([*beamline.axes, *detectors], beamline.shutter, ())
    if problems:
        raise BeamlineError("the beamline is not safe: " + "; ".join(problems))


class QuietStop:
    """A device whose stop is no failure of what it was doing: the failure is known already."""

    parent = None

    def __init__(self, device: Any) -> None:
        self.name = device.name
        self._device = device

    def stop(self, success: bool = True) -> None:  # noqa: ARG002
        self._device.stop(success=True)


def _make_safe(
    moving: Sequence[Any], shutter: Any | None, staged: Sequence[Any]
) -> Generator[Msg, Any, list[str]]:
    """Stop, close and unstage whatever can be; return what could not."""
    problems = []
    for device in moving:
        if hasattr(device, "stop"):
            problem = yield from attempt(_message("stop", QuietStop(device)))
            if problem is not None:
                problems.append(f"{name_of(device)} was not stopped ({problem})")
    if shutter is not None:
        problem = yield from attempt(_close(shutter))
        if problem is not None:
            problems.append(f"{name_of(shutter)} was not closed ({problem})")
    for device in staged:
        problem = yield from attempt(_message("unstage", device))
        if problem is not None:
            problems.append(f"{name_of(device)} was not unstaged ({problem})")
    return problems


def _message(command: str, device: Any) -> Callable[[list[Any]], Plan]:
    def plan(statuses: list[Any]) -> Plan:  # noqa: ARG001
        yield Msg(command, device)

    return plan


def _set_and_wait(device: Any, value: Any) -> Callable[[list[Any]], Plan]:
    def plan(statuses: list[Any]) -> Plan:
        group = f"cleanup-{id(statuses)}"
        statuses.append((yield from bps.abs_set(device, value, group=group)))
        yield from bps.wait(group)

    return plan


def _close(shutter: Any) -> Callable[[list[Any]], Plan]:
    def plan(statuses: list[Any]) -> Plan:
        yield from closing(shutter, _set_and_wait(shutter, "Close")(statuses))

    return plan


def attempt(make_plan: Callable[[list[Any]], Plan]) -> Generator[Msg, Any, Exception | None]:
    """Try a step of the clean-up; return its error instead of raising it.

    While one clean-up runs, statuses of other devices may still fail, and the RunEngine throws that
    into whatever message is next: such a step is tried again.
    """
    error: Exception | None = None
    for _ in range(5):
        statuses: list[Any] = []
        try:
            yield from make_plan(statuses)
        except FailedStatus as failed:
            error = failed
            if failed.args and failed.args[0] in statuses:
                return error
        except RunEngineControlException:
            raise
        except Exception as failed:  # noqa: BLE001  (the other steps must be done as well)
            return failed
        else:
            return None
    return error


def _setpoint(signal: Any) -> float | str:
    # A monitor may still be on its way, and restoring an older value would be a change.
    if hasattr(signal, "get_setpoint"):
        value = signal.get_setpoint(use_monitor=False)
    else:
        value = signal.get()
    return value if isinstance(value, str) else float(value)
