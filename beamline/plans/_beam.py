"""A run that needs beam fails when the ring has none, unless a suspender waits for the beam."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from bluesky.utils import Msg

from beamline.core.errors import BeamLostError
from beamline.plans.metadata import running_engine

__all__ = ["watching_beam"]

#: EPICS ``MAJOR_ALARM``.
_MAJOR = 2
#: Messages with which a plan makes an event of what it has measured.
_RECORDING = frozenset({"create", "collect"})


def watching_beam(plan: Generator[Msg, Any, Any], shutter: Any | None) -> Generator[Msg, Any, Any]:
    """Run a plan; when the ring is in a major alarm, raise in it before the next event.

    The record's alarm comes by a monitor, so looking at it costs nothing.

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
        Naming the PV of the ring current, its value and its alarm.
    """
    current = getattr(getattr(getattr(shutter, "parent", None), "ring", None), "current", None)
    if current is None:
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
                _check(current, run_engine)
            answer = yield message
        except GeneratorExit:
            plan.close()
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, the plan must see it)
            lost = lost or isinstance(error, BeamLostError)
            failure = error


def _check(current: Any, run_engine: Any) -> None:
    if current.alarm_severity is None or current.alarm_severity < _MAJOR:
        return
    if _is_waited_for(current, run_engine):
        return
    raise BeamLostError(
        f"the run has no beam: {current.pvname} is {current.value:g} mA, in alarm "
        f"({current.alarm_status.name}, {current.alarm_severity.name}); install a suspender on it "
        "to wait for the beam instead."
    )


def _is_waited_for(current: Any, run_engine: Any) -> bool:
    """Whether a suspender of the RunEngine looks at the ring current."""
    suspenders = getattr(run_engine, "suspenders", ())
    # The signal of a suspender has no public name.
    signals = [getattr(suspender, "_sig", None) for suspender in suspenders]
    return any(getattr(signal, "pvname", None) == current.pvname for signal in signals)
