"""A run that needs beam fails without it, unless a suspender waits for the beam."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from typing import Any, NamedTuple

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from beamline.core.errors import BeamlineError, BeamLostError, ConnectionLostError
from beamline.plans.metadata import running_engine

__all__ = ["closing", "tripped", "watching_beam"]

#: EPICS ``MAJOR_ALARM`` and ``INVALID_ALARM``.
_MAJOR, _INVALID = 2, 3
#: Messages with which a plan makes an event of what it has measured.
_RECORDING = frozenset({"create", "save", "collect"})
#: Seconds without beam after which a suspender on it should have tripped.
_PATIENCE = 10.0
#: Seconds that a monitor may lag behind the record.
_LAG = 2.0
_LOOK = 0.02


class _Problem(NamedTuple):
    """Why there is no beam, and the signal that tells it; None where waiting does not help."""

    signal: Any | None
    error: BeamlineError


def watching_beam(plan: Generator[Msg, Any, Any], shutter: Any | None) -> Generator[Msg, Any, Any]:
    """Run a plan; when there is no beam, raise in it before the next event.

    There is none when the ring is in a major alarm or the shutter, which the run has opened, is
    closed. If a suspender watches the one that it is, the plan is suspended instead, and the point
    taken again from its checkpoint. Both are known by monitors, so looking costs nothing.

    Parameters
    ----------
    plan
        Takes the points.
    shutter
        The shutter that lets the beam in; its beamline has the ring. Without one nothing is
        watched.

    Raises
    ------
    BeamLostError
        Naming the PV of the ring current, its value and its alarm, or that of the shutter.
    ConnectionLostError
        If the alarm of the ring current says that the device server is gone.
    """
    if shutter is None:
        return (yield from plan)
    run_engine = yield from running_engine()
    answer: Any = None
    failure: Exception | None = None
    lost = False
    while True:
        try:
            message = plan.send(answer) if failure is None else plan.throw(failure)
        except StopIteration as end:
            return end.value
        answer = failure = None
        try:
            # Once: what the plan still keeps after that belongs to a failed run.
            if message.command in _RECORDING and not lost:
                error = yield from _assure_beam(shutter, run_engine, message.command)
                if error is not None:
                    lost = True
                    if message.command == "save":
                        yield Msg("drop", run=message.run)
                    raise error
            answer = yield message
        except GeneratorExit:
            plan.close()
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, the plan must see it)
            failure = error


def _assure_beam(
    shutter: Any, run_engine: Any, command: str
) -> Generator[Msg, Any, BeamlineError | None]:
    """Wait for the beam where a suspender does; return what is wrong where nobody waits."""
    while (problem := _problem(shutter)) is not None:
        # A sweep can't be taken again, nor can a plan that may not be rewound.
        again = command != "collect" and run_engine is not None
        if not (again and run_engine.resumable and run_engine.rewindable):
            return problem.error
        watchers = _watchers(run_engine, problem.signal)
        if not watchers:
            return problem.error
        waited = yield from _suspended(shutter, run_engine, problem, watchers)
        if not waited:
            return BeamLostError(f"{problem.error} No suspender has tripped for {_PATIENCE:g} s.")
    return None


def _suspended(
    shutter: Any, run_engine: Any, problem: _Problem, watchers: list[Any]
) -> Generator[Msg, Any, bool]:
    """Suspend the plan until the beam is back; the RunEngine rewinds it to its checkpoint then.

    The suspender alone won't do: it may trip only after the event, or not at all when the beam
    comes back first.
    """
    outcome: list[bool] = []

    async def back() -> None:
        given_up = time.monotonic() + _PATIENCE
        # The pause closes the shutter as well: only what was wrong first counts.
        while _is_wrong(shutter, problem.signal):
            if any(watcher.tripped for watcher in watchers):
                given_up = time.monotonic() + _PATIENCE
            if time.monotonic() > given_up:
                outcome.append(False)
                return
            await asyncio.sleep(_LOOK)
        outcome.append(True)

    run_engine.request_suspend(back, justification=str(problem.error))
    while not outcome:
        yield from bps.sleep(_LOOK)
    return outcome[0]


def _current(shutter: Any) -> Any:
    return getattr(getattr(getattr(shutter, "parent", None), "ring", None), "current", None)


def _is_wrong(shutter: Any, signal: Any) -> bool:
    if signal is not None and signal is _current(shutter):
        return signal.alarm_severity is not None and signal.alarm_severity >= _MAJOR
    return bool(shutter.found_closed)


def _problem(shutter: Any) -> _Problem | None:
    current = _current(shutter)
    if current is not None and _is_wrong(shutter, current):
        alarm = f"({current.alarm_status.name}, {current.alarm_severity.name})"
        if current.alarm_severity >= _INVALID and current.alarm_status.name == "COMM":
            return _Problem(
                None,
                ConnectionLostError(
                    f"whether there is beam is unknown: {current.pvname} is in alarm {alarm}, the "
                    "IOC has lost its link to the device server; is the device server running?"
                ),
            )
        advice = "install a suspender on it to wait for the beam instead."
        return _Problem(
            current,
            BeamLostError(
                f"the run has no beam: {current.pvname} is {current.value:g} mA, in alarm {alarm}; "
                f"{advice}"
            ),
        )
    try:
        closed = getattr(shutter, "found_closed", False)
    except BeamlineError as error:
        return _Problem(None, error)
    if closed:
        return _Problem(
            shutter.status,
            BeamLostError(
                f"the run has no beam: {shutter.status.pvname} is closed, and the run had opened "
                "it; find out who closed it, or install a suspender on it to wait instead."
            ),
        )
    return None


def _watchers(run_engine: Any, signal: Any | None) -> list[Any]:
    """Return the suspenders of the RunEngine that look at a signal."""
    if signal is None:
        return []
    # The signal of a suspender has no public name.
    return [
        suspender
        for suspender in getattr(run_engine, "suspenders", ())
        if getattr(getattr(suspender, "_sig", None), "pvname", None) == signal.pvname
    ]


def tripped(run_engine: Any) -> list[str]:
    """Return what the tripped suspenders of the RunEngine give as their reason."""
    suspenders = getattr(run_engine, "suspenders", ())
    # `get_futures` gives it as well, and makes an event that somebody should wait for.
    return [suspender._get_justification() for suspender in suspenders if suspender.tripped]  # noqa: SLF001


def closing(shutter: Any, close: Generator[Msg, Any, Any]) -> Generator[Msg, Any, Any]:
    """Close the shutter by a plan, which must not be suspended because the shutter is closed.

    Suspenders on the shutter don't see it; they are armed again for the next time that somebody
    closes it.
    """
    run_engine = yield from running_engine()
    status: Any = getattr(shutter, "status", None)
    suspenders = _watchers(run_engine, status) if hasattr(status, "pvname") else []
    if not suspenders:
        return (yield from close)
    seen = threading.Event()

    def see(value: Any = None, **_: Any) -> None:
        if not value:
            seen.set()

    for suspender in suspenders:
        suspender.remove()
    try:
        result = yield from close
        # Its monitor comes after the command has completed.
        status.subscribe(see, run=True)
        late = time.monotonic() + _LAG
        while not seen.is_set() and time.monotonic() < late:
            yield from bps.sleep(_LOOK)
    finally:
        status.clear_sub(see)
        for suspender in suspenders:
            # `install` would trip it at once, by what the shutter is now.
            suspender.RE = run_engine
            suspender._sig.subscribe(suspender, run=False)  # noqa: SLF001
    return result
