"""Fly scans: a motor sweeps while the hardware counts, and the points come as event pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO
from ophyd.status import DeviceStatus

from beamline.core.errors import ConnectionLostError, DetectorError, MotionError
from beamline.core.pvs import FLYER_ARRAYS
from devices._axis import Axis
from devices._channel_access import ECA_NORMAL, Sample, put
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
#: Seconds that the IOC may take to bring a block of points.
_BLOCK_TIMEOUT = 5.0
#: Waveform of the IOC → data key; position and time are named otherwise.
_KEYS = {
    "Energy": "mono_energy",
    "I0": "i0",
    "IT": "itrans",
    "IF": "ifluor",
    "IR": "irefer",
    "XRD": "idiffr",
}
_HINTED = ("i0", "itrans", "ifluor", "irefer")
#: States of ExecuteStatus and ExecuteState.
_SUCCESS, _ABORT, _EXECUTING = 1, 3, 2

#: A partial event page: ``data`` and ``timestamps``, each data key → one value per event.
Page = dict[str, Any]
Block = dict[str, npt.NDArray[np.float64]]


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


class Flyer(Device):
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
    start_time = Cpt(FreshSignalRO, "StartTime", kind="omitted", units="s")
    time_scale = Cpt(FreshSignalRO, "TimeScale", kind="omitted")
    read_from = Cpt(FreshSignal, "ReadFrom", kind="omitted")
    block_scan = Cpt(FreshSignalRO, "BlockScan", kind="omitted")
    block_start = Cpt(FreshSignalRO, "BlockStart", kind="omitted")
    block_points = Cpt(FreshSignalRO, "BlockPoints", kind="omitted")
    time_array = Cpt(FreshSignalRO, "Time", kind="omitted")
    position_array = Cpt(FreshSignalRO, "Position", kind="omitted")
    energy_array = Cpt(FreshSignalRO, "Energy", kind="omitted")
    i0_array = Cpt(FreshSignalRO, "I0", kind="omitted")
    itrans_array = Cpt(FreshSignalRO, "IT", kind="omitted")
    ifluor_array = Cpt(FreshSignalRO, "IF", kind="omitted")
    irefer_array = Cpt(FreshSignalRO, "IR", kind="omitted")
    idiffr_array = Cpt(FreshSignalRO, "XRD", kind="omitted")

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
        flight.begin(self.execute, 1)
        return self._take_off(flight)

    def _take_off(self, flight: Operation) -> DeviceStatus:
        status = _TakeOff(self, f"the start of {flight.what}")

        def look(value: Any, **_: Any) -> None:
            if int(value) == _EXECUTING:
                status.end()

        def ended(over: Operation) -> None:
            self.state.unsubscribe(token)
            status.end(over.exception(timeout=0))

        token = self.state.subscribe(look, run=False)
        flight.add_callback(ended)
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
        flight = self._flight
        if flight is not None and not flight.done:
            flight.stop_is_success = success
            flight.stopped = True
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
        keys = {axis.name: self._describe(self.position_array, axis.egu)}
        for array, key in _KEYS.items():
            if key not in keys:
                keys[key] = self._describe(self._arrays()[array], FLYER_ARRAYS[array])
        keys["exposure"] = self._describe(self.dwell, "s")
        return {"primary": keys}

    @staticmethod
    def _describe(signal: Any, units: str) -> dict[str, Any]:
        return {
            "source": f"PV:{signal.pvname}",
            "dtype": "number",
            "dtype_numpy": "<f8",
            "shape": [],
            "units": units,
        }

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
        block = self._read_block(self._collected, int(number.value))
        points, problem = self._examine(block)
        if problem is not None and not points:
            raise problem
        self._collected += points
        return self._page({name: values[:points] for name, values in block.items()})

    def _examine(self, block: Block) -> tuple[int, Exception | None]:
        """Count the points before the first that can't be believed; say what is wrong with it."""
        points = len(block["Time"])
        problem: Exception | None = None
        for name, signal in self._arrays().items():
            dead = np.flatnonzero(~np.isfinite(block[name][:points]))
            if dead.size:
                points = int(dead[0])
                problem = DetectorError(
                    f"{signal.pvname} has no value for point {self._collected + points} of the fly "
                    "scan: the detector reads nothing."
                )
        sweep = self._flown
        if sweep is None or not points:
            return points, problem
        wanted = sweep.positions(self._collected, points)
        off = np.abs(block["Position"][:points] - wanted)
        far = np.flatnonzero(off > sweep.longest_step + 2.0 * sweep.axis.tolerance)
        if far.size:
            points = int(far[0])
            problem = MotionError(
                f"{self.position_array.pvname} does not follow the fly scan of {sweep.axis.label}: "
                f"point {self._collected + points} should be at {wanted[points]:.7g} "
                f"{sweep.axis.egu} and is at {block['Position'][points]:.7g}."
            )
        return points, problem

    def _read_block(self, first: int, number: int) -> Block:
        what = f"the points of {self.name} from {first} on cannot be read"
        ended = threading.Event()
        status = put(self.read_from.put_channel, first, lambda _: ended.set())
        if status != ECA_NORMAL or not ended.wait(_BLOCK_TIMEOUT):
            raise ConnectionLostError(
                f"{what}: {self.read_from.pvname} did not answer; is the IOC running?"
            )
        arrays = self._arrays()
        scan, start, points, began, scale, *samples = read_many(
            [
                self.block_scan,
                self.block_start,
                self.block_points,
                self.start_time,
                self.time_scale,
                *arrays.values(),
            ]
        )
        if (scan.value, start.value) != (number, first):
            raise DetectorError(
                f"{what}: {self.block_start.pvname} is {int(start.value)} of scan "
                f"{int(scan.value)}, expected {first} of scan {number}; does another client read "
                "them?"
            )
        count = int(points.value)
        block = {
            # A waveform with one value comes as that value.
            name: np.atleast_1d(sample.value)[:count] if count else np.empty(0)
            for name, sample in zip(arrays, samples, strict=True)
        }
        block["stamps"] = began.value + block["Time"] / scale.value
        return block

    def _page(self, block: Block) -> Page:
        axis = self._flown.axis if self._flown is not None else self._find_axis()
        columns = {axis.name: block["Position"]}
        for array, key in _KEYS.items():
            columns.setdefault(key, block[array])
        stamps = block["stamps"].tolist()
        data = {key: values.tolist() for key, values in columns.items()}
        data["exposure"] = [float(self.dwell.get())] * len(stamps)
        return {"data": data, "timestamps": dict.fromkeys(data, stamps), "time": stamps}

    def _arrays(self) -> dict[str, Any]:
        return {
            "Time": self.time_array,
            "Position": self.position_array,
            "Energy": self.energy_array,
            "I0": self.i0_array,
            "IT": self.itrans_array,
            "IF": self.ifluor_array,
            "IR": self.irefer_array,
            "XRD": self.idiffr_array,
        }
