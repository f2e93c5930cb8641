"""Fly scans (``FLY1``): a motor sweeps while the device server counts; blocks of points."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import ConnectionLostError
from beamline.core.pvs import FLYER, FLYER_ARRAYS, FLYER_POINTS, PVS
from ioc.channel import Completion, PutRefusedError, settle
from ioc.fields import CharArray, Double, DoubleArray, Enum, Long
from ioc.link import Answer, DeviceLink
from ioc.soft import RecordGroup, Soft

__all__ = ["BLOCK_POINTS", "FlyScan"]

_log = logging.getLogger("ioc.fly")

#: Most points that one put to ReadFrom brings.
BLOCK_POINTS = 10_000
#: Most points that the device server gives with one answer.
_ANSWER_POINTS = 1000
_DWELL_S = (1e-5, 1000.0)
_POINTS = (2, FLYER_POINTS)
_MOTORS = tuple(row.suffix for row in PVS if row.record == "motor")
#: As in the EPICS motor module's profile moves.
_STATES = ("Done", "Move start", "Executing", "Stopping")
_DONE, _STOPPING = _STATES.index("Done"), _STATES.index("Stopping")
_STATUSES = ("Undefined", "Success", "Failure", "Abort", "Timeout")
_UNDEFINED, _SUCCESS, _FAILURE, _ABORT, _ = range(len(_STATUSES))
#: ``FLY:STATE`` of the device server → how the scan ended.
_ENDS = {4: _SUCCESS, 5: _ABORT, 6: _FAILURE}
_DESCRIPTIONS = {
    "Motor": "What moves",
    "Start": "Position in the middle of point 0",
    "Stop": "Position in the middle of the last point",
    "NumPoints": "Points of the next scan",
    "DwellTime": "Time per point",
    "Execute": "Start the scan",
    "Abort": "End the scan early",
    "ExecuteState": "What the scan does",
    "ExecuteStatus": "How the last scan ended",
    "ExecuteMessage": "Why it ended so",
    "CurrentPoint": "Points taken so far",
    "TotalPoints": "Points of this scan",
    "ScanNumber": "Scans since the server started",
    "StartTime": "When point 0 began, s since 1970",
    "TimeScale": "Simulated seconds per second",
    "ReadFrom": "Bring points from this one on",
    "BlockScan": "ScanNumber of the waveforms",
    "BlockStart": "First point in the waveforms",
    "BlockPoints": "Points in the waveforms",
    "Time": "Middle of the points since StartTime",
    "Position": "Mean positions",
    "Energy": "Mean photon energies",
    "I0": "Incident intensities",
    "IT": "Transmitted intensities",
    "IF": "Fluorescence intensities",
    "IR": "Intensities behind the reference foil",
    "XRD": "Diffracted intensities at 2-theta",
}
_FAULTS = {1: "is stalled", 2: "left its course"}


class FlyScan:
    """Records of the fly scans.

    A put with completion to Execute is answered when the motor is at rest again; one to ReadFrom
    when the waveforms hold the points from there on. The device server keeps all points of the last
    scan, so that a client reads them at its own pace, during the scan or after it.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    link
        Connection to the device server.
    """

    def __init__(self, prefix: str, link: DeviceLink) -> None:
        self.group = RecordGroup(f"{prefix}{FLYER}:")
        self._prefix = prefix
        self._link = link
        self._accepted = False
        self._state = 0
        self._fault = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._reading: list[asyncio.Future[None]] = []
        self._add_records()

    @property
    def status(self) -> Soft:
        """The record that stands for the fly scan as a whole."""
        return self.group.records["ExecuteStatus"]

    def _add_records(self) -> None:
        group = self.group
        seconds: dict[str, Any] = {"precision": 6, "units": "s"}
        group.setting("Motor", Enum, 0, enum_strings=_MOTORS)
        group.setting("Start", Double, 0.0, precision=4)
        group.setting("Stop", Double, 1.0, precision=4)
        group.setting(
            "NumPoints", Long, 101, put=self._put_points,
            lower_ctrl_limit=_POINTS[0], upper_ctrl_limit=_POINTS[1],
        )  # fmt: skip
        group.setting(
            "DwellTime", Double, 0.01, put=self._put_dwell,
            lower_ctrl_limit=_DWELL_S[0], upper_ctrl_limit=_DWELL_S[1], **seconds,
        )  # fmt: skip
        group.control("Execute", Enum, 0, put=self._put_execute, enum_strings=("Done", "Execute"))
        group.control("Abort", Enum, 0, put=self._put_abort, enum_strings=("Done", "Abort"))
        group.readback("ExecuteState", Enum, 0, enum_strings=_STATES)
        group.readback("ExecuteStatus", Enum, 0, enum_strings=_STATUSES)
        group.readback("ExecuteMessage", CharArray, "")
        group.readback("CurrentPoint", Long, 0)
        group.readback("TotalPoints", Long, 0)
        group.readback("ScanNumber", Long, 0)
        group.readback("StartTime", Double, 0.0, precision=6, units="s")
        group.readback("TimeScale", Double, 1.0, precision=3)
        group.control("ReadFrom", Long, 0, put=self._put_read)
        group.readback("BlockScan", Long, 0)
        group.readback("BlockStart", Long, 0)
        group.readback("BlockPoints", Long, 0)
        for name, units in FLYER_ARRAYS.items():
            group.readback(name, DoubleArray, (), max_length=BLOCK_POINTS, units=units, precision=6)
        for name, record in group.records.items():
            record.fields["DESC"].post(_DESCRIPTIONS[name.removesuffix("_RBV")])

    # ---- settings

    def _put_points(self, value: int) -> None:
        self._check("NumPoints", value, *_POINTS, "points")
        self.group.set("NumPoints", value)

    def _put_dwell(self, value: float) -> None:
        self._check("DwellTime", value, *_DWELL_S, "s")
        self.group.set("DwellTime", value)

    def _check(self, name: str, value: float, low: float, high: float, unit: str) -> None:
        if not low <= value <= high:
            raise PutRefusedError(
                f"{self.group.prefix}{name} can't take {value:g}: expected {low:g} to {high:g} "
                f"{unit}."
            )

    # ---- executing

    @property
    def _executing(self) -> bool:
        return bool(self.group.get("Execute"))

    def _put_execute(self, value: int) -> Completion:
        if not value:
            return None
        group = self.group
        if self._executing:
            raise PutRefusedError(
                f"{group.prefix}Execute can't take 1: a fly scan is executing; wait for its end or "
                f"put 1 to {group.prefix}Abort."
            )
        if not self._link.connected:
            raise PutRefusedError(
                f"{group.prefix}Execute can't take 1: no connection to the device server."
            )
        motor = _MOTORS[group.get("Motor")]
        request = (
            f"FLY:{self._prefix}{motor}:{group.get('Start'):.17g},{group.get('Stop'):.17g},"
            f"{group.get('NumPoints')},{group.get('DwellTime'):.17g}"
        )
        self._accepted = False
        self._show("", _UNDEFINED)
        group.set("Execute", 1)
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        self._link.send(request, self._answered)
        return completion

    def _answered(self, answer: Answer) -> None:
        if isinstance(answer, str):
            self._accepted = True
        elif not isinstance(answer, ConnectionLostError):
            kind, _, why = str(answer).partition(":")
            self._end(_FAILURE, f"the device server refused it: {why or kind}")
        elif self._executing:
            self._end(_FAILURE, "no connection to the device server")

    def _put_abort(self, value: int) -> Completion:
        if not value or not self._executing:
            return None
        self._link.send("FLYABORT", lambda _: None)
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        return completion

    def _end(self, status: int, problem: str = "") -> None:
        self._accepted = False
        self._show(problem, status)
        self.group.set("Execute", 0)
        failure = None
        if status == _FAILURE:
            _log.error("%sExecute: %s", self.group.prefix, problem)
            failure = PutRefusedError(f"{self.group.prefix}Execute: {problem}.")
        waiting, self._waiting = self._waiting, []
        settle(waiting, failure)

    def _show(self, message: str, status: int) -> None:
        group = self.group
        group.set_text("ExecuteMessage", message)
        group.set("ExecuteStatus", status)
        record = self.status
        if status == _FAILURE:
            alarm = AlarmStatus.STATE if self._link.connected else AlarmStatus.COMM
            record.set_alarm(alarm, AlarmSeverity.MAJOR_ALARM)
        elif self._link.connected:
            record.clear_alarm()

    # ---- reading points

    def _put_read(self, first: int) -> Completion:
        group, taken = self.group, self.group.get("CurrentPoint")
        if not 0 <= first <= taken:
            raise PutRefusedError(
                f"{group.prefix}ReadFrom can't take {first}: expected 0 to {taken}, the points "
                "taken so far."
            )
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading.append(completion)
        parts: list[bytes] = []
        starts = range(first, min(max(taken, first + 1), first + BLOCK_POINTS), _ANSWER_POINTS)

        def take(answer: Answer, payload: bytes) -> None:
            if completion.done():
                return
            if not isinstance(answer, str):
                self._reading.remove(completion)
                problem = f"{group.prefix}ReadFrom can't take {first}: {answer}"
                settle([completion], PutRefusedError(problem))
                return
            parts.append(payload)
            if len(parts) == len(starts):
                self._reading.remove(completion)
                self._post_block(int(answer.partition(",")[0]), first, b"".join(parts))
                settle([completion], None)

        for start in starts:
            points = min(_ANSWER_POINTS, first + BLOCK_POINTS - start)
            self._link.send_for_bytes(f"FLYDATA:{start},{points}", take)
        return completion

    def _post_block(self, scan: int, first: int, payload: bytes) -> None:
        columns = np.frombuffer(payload, dtype="<f8").reshape(-1, len(FLYER_ARRAYS)).T
        group = self.group
        for name, values in zip(FLYER_ARRAYS, columns, strict=True):
            group.set(name, values)
        group.set("BlockScan", scan)
        group.set("BlockPoints", columns.shape[1])
        group.set("BlockStart", first)
        group.set("ReadFrom", first)

    # ---- news from the server

    def mirror(self, values: Mapping[str, str]) -> None:
        """Take new values, by the part of their name behind ``FLY:``."""
        group = self.group
        numbers = {name: float(text) for name, text in values.items()}
        for name, record in (
            ("NUMBER", "ScanNumber"), ("TOTAL", "TotalPoints"), ("POINTS", "CurrentPoint"),
        ):  # fmt: skip
            if name in numbers:
                group.set(record, int(numbers[name]))
        if "OPENED" in numbers:
            group.set("StartTime", numbers["OPENED"])
        self._fault = int(numbers.get("FAULT", self._fault))
        if "STATE" not in numbers:
            return
        self._state = int(numbers["STATE"])
        group.set("ExecuteState", self._state if self._state <= _STOPPING else _DONE)
        if self._accepted and self._state in _ENDS:
            self._end(_ENDS[self._state], self._outcome(self._state))

    def _outcome(self, state: int) -> str:
        taken, total = self.group.get("CurrentPoint"), self.group.get("TotalPoints")
        so_far = f"after {taken} of {total} points"
        if _ENDS[state] == _ABORT:
            return f"the fly scan was aborted {so_far}"
        if _ENDS[state] == _FAILURE:
            motor = f"{self._prefix}{_MOTORS[self.group.get('Motor')]}"
            return f"{motor} {_FAULTS.get(self._fault, 'failed')} {so_far}"
        return ""

    def link_up(self) -> None:
        """End the alarms, and ask how fast simulated time runs."""
        self.group.clear_alarm()
        self._link.send("TRUTH", self._take_time_scale)

    def _take_time_scale(self, answer: Answer) -> None:
        if isinstance(answer, str):
            self.group.set("TimeScale", float(json.loads(answer)["time_scale"]))
        else:
            _log.warning("the device server did not say how fast its time runs: %s", answer)

    def lose_link(self) -> None:
        """Raise alarms and end any scan: nobody knows what became of it."""
        if self._executing:
            self._end(_FAILURE, "lost the connection to the device server")
        self.group.set("ExecuteState", _DONE)
        self.group.lose_link()
