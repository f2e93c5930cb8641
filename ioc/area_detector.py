"""The camera of the area detector (``cam1``): exposures on demand, frames to the plugins."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import ConnectionLostError
from beamline.core.pvs import AREA_DETECTOR, spec
from ioc.adcore import (
    DISABLE_ENABLE,
    add_camera_records,
    show_array,
    show_newest,
)
from ioc.channel import Completion, PutHandler, PutRefusedError, settle
from ioc.fields import CharArray, Double, Enum, Long, String
from ioc.file_plugin import BLINK, HOLD, FilePlugin
from ioc.frames import DENSE, EVENTS
from ioc.image_plugin import ImagePlugin
from ioc.link import Answer, DeviceLink
from ioc.soft import RecordGroup, Soft
from ioc.writer_process import WriterProcess

__all__ = ["AreaDetector"]

_log = logging.getLogger("ioc.area_detector")

_SIM_MODES = ("Still", "SAXS", "Speckle")
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
#: What the server takes.
_RANGES = {
    "AcquireTime": (_EXPOSURE.low, _EXPOSURE.high, " s"),
    "AcquirePeriod": (0.0, 1e6, " s"),
    "SimMode": (0, 2, ""),
    "Sparse": (0, 1, ""),
    "Preload": (0, 1024, " frames"),
}
#: Frames of an acquisition without an end.
_CONTINUOUS = 1_000_000_000
#: Settings that the server keeps, by their record.
_SERVER_NAMES = {
    "AcquireTime": "EXPOSURE",
    "AcquirePeriod": "PERIOD",
    "SimMode": "MODE",
    "Sparse": "SPARSE",
    "Preload": "PRELOAD",
}
_SIZES = ("NX", "NY", "PANELS", "SPARSE")
#: After the last exposure, the writer must have dealt with its frame within this time (s).
_SAVING_TIMEOUT = 20.0
#: How long the IOC waits to hear why the writer lost its connection (s).
_REASON_TIMEOUT = 3.0
#: The server still draws the last frame of an acquisition that was cut off, or the frame writer is
#: being started again: ask again after this time (s).
_PASSING = ("BUSY", "NO_CONSUMER")
_RETRY = 0.1


class AreaDetector:
    """Records of ``cam1``, ``HDF1`` and ``image1``.

    A put with completion to Acquire is answered when all frames have been taken and, while a file
    is open, are in that file. It is held while the frame writer is being started. A refused Acquire
    is 1 for a moment, in alarm, and then 0: stock clients wait for that edge and for nothing else.
    A file that lacks frames because of it says so when it is closed.

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
        writer = WriterProcess(link.host, link.port, self)
        self.files = FilePlugin(name, writer)
        self.image = ImagePlugin(name, writer)
        self._server = name
        self._link = link
        self._accepted = False
        self._ended = False
        self._ended_at = 0.0
        self._total = 0
        self._first = 0
        self._lost = False
        self._dead = False
        self._late = 0
        self._overflows = 0
        self._overflows_before = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._settings: dict[str, float] = {}
        self._deferred: dict[str, float] = {}
        self._server_acquires = False
        self._rose = 0.0
        self._images = 1
        self._held: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._server_sizes: dict[str, int] = {"PANELS": 1, "SPARSE": 0}
        self._time_scale = 1.0
        self._exposure_began = 0.0
        self._rates = [
            _Rate(self.cam, "ArrayCounter"),
            _Rate(self.files.group, "ArrayCounter"),
            _Rate(self.image.group, "ArrayCounter"),
        ]
        self._add_records()

    @property
    def status(self) -> Soft:
        """The record that stands for the camera as a whole."""
        return self.cam.records["DetectorState_RBV"]

    @property
    def records(self) -> list[Soft]:
        """All records."""
        groups = (self.cam, self.files.group, self.image.group)
        return [record for group in groups for record in group.records.values()]

    def _add_records(self) -> None:
        cam = self.cam
        seconds: dict[str, Any] = {"precision": 4, "units": "s"}
        cam.setting("Acquire", Enum, 0, put=self._put_acquire, enum_strings=("Done", "Acquire"))
        add_camera_records(cam)
        cam.setting(
            "AcquireTime", Double, 0.1, put=self._server_put("AcquireTime"),
            lower_ctrl_limit=_EXPOSURE.low, upper_ctrl_limit=_EXPOSURE.high, **seconds,
        )  # fmt: skip
        cam.setting("AcquirePeriod", Double, 0.0, put=self._server_put("AcquirePeriod"), **seconds)
        cam.setting("SimMode", Enum, 0, put=self._server_put("SimMode"), enum_strings=_SIM_MODES)
        cam.setting(
            "Sparse", Enum, 0, put=self._server_put("Sparse"), enum_strings=("Dense", "Events")
        )
        cam.setting("Preload", Long, 0, put=self._server_put("Preload"))
        cam.readback("Panels_RBV", Long, 1)
        cam.setting("NumImages", Long, 1, put=self._put_images)
        cam.setting("ImageMode", Enum, 1, enum_strings=_IMAGE_MODES)
        cam.setting("ArrayCallbacks", Enum, 1, enum_strings=DISABLE_ENABLE)
        cam.control("Reset", Enum, 0, put=self._put_reset, enum_strings=("Done", "Reset"))
        cam.readback("Reset_RBV", Enum, 0, enum_strings=("Done", "Reset"))
        cam.readback("AcquireBusy", Enum, 0, enum_strings=("Done", "Acquiring"))
        cam.readback("NumImagesCounter_RBV", Long, 0)
        cam.readback("LateFrames_RBV", Long, 0)
        cam.readback("OverflowFrames_RBV", Long, 0)
        cam.readback("TimeRemaining_RBV", Double, 0.0, **seconds)
        cam.readback("DetectorState_RBV", Enum, _IDLE, enum_strings=_STATES)
        cam.readback("StatusMessage_RBV", CharArray, "")
        for axis in ("SizeX", "SizeY"):
            cam.setting(axis, Long, 0, put=cam.same(axis))
            cam.readback(f"Max{axis}_RBV", Long, 0)
        cam.readback("Manufacturer_RBV", String, "Simulated detector")
        cam.readback("Model_RBV", String, "beamline-sim AD1")
        cam.readback("DetDist_RBV", Double, 0.0, precision=3, units="mm")
        cam.readback("BeamX_RBV", Double, 0.0, precision=3, units="px")
        cam.readback("BeamY_RBV", Double, 0.0, precision=3, units="px")
        cam.readback("XPixelSize_RBV", Double, 0.0, precision=7, units="m")
        cam.readback("YPixelSize_RBV", Double, 0.0, precision=7, units="m")
        cam.readback("PhotonEnergy_RBV", Double, 0.0, precision=3, units="eV")

        for name in _SERVER_NAMES:
            cam.records[name].value.claim = functools.partial(self._claim, name)

    # ---- settings

    def _claim(self, name: str) -> None:
        self._settings[name] = self.cam.get(name)

    def _server_put(self, name: str) -> PutHandler:
        def put(value: float) -> Completion:
            return self._configure(name, value)

        return put

    def _put_images(self, value: int) -> Completion:
        if not 1 <= value <= _CONTINUOUS:
            raise PutRefusedError(
                f"{self.cam.prefix}NumImages can't take {value}: expected 1 to {_CONTINUOUS}."
            )
        self.cam.set("NumImages", value)
        return None

    def _put_reset(self, value: int) -> Completion:
        return self._put_acquire(0) if value else None

    def _configure(self, name: str, value: float) -> Completion:
        where = f"{self.cam.prefix}{name}"
        if not self._link.connected:
            raise PutRefusedError(
                f"{where} can't be set to {value:g}: no connection to the device server."
            )
        low, high, units = _RANGES[name]
        if not low <= value <= high:
            raise PutRefusedError(
                f"{where} can't be set to {value:g}{units}: expected {low:g} to {high:g}{units}."
            )
        if self._server_acquires or self.cam.get("Acquire_RBV"):
            self._defer(name, value)
            return None
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            failure = None
            if isinstance(answer, str):
                self._settings[name] = value
                self.cam.set(name, value)
            elif str(answer) == "BUSY":
                self._defer(name, value)
            else:
                fitting = " that fit into its memory" if name == "Preload" else ""
                failure = PutRefusedError(
                    f"{where} can't be set to {value:g}{units}: the device server says {answer}; "
                    f"expected {low:g} to {high:g}{units}{fitting}."
                )
            settle([completion], failure)

        self._link.send(f"PUT:{self._server}{_SERVER_NAMES[name]}:{value:.17g}", answered)
        return completion

    def _defer(self, name: str, value: float) -> None:
        """Keep a setting until the acquisition has ended: the server takes none before."""
        self._deferred[name] = value
        self.cam.set(name, value)

    def _send_deferred(self) -> None:
        if self._server_acquires or self.cam.get("Acquire_RBV") or not self._link.connected:
            return
        deferred, self._deferred = self._deferred, {}
        for name, value in deferred.items():
            completion = self._configure(name, value)
            if completion is not None:
                completion.add_done_callback(functools.partial(self._sent, name))

    def _sent(self, name: str, completion: asyncio.Future[None]) -> None:
        if completion.cancelled() or (failure := completion.exception()) is None:
            return
        _log.error("%s", failure)
        self.cam.set_text("StatusMessage_RBV", str(failure))
        if name in self._settings:
            self.cam.set(name, self._settings[name])

    # ---- acquiring

    def _put_acquire(self, value: int) -> Completion:
        acquiring = bool(self.cam.get("Acquire_RBV"))
        if not value:
            if not acquiring:
                return None
            completion = self._completion()
            if self._held is not None or self._retry is not None:
                self.cam.set("DetectorState_RBV", _IDLE)
                self._end()
            else:
                self._link.send("ACQSTOP", lambda _: None)
            return completion
        if acquiring:
            return self._completion()
        self._rose = time.monotonic()
        self.cam.set("AcquireBusy", 1)
        self.cam.set("Acquire", 1)
        completion = self._completion()
        files = self.files
        if self._link.connected and not (files.connected or files.occupied or self._file_problem()):
            self.cam.set_text("StatusMessage_RBV", "waiting for the frame writer to start")
            self._held = asyncio.get_running_loop().call_later(HOLD, self._begin)
        else:
            self._begin()
        return completion

    def _file_problem(self) -> str:
        return self.files.problem if self.files.group.get("EnableCallbacks") else ""

    def _begin(self) -> None:
        self._release()
        problem = self._obstacle()
        if problem:
            self._fail(problem)
            return
        mode = _IMAGE_MODES[self.cam.get("ImageMode")]
        counts = {"Single": 1, "Continuous": _CONTINUOUS}
        self._images = counts.get(mode, self.cam.get("NumImages"))
        self.cam.clear_alarm()
        self.cam.set("NumImagesCounter_RBV", 0)
        self.cam.set_text("StatusMessage_RBV", "")
        self.cam.set("DetectorState_RBV", _ACQUIRE)
        self._request()

    def _request(self) -> None:
        self._release()
        self._exposure_began = time.monotonic()
        self._accepted = self._ended = self._lost = False
        self._first = self._total
        self._overflows_before = self._overflows
        self.cam.set("OverflowFrames_RBV", 0)
        self._link.send(f"ACQUIRE:{self._images}", self._answered)

    def _release(self) -> None:
        for timer in (self._held, self._retry):
            if timer is not None:
                timer.cancel()
        self._held = self._retry = None

    def _obstacle(self) -> str:
        """Why frames can't be taken now; empty if they can."""
        if not self._link.connected:
            return "no connection to the device server"
        if self.files.occupied:
            return self.files.occupied
        if not self.files.connected:
            return "the frame writer is not connected to the device server"
        if self._file_problem():
            return f"frames would be lost: {self.files.problem}"
        try:
            self.files.prepare()
        except PutRefusedError as error:
            return str(error).rstrip(".")
        return ""

    def _completion(self) -> asyncio.Future[None]:
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        return completion

    def _answered(self, answer: Answer) -> None:
        if isinstance(answer, str):
            if self._ending is not None:
                self._link.send("ACQSTOP", lambda _: None)
            else:
                self._accepted = True
        elif str(answer) in _PASSING and time.monotonic() - self._rose < HOLD:
            if self.cam.get("Acquire_RBV") and self._ending is None:
                self._retry = asyncio.get_running_loop().call_later(_RETRY, self._request)
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
        if self._file_problem():
            if not self._ended:
                self._link.send("ACQSTOP", lambda _: None)
            self._fail(self.files.problem)
        elif self._ended and self._lost:
            # The server may know before the writer's end has come here, which says why.
            if self.files.connected and time.monotonic() - self._ended_at < _REASON_TIMEOUT:
                return
            self._fail("the frame writer lost its connection during the acquisition")
        elif self._ended and self._dead:
            self._fail("the detector delivers no frames")
        elif self._ended and self._total in (self._first, self.files.last_frame + 1):
            if taken and self.image.waits_for(self.files.last_frame):
                return
            self.cam.set("DetectorState_RBV", _IDLE)
            self._tell_lateness()
            self._tell_overflow()
            self._end()

    def _tell_lateness(self) -> None:
        """Say that the light in some frames is younger than their stamps."""
        if not self._late:
            return
        frames = self._total - self._first
        problem = (
            f"{self._late} of {frames} frames were exposed late: they could not be drawn or taken "
            "at this rate"
        )
        _log.warning("%sAcquire: %s", self.cam.prefix, problem)
        self.cam.set_text("StatusMessage_RBV", problem)
        self.status.touch()
        self.status.set_alarm(AlarmStatus.TIMEOUT, AlarmSeverity.MINOR_ALARM)

    def _tell_overflow(self) -> None:
        """Say that photons are missing in some frames, which is worse than lateness."""
        overflows = self.cam.get("OverflowFrames_RBV")
        if not overflows:
            return
        problem = (
            f"{overflows} {'frames' if overflows > 1 else 'frame'} had more photons than an event "
            "frame holds; use dense frames or less light"
        )
        _log.error("%sAcquire: %s", self.cam.prefix, problem)
        self.cam.set_text("StatusMessage_RBV", problem)
        self.status.touch()
        self.status.set_alarm(AlarmStatus.HWLIMIT, AlarmSeverity.MAJOR_ALARM)

    def _count(self, taken: int) -> None:
        before = self.cam.get("NumImagesCounter_RBV")
        if taken > before:
            self.cam.set("NumImagesCounter_RBV", taken)
            self.cam.set("ArrayCounter", self.cam.get("ArrayCounter") + taken - before)
            self._exposure_began = time.monotonic()

    def _fail(self, problem: str) -> None:
        if self._ending is not None:
            return
        _log.error("%sAcquire: %s", self.cam.prefix, problem)
        self.cam.set_text("StatusMessage_RBV", problem)
        self.cam.set("DetectorState_RBV", _ERROR)
        if self._dead and self._link.connected:
            self._alarm_acquisition()
        else:
            status = AlarmStatus.WRITE if self._link.connected else AlarmStatus.COMM
            self.cam.alarm(status, AlarmSeverity.INVALID_ALARM)
        self._release()
        self._accepted = self._ended = False
        self.files.miss_frames(problem)
        failure = PutRefusedError(f"{self.cam.prefix}Acquire: {problem}.")
        left = self._rose + BLINK - time.monotonic()
        if left > 0:
            self._ending = asyncio.get_running_loop().call_later(left, self._end, failure)
        else:
            self._end(failure)

    def _alarm_acquisition(self) -> None:
        """Say that no frames can be had; the settings are as good as ever."""
        for name in ("Acquire", "Acquire_RBV", "DetectorState_RBV"):
            record = self.cam.records[name]
            record.touch()
            record.set_alarm(AlarmStatus.READ, AlarmSeverity.INVALID_ALARM)

    def _end(self, failure: PutRefusedError | None = None) -> None:
        self._release()
        self._ending = None
        self._accepted = self._ended = False
        self.cam.set("TimeRemaining_RBV", 0.0)
        self.cam.set("AcquireBusy", 0)
        self.cam.set("Acquire", 0)
        # Before the client hears of the end: what it does next finds the new settings.
        self._send_deferred()
        waiting, self._waiting = self._waiting, []
        settle(waiting, failure)

    def check(self) -> None:
        """Look at the clock: rates, remaining time, frames that the writer doesn't report."""
        for rate in self._rates:
            rate.update()
        if self.cam.get("Acquire_RBV"):
            gone = (time.monotonic() - self._exposure_began) * self._time_scale
            self.cam.set("TimeRemaining_RBV", max(0.0, self.cam.get("AcquireTime") - gone))
            self._check_end()
        if self._ended and time.monotonic() - self._ended_at > _SAVING_TIMEOUT:
            self._fail(f"frames are missing {_SAVING_TIMEOUT:g} s after the last exposure")

    # ---- news from the frame writer

    def writer_event(self, event: str, details: Mapping[str, Any]) -> None:
        """Take an event of the frame writer."""
        if event == "image":
            self.image.take(details)
        else:
            self.files.writer_event(event, details)
        if self._held is not None and (self.files.connected or self.files.occupied):
            self._begin()
        if event == "connected":
            self.image.begin()
        elif event == "frames" and details["received"]:
            show_newest(self.cam, details["last"], details["time"])
        self._check_end()

    # ---- news from the server

    def mirror(self, values: Mapping[str, str]) -> None:
        """Take new values, by the part of their name behind ``AD1:``; ENERGY is the beam's."""
        if "ENERGY" in values:
            self.cam.set("PhotonEnergy_RBV", float(values["ENERGY"]))
        for setting, name in _SERVER_NAMES.items():
            if name in values and setting not in self._deferred:
                number = float(values[name])
                self.cam.set(setting, number if name in ("EXPOSURE", "PERIOD") else int(number))
        sizes = {name: int(float(values[name])) for name in _SIZES if name in values}
        if sizes:
            self._server_sizes.update(sizes)
            self._show_sizes()
        if "TOTAL" in values:
            self._total = int(float(values["TOTAL"]))
        if "LATE" in values:
            self._late = int(float(values["LATE"]))
            self.cam.set("LateFrames_RBV", self._late)
        if "OVERFLOWS" in values:
            self._overflows = int(float(values["OVERFLOWS"]))
            if self.cam.get("Acquire_RBV"):
                # A server that was started again counts from 0.
                risen = max(0, self._overflows - self._overflows_before)
                self.cam.set("OverflowFrames_RBV", risen)
        if "LOST" in values:
            self._lost = bool(float(values["LOST"]))
        if "FAULT" in values:
            self._dead = bool(float(values["FAULT"]))
            if self._dead:
                self._alarm_acquisition()
            else:
                self.cam.clear_alarm()
        if "ACQUIRING" in values:
            self._server_acquires = float(values["ACQUIRING"]) != 0.0
            self._send_deferred()
        if "ACQUIRING" in values and self._accepted:
            if not self._server_acquires:
                self._ended = True
                self._ended_at = time.monotonic()
                self.cam.set("DetectorState_RBV", _SAVING)
            self._check_end()

    def _show_sizes(self) -> None:
        sizes = self._server_sizes
        if "NX" not in sizes or "NY" not in sizes:
            return
        nx, ny, panels = sizes["NX"], sizes["NY"], sizes["PANELS"]
        for axis, size in (("SizeX", nx), ("SizeY", ny)):
            self.cam.set(axis, size)
            self.cam.set(f"Max{axis}_RBV", size)
        self.cam.set("Panels_RBV", panels)
        shape = (panels, ny, nx) if panels > 1 else (ny, nx)
        dtype = EVENTS if sizes["SPARSE"] else DENSE
        nbytes = 0 if dtype == EVENTS else 2 * math.prod(shape)
        show_array(self.cam, "UInt32" if dtype == EVENTS else "UInt16", shape, nbytes)
        self.files.set_array(dtype, shape, nbytes)

    def link_up(self) -> None:
        """End the alarms, give settings back to a server that forgot them, ask for geometry."""
        if not self._dead:
            self.cam.clear_alarm()
        # What failed because of the connection is over; the next put may do.
        if not self.cam.get("Acquire_RBV"):
            self.cam.set("DetectorState_RBV", _IDLE)
            self.cam.set_text("StatusMessage_RBV", "")
        self.files.restore()
        self.image.group.clear_alarm()
        kept = set(self._deferred)
        self._send_deferred()
        for name, value in tuple(self._settings.items()):
            if name not in kept and self.cam.get(name) != value:
                _log.info("restoring %s%s to %g", self.cam.prefix, name, value)
                self._configure(name, value)
        self._link.send("TRUTH", self._take_geometry)

    def _take_geometry(self, answer: Answer) -> None:
        if not isinstance(answer, str):
            _log.warning("the device server gave no detector geometry: %s", answer)
            return
        truth = json.loads(answer)
        detector = truth["detector"]
        self._time_scale = truth["time_scale"]
        self.cam.set("DetDist_RBV", 1e3 * detector["distance_m"])
        self.cam.set("BeamX_RBV", detector["beam_centre_px"][0])
        self.cam.set("BeamY_RBV", detector["beam_centre_px"][1])
        self.cam.set("XPixelSize_RBV", detector["pixel_m"])
        self.cam.set("YPixelSize_RBV", detector["pixel_m"])

    def lose_link(self) -> None:
        """Raise alarms and end any acquisition."""
        self._server_acquires = False
        self.files.lose_link()
        self.image.group.lose_link()
        if self.cam.get("Acquire_RBV"):
            self._fail("no connection to the device server")
        self.cam.lose_link()


class _Rate:
    """Arrays per second of a plugin, from its counter."""

    def __init__(self, group: RecordGroup, counter: str) -> None:
        self._group = group
        self._counter = counter
        self._count = 0
        self._moment = time.monotonic()

    def update(self) -> None:
        """Show the rate since the last call."""
        count, moment = self._group.get(self._counter), time.monotonic()
        # The counter may have been set back by a client.
        rate = max(0, count - self._count) / max(moment - self._moment, 1e-3)
        self._group.set("ArrayRate_RBV", rate)
        self._count, self._moment = count, moment
