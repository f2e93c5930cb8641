"""Fly scans: a motor sweeps while the hardware counts, and the points come as event pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO
from ophyd.status import DeviceStatus

from beamline.core.errors import ConnectionLostError, DetectorError, MotionError
from devices._axis import Axis
from devices._channel_access import Sample
from devices._fly_points import FlyPoints, Page, describe_number, make_page
from devices._operation import Operation, StillBusy
from devices._signals import (
    ChoiceSignal,
    FreshSignal,
    FreshSignalRO,
    VerifiedSignal,
    answers,
    get,
    read_many,
)
from devices._sweep import Sweep

__all__ = ["Flyer"]

#: Seconds that a fly scan may take beyond what it should.
_GRACE = 10.0
_HINTED = ("i0", "itrans", "ifluor", "irefer")
#: States of ExecuteStatus and ExecuteState.
_SUCCESS, _ABORT, _EXECUTING = 1, 3, 2


class _TakeOff(DeviceStatus):
    """Status of the start of a flight: ended by whatever is first, the flight or its end."""

    def __init__(self, device: Any, what: str) -> None:
        self._what = what
        self._ending = threading.Lock()
        self._over = False
        super().__init__(device, call_stop_on_failure=False)

    def end(self, error: Exception | None = None) -> None:
        with self._ending:
            if self._over:
                return
            self._over = True
        if error is None:
            self.set_finished()
        else:
            self.set_exception(error)

    def __str__(self) -> str:
        # bluesky makes the stop document's reason from this text.
        error = self.exception(timeout=0) if self.done else None
        return str(error) if error is not None else f"{self._what}, done={self.done}"

    __repr__ = __str__


class Flyer(FlyPoints):
    """Hardware-timed fly scans.

    It is a bluesky flyer: `prepare` (or ``flyer.motor.set(...)`` and so on) says what to fly,
    `kickoff` is done when the motor flies, `complete` when it is at rest again. `collect_pages`
    gives what has been taken since it was last asked, during the scan or after it; the device
    server keeps the points meanwhile, so that nothing piles up here.

    Attributes
    ----------
    motor, first, last, num_points, dwell
        The settings: PV of the motor behind the prefix, positions in the middle of the first and
        of the last point, number of points, time per point (s).
    plot_signal : str
        Data key that the default plots of the files show. May be changed.
    """

    plot_signal = "itrans"

    motor = Cpt(ChoiceSignal, "Motor", kind="config")
    first = Cpt(VerifiedSignal, "Start", kind="config", auto_monitor=True)
    last = Cpt(VerifiedSignal, "Stop", kind="config", auto_monitor=True)
    num_points = Cpt(VerifiedSignal, "NumPoints", kind="config", auto_monitor=True)
    dwell = Cpt(
        VerifiedSignal, "DwellTime", kind="config", limits=True, auto_monitor=True, units="s"
    )
    execute = Cpt(FreshSignal, "Execute", kind="omitted")
    abort = Cpt(FreshSignal, "Abort", kind="omitted")
    state = Cpt(FreshSignalRO, "ExecuteState", kind="omitted", auto_monitor=True)
    status = Cpt(FreshSignalRO, "ExecuteStatus", kind="omitted")
    message = Cpt(EpicsSignalRO, "ExecuteMessage", kind="omitted", string=True)
    current_point = Cpt(FreshSignalRO, "CurrentPoint", kind="omitted", auto_monitor=True)
    total_points = Cpt(FreshSignalRO, "TotalPoints", kind="omitted")
    scan_number = Cpt(FreshSignalRO, "ScanNumber", kind="omitted")

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        self._flight: Operation | None = None
        self._number_before = 0
        self._collected = 0
        self._flown: Sweep | None = None
        super().__init__(prefix, name=name, **kwargs)

    @property
    def hints(self) -> dict[str, Any]:
        """The counts are what a plot should show."""
        return {"fields": list(_HINTED)}

    # ---- what to fly

    def can_fly(self, motor: Any) -> bool:
        """Whether a device is an axis that the flyer can move."""
        return isinstance(motor, Axis) and any(
            motor is axis for axis in getattr(self.root, "axes", ())
        )

    @staticmethod
    def sweep(axis: Axis, start: float, stop: float, num: int, dwell: float) -> Sweep:
        """Make what `prepare` takes; the parameters are the attributes of `Sweep`."""
        return Sweep(axis, start, stop, num, dwell)

    def prepare(self, sweep: Sweep) -> DeviceStatus:
        """Set up a scan; nothing moves.

        Parameters
        ----------
        sweep
            What to fly.

        Raises
        ------
        MotorLimitError
            If the motor would leave its limits, run-up included.
        ConnectionLostError
            If a setting can't be written.
        """
        sweep.check()
        statuses = [
            self.motor.set(self._suffix(sweep.axis)),
            self.first.set(sweep.start),
            self.last.set(sweep.stop),
            self.num_points.set(sweep.num),
            self.dwell.set(sweep.dwell),
        ]
        together = statuses[0]
        for status in statuses[1:]:
            together = together & status
        return together

    def _suffix(self, axis: Axis) -> str:
        return str(axis.prefix).removeprefix(str(getattr(self.root, "prefix", "")))

    def _find_axis(self) -> Axis:
        motor = get(self.motor)
        for axis in getattr(self.root, "axes", ()):
            if self._suffix(axis) == motor:
                return axis
        raise MotionError(
            f"{self.name} cannot fly {motor}, as {self.motor.pvname} says: no axis of "
            f"{getattr(self.root, 'name', 'this device')} has that PV."
        )

    def _sweep(self) -> Sweep:
        with answers(f"{self.name} cannot fly"):
            axis = self._find_axis()
            first, last, num, dwell = read_many(
                [self.first, self.last, self.num_points, self.dwell]
            )
            return Sweep(axis, first.value, last.value, int(num.value), dwell.value)

    # ---- flying

    def kickoff(self) -> DeviceStatus:
        """Start the scan.

        Returns
        -------
        DeviceStatus
            Done when the motor flies. It fails as that of `complete` does.

        Raises
        ------
        MotorLimitError
            If the motor would leave its limits; nothing has moved.
        ConnectionLostError
            If the scan can't be started.
        """
        sweep = self._sweep()
        sweep.check()
        number, scale = read_many([self.scan_number, self.time_scale])
        self._number_before = int(number.value)
        self._collected = 0
        self._flown = sweep
        way = abs(sweep.ends[0] - sweep.axis.position)
        seconds = sweep.num * sweep.dwell + 4 * float(sweep.axis.acceleration.get())
        seconds += way / max(abs(float(sweep.axis.velocity.get())), 1e-9)
        flight = Operation(
            self,
            f"the fly scan of {sweep.axis.label} from {sweep.start:g} to {sweep.stop:g} "
            f"{sweep.axis.egu} with {sweep.num} points",
            timeout_after=seconds / min(float(scale.value), 1.0) + _GRACE,
            busy=self._is_executing,
            channels=[
                signal.channel
                for signal in (
                    self.execute,
                    self.status,
                    self.scan_number,
                    self.current_point,
                    self.total_points,
                )
            ],
            verify=self._verify,
            error=MotionError,
            on_timeout=self._put_abort,
            progress=self._progress(sweep),
        )
        self._flight = flight
        return self._take_off(flight)

    def _take_off(self, flight: Operation) -> DeviceStatus:
        status = _TakeOff(self, f"the start of {flight.what}")

        def look(value: Any, **_: Any) -> None:
            if int(value) == _EXECUTING:
                status.end()

        def ended(over: Operation) -> None:
            self.state.unsubscribe(token)
            status.end(over.exception(timeout=0))

        # Before the put: the motor may fly before this thread goes on.
        token = self.state.subscribe(look, run=False)
        flight.add_callback(ended)
        try:
            flight.begin(self.execute, 1)
        except ConnectionLostError as error:
            flight.fail(error)
            raise
        return status

    def complete(self) -> Operation:
        """Return the status of the scan that was kicked off: done when the motor is at rest.

        It fails with `MotionError` if the scan was refused, was aborted or met a fault, and with
        `ConnectionLostError` if the IOC or the device server went away; the message names the PV.

        Raises
        ------
        MotionError
            If no scan was kicked off.
        """
        if self._flight is None:
            raise MotionError(f"{self.name} cannot complete a fly scan: none was kicked off.")
        return self._flight

    @property
    def flying(self) -> bool:
        """Whether a scan of ours has not ended yet."""
        return self._flight is not None and not self._flight.done

    def stop(self, *, success: bool = False) -> None:
        """End a scan of ours that still flies; it fails unless `success`."""
        if self._flight is not None and self._flight.end_early(success=success):
            self._put_abort()

    def pause(self) -> None:
        """End the scan when a plan is paused: it cannot go on from where it was.

        The run fails when it is resumed.
        """
        self.stop()

    def unstage(self) -> list[object]:
        """End a scan that still flies."""
        self.stop()
        return super().unstage()

    def _put_abort(self) -> None:
        if self.abort.connected:
            self.abort.put(1, use_complete=False, force=True)

    def _is_executing(self, timeout: float) -> bool:
        (executing,) = read_many([self.execute], timeout)
        return bool(executing.value)

    def _verify(self, operation: Operation, read: list[Sample]) -> None:
        executing, status, number, taken, total = read
        if executing.value:
            if number.value == self._number_before:
                raise MotionError(
                    f"{operation.what} did not start: {self.execute.pvname} is flying for somebody "
                    "else."
                )
            raise StillBusy
        if status.value == _SUCCESS and number.value != self._number_before:
            if taken.value != total.value:
                raise DetectorError(
                    f"{operation.what} lost points: {self.current_point.pvname} is "
                    f"{int(taken.value)} of {int(total.value)}."
                )
            return
        if status.value == _ABORT and operation.stopped and operation.stop_is_success:
            return
        why = get(self.message) or "it did not take place"
        raise MotionError(f"{operation.what} failed ({self.status.pvname}): {why}.")

    def _progress(self, sweep: Sweep) -> Callable[..., Callable[[], None]]:
        def attach(watcher: Callable[..., None]) -> Callable[[], None]:
            def report(value: float, **_: Any) -> None:
                watcher(
                    name=self.name, current=value, initial=0, target=sweep.num, unit="points",
                    precision=0, fraction=1.0 - min(value / sweep.num, 1.0), time_elapsed=None,
                    time_remaining=None,
                )  # fmt: skip

            token = self.current_point.subscribe(report, run=False)
            return lambda: self.current_point.unsubscribe(token)

        return attach

    # ---- points

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        """Describe the data keys of the stream ``primary``.

        The position has the name of the axis, energy and counts have the names that they have in
        step scans, so that whoever reads a step scan reads a fly scan.
        """
        axis = self._flown.axis if self._flown is not None else self._find_axis()
        keys = self.describe_points(axis)
        keys["exposure"] = describe_number(self.dwell, "s")
        return {"primary": keys}

    def collect_pages(self) -> Iterator[Page]:
        """Give the points that have been taken since the last call, as partial event pages.

        The time stamps are those of the middle of each point.

        Raises
        ------
        ConnectionLostError, DetectorError
            If the points can't be read.
        """
        while page := self._next_page():
            yield page

    def _next_page(self) -> Page | None:
        number, taken = read_many([self.scan_number, self.current_point])
        if number.value == self._number_before or taken.value <= self._collected:
            return None
        block = self.read_block(int(number.value), self._collected)
        points, problem = self.examine(block, self._collected, self._flown)
        if problem is not None and not points:
            raise problem
        self._collected += points
        axis = self._flown.axis if self._flown is not None else self._find_axis()
        return make_page(block, points, axis, float(self.dwell.get()))
