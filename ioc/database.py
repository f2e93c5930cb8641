"""All records of the beamline, and the way of news from the device server to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping

from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import BeamlineError, ConnectionLostError
from beamline.core.pvs import AREA_DETECTOR, MACHINE, PVS, SCALER_CHANNELS
from ioc.area_detector import AreaDetector
from ioc.channel import Field
from ioc.descriptions import describe
from ioc.fields import Enum
from ioc.fly import FlyScan
from ioc.health import Health
from ioc.link import DeviceLink
from ioc.mirror import Input, Output
from ioc.motor import Motor
from ioc.record import Record
from ioc.scaler import Scaler

__all__ = ["Database"]

_log = logging.getLogger("ioc.database")

_CHECK_PERIOD = 0.5
_SAMPLE = "SAMPLE:SELECT"
_ENERGY = "MONO:ENERGY"
_EXPOSURE = "DET:EXPOSURE"
_CAMERA = f"{AREA_DETECTOR}:"
_FLY = "FLY:"
_SCALER_SOURCES = (*SCALER_CHANNELS[1:], "DET:ELAPSED", "DET:COUNTING", "DET:EXPOSURE")


class Database:
    """The records, kept in step with the device server.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    host, port
        Address of the device server.
    engineer, location
        What the health records say about whom to call, and where the IOC runs.
    """

    def __init__(
        self, prefix: str, host: str, port: int, *, engineer: str = "", location: str = ""
    ) -> None:
        self.prefix = prefix
        self.link = DeviceLink(host, port, prefix, self)
        self.inputs: dict[str, Input] = {}
        self.motors: dict[str, Motor] = {}
        for row in PVS:
            if row.record == "motor":
                self.motors[row.suffix] = Motor(prefix, row, self.link)
            elif row.record in {"ai", "bi"}:
                self.inputs[row.suffix] = Input(prefix, row)
        for row in PVS:
            if row.record in {"ao", "bo", "mbbo"}:
                readback = "SHUTTER:STATUS" if row.suffix == "SHUTTER:CMD" else None
                self.inputs[row.suffix] = Output(
                    prefix, row, self.link, self.inputs[readback] if readback else None
                )
        self.scaler = Scaler(prefix, self.link)
        exposure = self.inputs[_EXPOSURE]
        assert isinstance(exposure, Output)  # noqa: S101  (an ao record)
        self.scaler.keep_preset(exposure.claim)
        self.area_detector = AreaDetector(prefix, self.link)
        self.fly = FlyScan(prefix, self.link)
        self.records: list[Record] = [
            *self.inputs.values(),
            *self.motors.values(),
            self.scaler,
            *self.area_detector.records,
            *self.fly.group.records.values(),
        ]
        describe(self.area_detector.records, f"{prefix}{AREA_DETECTOR}:")
        for record in self.records:
            if record.name.startswith(tuple(prefix + area for area in MACHINE)):
                record.protect()
        self.health = Health(prefix, self, engineer=engineer, location=location)
        self.records.extend(self.health.records.values())
        self.health.field("RECORD_CNT").post(float(len(self.records)))
        self._last: dict[str, str] = {}
        #: Whether the device server has all settings that clients had made.
        self.settled = True

    def channels(self) -> dict[str, Field]:
        """Every name that clients can connect to."""
        return {name: field for record in self.records for name, field in record.channels().items()}

    async def run(self) -> None:
        """Follow the device server until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.link.run())
            tasks.create_task(self._check())
            tasks.create_task(self.health.run())
            tasks.create_task(self.area_detector.files.writer.run())

    async def wait_until_ready(self) -> None:
        """Wait for the device server and for the frame writer, or for the first failure."""
        await self.link.first_attempt()
        if self.link.connected:
            await self.area_detector.files.ready.wait()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_PERIOD)
            for motor in self.motors.values():
                motor.check()
            self.area_detector.check()

    # ---- what the health records ask

    def link_health(self) -> tuple[bool, int, float]:
        """Whether the device server is connected, how often anew, and its round trip (s)."""
        return self.link.connected, max(0, self.link.reconnects), self.link.latency

    def writer_health(self) -> tuple[str, int]:
        """State of the frame writer, and how often it was started again."""
        files = self.area_detector.files
        if files.problem:
            state = "Failed"
        elif files.occupied:
            state = "Occupied"
        elif not files.connected:
            state = "Disconnected"
        else:
            state = "Writing" if files.group.get("Capture_RBV") else "Ready"
        return state, files.writer.restarts

    # ---- what the link calls

    def update(self, values: Mapping[str, str], stamp: float) -> None:
        """Give new values to the records, motors and plain records before the scaler."""
        motors: dict[str, dict[str, str]] = {}
        counts: dict[str, str] = {}
        camera: dict[str, str] = {}
        fly: dict[str, str] = {}
        for name, text in values.items():
            suffix = name.removeprefix(self.prefix)
            record, _, field = suffix.partition(".")
            if record in self.motors:
                motors.setdefault(record, {})[field] = text
            elif suffix in self.inputs:
                self._last[suffix] = text
                with _containing(self.inputs[suffix], text):
                    self.inputs[suffix].mirror(text, stamp)
            elif suffix.startswith(_CAMERA):
                camera[suffix.removeprefix(_CAMERA)] = text
            elif suffix.startswith(_FLY):
                fly[suffix.removeprefix(_FLY)] = text
            if suffix in _SCALER_SOURCES:
                counts[suffix] = text
        for record, changes in motors.items():
            with _containing(self.motors[record], changes):
                self.motors[record].mirror(changes, stamp)
        if counts:
            with _containing(self.scaler, counts):
                self.scaler.mirror(counts, stamp)
        if "RBV" in motors.get(_ENERGY, {}):
            camera["ENERGY"] = motors[_ENERGY]["RBV"]
        if camera:
            with _containing(self.area_detector.status, camera):
                self.area_detector.mirror(camera)
        if fly:
            with _containing(self.fly.status, fly):
                self.fly.mirror(fly)

    def link_up(self) -> None:
        """Learn the names of the samples and restore what clients had set."""
        self.settled = False
        self.health.neighbours_changed()
        self.link.send("SAMPLES", self._take_samples)
        for motor in self.motors.values():
            motor.restore()
        self.scaler.link_up()
        self.area_detector.link_up()
        self.fly.link_up()

    def _take_samples(self, answer: object) -> None:
        if isinstance(answer, ConnectionLostError):
            return
        if isinstance(answer, BeamlineError):
            _log.warning("the device server gave no sample names: %s", answer)
        else:
            field = self.inputs[_SAMPLE].value
            assert isinstance(field, Enum)  # noqa: S101  (an mbbo record)
            field.set_states(str(answer).split(","))
            if _SAMPLE in self._last:
                self.inputs[_SAMPLE].mirror(self._last[_SAMPLE], self.inputs[_SAMPLE].stamp.time)
        for record in self.inputs.values():
            if isinstance(record, Output):
                record.restore()
        # Answers come in order: this one is behind those to everything that was given back.
        self.link.send("PING", self._settle)

    def _settle(self, answer: object) -> None:
        if not isinstance(answer, ConnectionLostError):
            self.settled = True

    def link_down(self, reason: str) -> None:
        """Put every record into alarm."""
        _log.warning("all records are in alarm: %s", reason)
        for record in (*self.inputs.values(), *self.motors.values(), self.scaler):
            record.lose_link()
        self.area_detector.lose_link()
        self.fly.lose_link()
        self.health.neighbours_changed()


@contextlib.contextmanager
def _containing(record: Record, news: object) -> Iterator[None]:
    """Let a value that can't be understood be the trouble of one record, not of the IOC."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        _log.error("%s: the device server sent %s: %s", record.name, news, error)
        record.set_alarm(AlarmStatus.READ, AlarmSeverity.INVALID_ALARM)
