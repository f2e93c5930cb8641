"""An EPICS motor that is moved by put completion and believed only after a look at its records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsMotor, EpicsSignal, EpicsSignalRO
from ophyd.device import required_for_connection
from ophyd.utils import LimitError

from beamline.core.errors import ConnectionLostError, MotionError, MotorLimitError
from devices._channel_access import Sample
from devices._component import recorded
from devices._operation import Operation
from devices._signals import FreshSignal, FreshSignalRO, answers, latest, read_fresh, read_many

__all__ = ["Axis", "AxisLimitError"]

#: Seconds that a motion may take beyond distance/velocity; that it took more is noticed within 2 s.
_GRACE = 8.0
#: Bits of MSTA.
_STALLED, _ENCODER_PRESENT, _PROBLEM = 1 << 6, 1 << 8, 1 << 9


class AxisLimitError(MotorLimitError, LimitError):
    """A position lies outside the limits of an `Axis`; this move was not started.

    It is also what ophyd raises, so that code written for ``EpicsMotor`` still catches it.
    """


class Axis(EpicsMotor):
    """One motor record.

    It is an ``EpicsMotor`` with four differences: a move ends when the record completes the put
    (fast, and nothing can be missed); limits are checked before the put; the position, LVIO, MISS
    and the alarm are read after it and anything wrong fails the move with `MotionError`; and
    neither a dead IOC nor a stuck motor makes it hang. What it gives to events is read from the
    IOC, not from a monitor.

    Parameters
    ----------
    prefix
        The motor record, for example ``BL02:SAMPLE:X``.
    name
        Its readback is the data key `name`, its setpoint ``<name>_user_setpoint``.
    tolerance
        Largest distance between target and readback (motor units) that counts as arrived; by
        default the largest of the record's RDBD, twice its MRES and one unit of its PREC.
    """

    user_readback = Cpt(FreshSignalRO, ".RBV", kind="hinted", auto_monitor=True)
    user_setpoint = Cpt(FreshSignal, ".VAL", limits=True)
    # Asked when needed: each of its changes would cost as much as a get.
    motor_is_moving = Cpt(EpicsSignalRO, ".MOVN", kind="omitted")
    motor_done_move = Cpt(FreshSignalRO, ".DMOV", kind="omitted", auto_monitor=True)
    limit_violation = Cpt(FreshSignalRO, ".LVIO", kind="omitted", auto_monitor=True)
    missed = Cpt(FreshSignalRO, ".MISS", kind="omitted", auto_monitor=True)
    status_word = Cpt(FreshSignalRO, ".MSTA", kind="omitted")
    high_switch = Cpt(FreshSignalRO, ".HLS", kind="omitted")
    low_switch = Cpt(FreshSignalRO, ".LLS", kind="omitted")
    resolution = Cpt(EpicsSignal, ".MRES", kind="omitted", auto_monitor=True)
    retry_deadband = Cpt(EpicsSignal, ".RDBD", kind="omitted", auto_monitor=True)
    highest_velocity = Cpt(EpicsSignalRO, ".VMAX", kind="omitted", auto_monitor=True)

    def __init__(
        self, prefix: str = "", *, name: str, tolerance: float | None = None, **kwargs: Any
    ) -> None:
        self._tolerance = tolerance
        self._operation: Operation | None = None
        self._moving = self._started_moving = False
        super().__init__(prefix, name=name, **kwargs)

    @property
    def label(self) -> str:
        """Name and PV, for messages."""
        return f"{self.name} ({self.prefix})"

    def __repr__(self) -> str:
        # bluesky asks for it with every message; ophyd's looks at all components.
        return f"{type(self).__name__}({self.prefix!r}, name={self.name!r})"

    @property
    def egu(self) -> str:
        """Unit of the positions (EGU)."""
        return str(latest(self.motor_egu))

    @property
    def limits(self) -> tuple[float, float]:
        """Soft limits (low, high) of the record, in motor units."""
        return float(latest(self.low_limit_travel)), float(latest(self.high_limit_travel))

    @property
    def tolerance(self) -> float:
        """Largest distance from the target that counts as arrived, in motor units."""
        if self._tolerance is not None:
            return self._tolerance
        precision = self.precision
        display = 10.0**-precision if precision is not None else 0.0
        resolution = abs(float(latest(self.resolution)))
        return max(float(latest(self.retry_deadband)), 2.0 * resolution, display)

    @required_for_connection
    @user_readback.sub_value
    def _pos_changed(self, value: float, **_: Any) -> None:
        self._set_position(value)

    @required_for_connection
    @motor_done_move.sub_value
    def _move_changed(
        self, timestamp: float | None = None, value: int | None = None, **kwargs: Any
    ) -> None:
        if self._callbacks[self._SUB_REQ_DONE]:
            # A home search, whose end EpicsMotor judges, at the price of a get.
            super()._move_changed(timestamp=timestamp, value=value, **kwargs)
            return
        was_moving, self._moving = self._moving, value != 1
        if self._moving and not self._started_moving:
            self._started_moving = True
            self._run_subs(sub_type=self.SUB_START, timestamp=timestamp, value=value)
        elif was_moving and not self._moving:
            self._run_subs(sub_type=self.SUB_DONE, timestamp=timestamp, value=value)

    def check_value(self, pos: float) -> None:
        """Check that a position is a number within the record's limits.

        Raises
        ------
        MotorLimitError
            Naming motor, position and limits.
        """
        low, high = self.limits
        if not math.isfinite(pos):
            raise AxisLimitError(f"{self.label} cannot go to {pos}: a finite number is needed.")
        if low < high and not low <= pos <= high:
            raise AxisLimitError(
                f"{self.label} cannot go to {pos:g} {self.egu}: its limits are {low:g} to "
                f"{high:g} {self.egu}; this move was not started."
            )

    def move(
        self,
        position: float,
        wait: bool = True,
        moved_cb: Callable[..., None] | None = None,
        timeout: float | None = None,
    ) -> Operation:
        """Start a move, and wait for its end if asked to.

        Parameters
        ----------
        position
            Target, in motor units.
        wait
            Block until the motor has arrived; Ctrl-C stops it.
        moved_cb
            Called with the status when the move has ended.
        timeout
            Seconds; by default distance over velocity, and ten more.

        Raises
        ------
        MotorLimitError
            If the position is outside the limits; nothing has been sent then.
        ConnectionLostError
            If the record can't be written.
        MotionError
            With `wait`, if the motor did not arrive; else through the status.
        """
        position = float(position)
        if not self.user_setpoint.channel.connected:
            raise ConnectionLostError(
                f"{self.label} cannot move: {self.user_setpoint.pvname} is not connected; "
                "is the IOC running?"
            )
        before = self._operation
        with answers(f"{self.label} cannot move"):
            self.check_value(position)
            operation = self._operation_to(position, timeout)
        if before is not None and not before.done:
            before.fail(MotionError(f"{before.what} was replaced by one to {position:g}."))
        if moved_cb is not None:
            operation.add_callback(lambda status: moved_cb(status, obj=self))
        self._operation = operation
        self._started_moving = False
        operation.begin(self.user_setpoint, position)
        if wait:
            try:
                operation.wait()
            except KeyboardInterrupt:
                self.stop()
                raise
        return operation

    def stop(self, *, success: bool = False) -> None:
        """Stop the motor; its move then ends, as a success if `success`.

        Raises
        ------
        ConnectionLostError
            If the record can't be written.
        """
        if self._operation is not None:
            self._operation.end_early(success=success)
        if not self.motor_stop.connected:
            raise ConnectionLostError(
                f"{self.label} cannot be stopped: {self.motor_stop.pvname} is not connected; "
                "is the IOC running?"
            )
        self._put_stop()
        # Ends a home search, whose status EpicsMotor keeps.
        self._done_moving(success=success)

    def read(self) -> dict[str, dict[str, Any]]:
        """Read readback and setpoint from the IOC, in one round trip."""
        return read_fresh(recorded(self))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Describe readback and setpoint, in the record's units."""
        description: dict[str, dict[str, Any]] = super().describe()
        for key in description.values():
            key["units"] = key.get("units") or self.egu
        return description

    def _operation_to(self, position: float, timeout: float | None) -> Operation:
        initial = self._position

        def expected() -> float:
            # Found out when needed: a velocity that has just been put is not told at once.
            return self._expected_duration(abs(position - initial)) + _GRACE

        return Operation(
            self,
            f"the move of {self.label} to {position:g} {self.egu}",
            timeout_after=timeout or self.timeout or expected,
            busy=self._busy,
            channels=[s.channel for s in (self.user_readback, self.limit_violation, self.missed)],
            verify=lambda operation, samples: self._verify(operation, samples, position),
            error=MotionError,
            on_timeout=self._put_stop,
            progress=self._progress_to(position),
            settle_time=self.settle_time,
        )

    def _put_stop(self) -> None:
        self.motor_stop.put(1, wait=False)

    def _expected_duration(self, distance: float) -> float:
        velocity = abs(float(latest(self.velocity)))
        if velocity == 0.0:
            return 60.0
        return distance / velocity + 2.0 * abs(latest(self.acceleration))

    def _busy(self, timeout: float) -> bool:
        (done,) = read_many([self.motor_done_move], timeout)
        return not done.value

    def _verify(self, operation: Operation, samples: list[Sample], target: float) -> None:
        readback, violation, missed = samples
        position = float(readback.value)
        self._set_position(position, timestamp=readback.timestamp)
        arrived = abs(position - target) <= self.tolerance
        where = f"it stands at {position:g} {self.egu}"
        if readback.severity > self.tolerated_alarm:
            raise MotionError(
                f"{operation.what} ended with {self.user_readback.pvname} in alarm, "
                f"{readback.alarm}: {self._trouble(bool(missed.value))}{where}."
            )
        if operation.stopped and (operation.stop_is_success or not arrived):
            if operation.stop_is_success:
                return
            raise MotionError(f"{operation.what} was stopped: {where}.")
        if violation.value:
            raise MotionError(
                f"{operation.what} was refused by its limits ({self.limit_violation.pvname} is 1): "
                f"{where}."
            )
        if missed.value or not arrived:
            raise MotionError(
                f"{operation.what} did not arrive: {where}, the tolerance is "
                f"{self.tolerance:g} {self.egu}, {self.missed.pvname} is {int(missed.value)}."
            )

    def _trouble(self, missed: bool) -> str:
        """Say what the record says is wrong, as the beginning of a sentence; empty if nothing."""
        status, high, low = read_many([self.status_word, self.high_switch, self.low_switch])
        for pressed, signal, side in (
            (high, self.high_switch, "high"), (low, self.low_switch, "low"),
        ):  # fmt: skip
            if pressed.value:
                return f"it stands on its {side} limit switch ({signal.pvname} is 1), "
        bits = int(status.value)
        astray = f"the readback is not at the target ({self.missed.pvname} is 1), " * bool(missed)
        problem = bits & _PROBLEM and not bits & _ENCODER_PRESENT
        words = "the axis has stalled" if bits & _STALLED else "its encoder is lost" * bool(problem)
        return f"{words} ({self.status_word.pvname} is {bits:#x}), " if words else astray

    def _progress_to(self, target: float) -> Callable[..., Callable[[], None]]:
        initial = self._position

        def attach(watcher: Callable[..., None]) -> Callable[[], None]:
            def report(value: float, **_: Any) -> None:
                distance = abs(initial - target)
                watcher(
                    name=self.name,
                    current=value,
                    initial=initial,
                    target=target,
                    unit=self.egu,
                    precision=self.precision,
                    fraction=min(abs(target - value) / distance, 1.0) if distance else 0.0,
                    time_elapsed=None,
                    time_remaining=None,
                )

            token = self.subscribe(report, event_type=self.SUB_READBACK)
            return lambda: self.unsubscribe(token)

        return attach
