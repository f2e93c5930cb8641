"""The camera of the area detector (``cam1``): exposures on demand, frames to the file plugin."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import ConnectionLostError
from beamline.core.pvs import AREA_DETECTOR, spec
from ioc.channel import Completion, PutRefusedError, settle
from ioc.fields import Double, Enum, Long, String
from ioc.file_plugin import FilePlugin
from ioc.link import Answer, DeviceLink
from ioc.soft import RecordGroup, Soft

__all__ = ["AreaDetector"]

_log = logging.getLogger("ioc.area_detector")

_IMAGE_MODES = ("Single", "Multiple", "Continuous")
_STATES = (
    "Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting",
    "Initializing", "Disconnected", "Aborted",
)  # fmt: skip
_IDLE, _ACQUIRE, _SAVING, _ERROR = (
    _STATES.index(s) for s in ("Idle", "Acquire", "Saving", "Error")
)
#: The device server takes the same times for frames and counts.
_EXPOSURE = spec("DET:EXPOSURE")
#: Frames of an acquisition without an end.
_CONTINUOUS = 1_000_000_000
#: After the last exposure, the writer must have dealt with its frame within this time (s).
_SAVING_TIMEOUT = 20.0


class AreaDetector:
    """Records of ``cam1`` and ``HDF1``.

    A put with completion to Acquire is answered when all frames have been taken and, while a file
    is open, are in that file.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    link
        Connection to the device server.
    """

    def __init__(self, prefix: str, link: DeviceLink) -> None:
        name = f"{prefix}{AREA_DETECTOR}:"
        self.cam = RecordGroup(f"{name}cam1:")
        self.files = FilePlugin(name, link.host, link.port, self._check_end)
        self._server = name
        self._link = link
        self._accepted = False
        self._ended = False
        self._ended_at = 0.0
        self._total = 0
        self._first = 0
        self._lost = False
        self._dead = False
        self._waiting: list[asyncio.Future[None]] = []
        self._settings: dict[str, tuple[str, float]] = {}
        self._add_records()

    @property
    def status(self) -> Soft:
        """The record that stands for the camera as a whole."""
        return self.cam.records["DetectorState_RBV"]

    @property
    def records(self) -> list[Soft]:
        """All records."""
        return [*self.cam.records.values(), *self.files.group.records.values()]

    def _add_records(self) -> None:
        cam = self.cam
        seconds: dict[str, Any] = {"precision": 4, "units": "s"}
        cam.setting("Acquire", Enum, 0, put=self._put_acquire, enum_strings=("Done", "Acquire"))
        cam.setting(
            "AcquireTime", Double, 0.1, put=self._put_time,
            lower_ctrl_limit=_EXPOSURE.low, upper_ctrl_limit=_EXPOSURE.high, **seconds,
        )  # fmt: skip
        cam.setting("AcquirePeriod", Double, 0.0, put=self._put_period, **seconds)
        cam.setting("NumImages", Long, 1, put=self._put_images)
        cam.setting("NumExposures", Long, 1, put=self._put_exposures)
        cam.setting("ImageMode", Enum, 1, enum_strings=_IMAGE_MODES)
        cam.setting("TriggerMode", Enum, 0, enum_strings=("Internal",))
        cam.setting("ArrayCallbacks", Enum, 1, enum_strings=("Disable", "Enable"))
        cam.setting("ArrayCounter", Long, 0)
        cam.readback("NumImagesCounter_RBV", Long, 0)
        cam.readback("DetectorState_RBV", Enum, _IDLE, enum_strings=_STATES)
        cam.readback("StatusMessage_RBV", String, "")
        for axis in ("SizeX", "SizeY"):
            cam.readback(f"{axis}_RBV", Long, 0)
            cam.readback(f"Max{axis}_RBV", Long, 0)
            cam.readback(f"Array{axis}_RBV", Long, 0)
        cam.readback("ArraySize_RBV", Long, 0)
        cam.readback("Manufacturer_RBV", String, "Simulated detector")
        cam.readback("Model_RBV", String, "beamline-sim AD1")
        cam.readback("PortName_RBV", String, "AD1")
        cam.readback("DetDist_RBV", Double, 0.0, precision=3, units="mm")
        cam.readback("BeamX_RBV", Double, 0.0, precision=3, units="px")
        cam.readback("BeamY_RBV", Double, 0.0, precision=3, units="px")
        cam.readback("XPixelSize_RBV", Double, 0.0, precision=7, units="m")
        cam.readback("YPixelSize_RBV", Double, 0.0, precision=7, units="m")
        cam.readback("PhotonEnergy_RBV", Double, 0.0, precision=3, units="eV")

    # ---- settings

    def _put_time(self, value: float) -> Completion:
        return self._configure("AcquireTime", "EXPOSURE", value)

    def _put_period(self, value: float) -> Completion:
        return self._configure("AcquirePeriod", "PERIOD", value)

    def _put_images(self, value: int) -> Completion:
        return self._configure("NumImages", "NIMAGES", value)

    def _put_exposures(self, value: int) -> Completion:
        if value != 1:
            raise PutRefusedError(f"{self.cam.prefix}NumExposures: only 1 is available.")
        return None

    def _configure(self, name: str, server_name: str, value: float) -> Completion:
        where = f"{self.cam.prefix}{name}"
        if not self._link.connected:
            raise PutRefusedError(
                f"{where} can't be set to {value:g}: no connection to the device server."
            )
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if isinstance(answer, str):
                self._settings[name] = (server_name, value)
                self.cam.set(name, value)
                completion.set_result(None)
            else:
                completion.set_exception(
                    PutRefusedError(
                        f"{where} can't be set to {value:g}: the device server says {answer}."
                    )
                )
                completion.exception()

        self._link.send(f"PUT:{self._server}{server_name}:{value:.17g}", answered)
        return completion

    # ---- acquiring

    def _put_acquire(self, value: int) -> Completion:
        acquiring = bool(self.cam.get("Acquire_RBV"))
        if not value:
            if acquiring:
                self._link.send("ACQSTOP", lambda _: None)
            return self._completion() if acquiring else None
        if acquiring:
            return self._completion()
        problem = self._obstacle()
        if problem:
            self._fail(problem)
            raise PutRefusedError(f"{self.cam.prefix}Acquire: {problem}.")
        mode = _IMAGE_MODES[self.cam.get("ImageMode")]
        images = {"Single": 1, "Continuous": _CONTINUOUS}.get(mode, self.cam.get("NumImages"))
        self.cam.clear_alarm()
        self.cam.set("NumImagesCounter_RBV", 0)
        self.cam.set("StatusMessage_RBV", "")
        self.cam.set("DetectorState_RBV", _ACQUIRE)
        self.cam.set("Acquire", 1)
        self._accepted = self._ended = self._lost = False
        self._first = self._total
        completion = self._completion()
        self._link.send(f"ACQUIRE:{images}", self._answered)
        return completion

    def _obstacle(self) -> str:
        """Why frames can't be taken now; empty if they can."""
        if not self._link.connected:
            return "no connection to the device server"
        if not self.files.connected:
            return "the frame writer is not connected to the device server"
        if self.files.problem and self.files.group.get("EnableCallbacks"):
            return f"frames would be lost: {self.files.problem}"
        return ""

    def _completion(self) -> asyncio.Future[None]:
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        return completion

    def _answered(self, answer: Answer) -> None:
        if isinstance(answer, str):
            self._accepted = True
        elif not isinstance(answer, ConnectionLostError):
            self._fail(f"the device server says {answer}")
        elif self.cam.get("Acquire_RBV"):
            self._fail("no connection to the device server")

    def _check_end(self) -> None:
        """End the acquisition when all its frames are dealt with, or can't be any more."""
        if not self.cam.get("Acquire_RBV") or not self._accepted:
            return
        taken = max(0, self.files.last_frame + 1 - self._first)
        self._count(taken)
        if self.files.problem and self.files.group.get("EnableCallbacks"):
            if not self._ended:
                self._link.send("ACQSTOP", lambda _: None)
            self._fail(self.files.problem)
        elif self._ended and self._lost:
            self._fail("the frame writer lost its connection during the acquisition")
        elif self._ended and self._dead:
            self._fail("the detector delivers no frames")
        elif self._ended and self._total in (self._first, self.files.last_frame + 1):
            self.cam.set("DetectorState_RBV", _IDLE)
            self._end()

    def _count(self, taken: int) -> None:
        before = self.cam.get("NumImagesCounter_RBV")
        if taken > before:
            self.cam.set("NumImagesCounter_RBV", taken)
            self.cam.set("ArrayCounter", self.cam.get("ArrayCounter") + taken - before)

    def _fail(self, problem: str) -> None:
        _log.error("%sAcquire: %s", self.cam.prefix, problem)
        self.cam.set("StatusMessage_RBV", problem[:39])
        self.cam.set("DetectorState_RBV", _ERROR)
        if self._dead and self._link.connected:
            self._alarm_acquisition()
        else:
            status = AlarmStatus.WRITE if self._link.connected else AlarmStatus.COMM
            self.cam.alarm(status, AlarmSeverity.INVALID_ALARM)
        self._end(PutRefusedError(f"{self.cam.prefix}Acquire: {problem}."))

    def _alarm_acquisition(self) -> None:
        """Say that no frames can be had; the settings are as good as ever."""
        for name in ("Acquire", "Acquire_RBV", "DetectorState_RBV"):
            record = self.cam.records[name]
            record.touch()
            record.set_alarm(AlarmStatus.READ, AlarmSeverity.INVALID_ALARM)

    def _end(self, failure: PutRefusedError | None = None) -> None:
        self._accepted = self._ended = False
        self.cam.set("Acquire", 0)
        waiting, self._waiting = self._waiting, []
        settle(waiting, failure)

    def check(self) -> None:
        """Give up on a frame that the writer doesn't report."""
        if self._ended and time.monotonic() - self._ended_at > _SAVING_TIMEOUT:
            self._fail(f"frames are missing {_SAVING_TIMEOUT:g} s after the last exposure")

    # ---- news from the server

    def mirror(self, values: Mapping[str, str]) -> None:
        """Take new values, by the part of their name behind ``AD1:``; ENERGY is the beam's."""
        if "ENERGY" in values:
            self.cam.set("PhotonEnergy_RBV", float(values["ENERGY"]))
        for name, setting in (("EXPOSURE", "AcquireTime"), ("PERIOD", "AcquirePeriod")):
            if name in values:
                self.cam.set(setting, float(values[name]))
        if "NIMAGES" in values and not self.cam.get("Acquire_RBV"):
            self.cam.set("NumImages", int(float(values["NIMAGES"])))
        if "TOTAL" in values:
            self._total = int(float(values["TOTAL"]))
        if "LOST" in values:
            self._lost = bool(float(values["LOST"]))
        if "FAULT" in values:
            self._dead = bool(float(values["FAULT"]))
            if self._dead:
                self._alarm_acquisition()
            else:
                self.cam.clear_alarm()
        if "NX" in values and "NY" in values:
            self._set_shape((int(float(values["NY"])), int(float(values["NX"]))))
        if "ACQUIRING" in values and self._accepted:
            if float(values["ACQUIRING"]) == 0.0:
                self._ended = True
                self._ended_at = time.monotonic()
                self.cam.set("DetectorState_RBV", _SAVING)
            self._check_end()

    def _set_shape(self, shape: tuple[int, int]) -> None:
        ny, nx = shape
        for axis, size in (("SizeX", nx), ("SizeY", ny)):
            for name in (axis, f"Max{axis}", f"Array{axis}"):
                self.cam.set(f"{name}_RBV", size)
        self.cam.set("ArraySize_RBV", 2 * nx * ny)
        self.files.set_shape(shape)

    def link_up(self) -> None:
        """End the alarms, give settings back to a server that forgot them, ask for geometry."""
        if not self._dead:
            self.cam.clear_alarm()
        # What failed because of the connection is over; the next put may do.
        if not self.cam.get("Acquire_RBV"):
            self.cam.set("DetectorState_RBV", _IDLE)
            self.cam.set("StatusMessage_RBV", "")
        self.files.restore()
        for name, (server_name, value) in tuple(self._settings.items()):
            if self.cam.get(name) != value:
                _log.info("restoring %s%s to %g", self.cam.prefix, name, value)
                self._configure(name, server_name, value)
        self._link.send("TRUTH", self._take_geometry)

    def _take_geometry(self, answer: Answer) -> None:
        if not isinstance(answer, str):
            _log.warning("the device server gave no detector geometry: %s", answer)
            return
        detector = json.loads(answer)["detector"]
        self.cam.set("DetDist_RBV", 1e3 * detector["distance_m"])
        self.cam.set("BeamX_RBV", detector["beam_centre_px"][0])
        self.cam.set("BeamY_RBV", detector["beam_centre_px"][1])
        self.cam.set("XPixelSize_RBV", detector["pixel_m"])
        self.cam.set("YPixelSize_RBV", detector["pixel_m"])

    def lose_link(self) -> None:
        """Raise alarms and end any acquisition."""
        self.files.lose_link()
        if self.cam.get("Acquire_RBV"):
            self._fail("no connection to the device server")
        self.cam.lose_link()
