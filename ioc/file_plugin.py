"""The file plugin of the area detector (``HDF1``): records in front of the frame writer."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from ioc.adcore import (
    DISABLE_ENABLE,
    NO_YES,
    OFF_ON,
    add_hdf5_records,
    add_plugin_records,
    show_array,
    show_newest,
)
from ioc.channel import Completion, PutHandler, PutRefusedError
from ioc.fields import CharArray, Double, Enum, Long
from ioc.file_names import file_path
from ioc.frames import EVENTS
from ioc.soft import RecordGroup
from ioc.writer_process import WriterProcess

__all__ = ["BLINK", "HOLD", "FilePlugin"]

_log = logging.getLogger("ioc.file_plugin")

_DONE_CAPTURE = ("Done", "Capture")
_SINGLE, _STREAM = 0, 2
_WRITE_MODES = ("Single", "Capture", "Stream")
_COMPRESSIONS = ("None", "N-bit", "szip", "zlib", "Blosc", "BSLZ4", "LZ4", "JPEG")
_AVAILABLE = ("None", "zlib")
_WRITER_TIMEOUT = 10.0
#: How long a put waits for a frame writer that is being started (s).
HOLD = 10.0
#: How long a refused put shows: longer than clients take between two looks (s).
BLINK = 0.5
#: Largest number of frames in one chunk.
_CHUNK_LIMIT = 1024


class FilePlugin:
    """Records of ``HDF1``, named as ADCore's NDFileHDF5 names them.

    A put with completion to Capture is answered when the file is open, or closed again. It is held
    while the frame writer is being started. Where a file can't be written, WriteStatus and
    WriteMessage say why, all records of the plugin are in alarm, and `problem` keeps frames from
    being taken for it until Capture, FilePath or EnableCallbacks is put. A refused Capture is 1 for
    a moment, as in ADCore: stock clients wait for that. WriteStatus keeps telling of a file that
    lacks frames after Capture has been put to 0, until Capture is put to 1 or FilePath is put.

    Parameters
    ----------
    prefix
        For example ``BL02:AD1:``.
    writer
        Writes the files.
    """

    def __init__(self, prefix: str, writer: WriterProcess) -> None:
        self.group = RecordGroup(f"{prefix}HDF1:")
        self.writer = writer
        self.connected = False
        self.occupied = ""
        self.problem = ""
        self.ready = asyncio.Event()
        self.last_frame = -1
        self.received = 0
        self.dtype = ""
        self.shape: tuple[int, ...] = (0, 0)
        self._reply: asyncio.Future[None] | None = None
        self._asked = "Capture"
        self._single_armed = False
        self._opening = False
        self._reopened = False
        self._patience: asyncio.TimerHandle | None = None
        self._held: asyncio.TimerHandle | None = None
        self._refusal: tuple[asyncio.TimerHandle, str] | None = None
        self._lacking = ""
        self._add_records()

    def _add_records(self) -> None:
        group = self.group
        add_plugin_records(group, "FileHDF1", "NDFileHDF5")
        add_hdf5_records(group)
        group.setting("FilePath", CharArray, "", put=self._put_path)
        group.setting("FileName", CharArray, "frames")
        group.setting("FileTemplate", CharArray, "%s%s_%6.6d.h5")
        group.readback("FullFileName_RBV", CharArray, "")
        group.control("WriteMessage", CharArray, "", read_only=True)
        group.readback("FilePathExists_RBV", Enum, 0, enum_strings=NO_YES)
        group.control(
            "WriteStatus", Enum, 0, read_only=True, enum_strings=("Write OK", "Write error")
        )
        group.setting("FileNumber", Long, 1)
        group.setting("CreateDirectory", Long, 0)
        group.setting("NumCapture", Long, 1, put=self._at_least("NumCapture", 0))
        group.readback("NumCaptured_RBV", Long, 0)
        group.setting("AutoIncrement", Enum, 1, enum_strings=NO_YES)
        group.setting("AutoSave", Enum, 0, enum_strings=NO_YES)
        group.setting("EnableCallbacks", Enum, 1, put=self._put_enable, enum_strings=DISABLE_ENABLE)
        # An acquisition ends when its frames are in the file, and no frame is ever skipped.
        group.fixed(["BlockingCallbacks"], Enum, 1, enum_strings=NO_YES)
        group.fixed(["MinCallbackTime"], Double, 0.0, precision=3, units="s")
        group.setting("LazyOpen", Enum, 0, enum_strings=NO_YES)
        group.setting("Capture", Enum, 0, put=self._put_capture, enum_strings=_DONE_CAPTURE)
        group.setting("FileWriteMode", Enum, _STREAM, put=self._put_mode, enum_strings=_WRITE_MODES)
        group.setting("WriteFile", Enum, 0, put=self._put_write, enum_strings=("Done", "Write"))
        group.setting("Compression", Enum, 0, put=self._put_compression, enum_strings=_COMPRESSIONS)
        group.setting("ZLevel", Long, 1, put=self._at_least("ZLevel", 1, 9))
        group.setting(
            "NumFramesChunks", Long, 1, put=self._at_least("NumFramesChunks", 0, _CHUNK_LIMIT)
        )
        group.setting("NumFramesFlush", Long, 0, put=self._at_least("NumFramesFlush", 0))
        group.control("FlushNow", Enum, 0, put=self._put_flush, enum_strings=("Done", "Flush"))
        group.setting("SWMRMode", Enum, 0, enum_strings=OFF_ON)
        group.readback("SWMRActive_RBV", Enum, 0, enum_strings=("Off", "Active"))
        group.readback("SWMRCbCounter_RBV", Long, 0)
        group.control("RunTime", Double, 0.0, precision=3, units="s", read_only=True)
        group.control("IOSpeed", Double, 0.0, precision=1, units="Mbit/s", read_only=True)

    # ---- puts

    def _put_path(self, value: bytes) -> Completion:
        # The bytes are kept as they are: clients compare the readback with what they put.
        raw = value.split(b"\0")[0]
        self.group.records["FilePath"].set(value)
        self.group.records["FilePath_RBV"].set((raw.rstrip(b"/") + b"/" if raw else b"") + b"\0")
        self.group.set("FilePathExists_RBV", int(bool(raw) and Path(os.fsdecode(raw)).is_dir()))
        self._forget_problem()
        return None

    def _at_least(self, name: str, low: int, high: int = 2**31 - 1) -> PutHandler:
        def put(value: int) -> None:
            if not low <= value <= high:
                raise PutRefusedError(
                    f"{self.group.prefix}{name} can't take {value}: expected {low} to {high}."
                )
            self.group.set(name, value)

        return put

    def _put_enable(self, value: int) -> Completion:
        self.group.set("EnableCallbacks", value)
        self.writer.command(op="enable", value=value)
        # A client begins anew; what became of the last file stays to be seen.
        if not self.group.get("Capture_RBV"):
            self.problem = ""
        return None

    def _put_mode(self, value: int) -> Completion:
        if value not in (_SINGLE, _STREAM):
            raise PutRefusedError(
                f"{self.group.prefix}FileWriteMode can't be Capture: frames are not kept in "
                "memory; expected Single (a file for each) or Stream (one file for all)."
            )
        if self.group.get("Capture_RBV"):
            raise PutRefusedError(
                f"{self.group.prefix}FileWriteMode can't change while a file is open: put "
                "Capture to 0 before."
            )
        self.group.set("FileWriteMode", value)
        return None

    def _put_compression(self, value: int) -> Completion:
        if _COMPRESSIONS[value] not in _AVAILABLE:
            raise PutRefusedError(
                f"{self.group.prefix}Compression can't be {_COMPRESSIONS[value]}: expected one of "
                f"{', '.join(_AVAILABLE)}."
            )
        self.group.set("Compression", value)
        return None

    def _put_flush(self, value: int) -> Completion:
        if value:
            self.writer.command(op="flush")
        return None

    def _put_write(self, value: int) -> Completion:
        """Write the newest frame into a file of its own (FileWriteMode Single)."""
        if not value:
            return None
        where = f"{self.group.prefix}WriteFile"
        if self.group.get("FileWriteMode") != _SINGLE:
            raise PutRefusedError(f"{where}: expected FileWriteMode Single, found Stream.")
        self._check_idle("WriteFile")
        self._clear_problem()
        path = self._next_path("WriteFile")
        return self._ask(
            "WriteFile",
            op="write",
            path=str(path),
            number=self.group.get("FileNumber"),
            layout=self._layout(),
        )

    def _check_idle(self, name: str) -> None:
        if self._reply is not None and not self._reply.done():
            raise PutRefusedError(f"{self.group.prefix}{name} is still at work on the last put.")

    def _put_capture(self, value: int) -> Completion:
        self._end_refusal()
        if self._held is not None and not value:
            self._held.cancel()
            self._held, self._opening = None, False
            self._answer("it was put to 0 before the frame writer was there")
        self._check_idle("Capture")
        if value:
            if self.group.get("Capture_RBV"):
                return None
            return self._start()
        self.problem = ""
        if not self.group.get("Capture_RBV"):
            self.group.set("Capture", 0)
            return None
        return self._ask("Capture", op="close", complete=not self._lacking)

    def _start(self) -> Completion:
        self._clear_problem()
        loop = asyncio.get_running_loop()
        reply = self._reply = loop.create_future()
        self._opening, self._reopened = True, False
        self.group.records["Capture"].set(1)
        if self.connected or self.occupied:
            self._open()
        else:
            self._held = loop.call_later(HOLD, self._open)
        return reply

    def _open(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None
        where = f"{self.group.prefix}Capture: "
        try:
            if self.group.get("FileWriteMode") != _STREAM:
                raise PutRefusedError(f"{where}expected FileWriteMode Stream, found Single.")
            path = self._next_path("Capture")
        except PutRefusedError as error:
            self._fail(str(error).removeprefix(where))
            return
        self.group.set("NumCaptured_RBV", 0)
        self.group.set("DroppedArrays", 0)
        self.group.set("SWMRCbCounter_RBV", 0)
        self._single_armed = False
        self._ask(
            "Capture",
            op="open",
            path=str(path),
            lazy=self.group.get("LazyOpen"),
            limit=self.group.get("NumCapture"),
            flush=self.group.get("NumFramesFlush"),
            layout=self._layout(),
        )

    def _layout(self) -> dict[str, Any]:
        compressed = _COMPRESSIONS[self.group.get("Compression")] == "zlib"
        return {
            "dtype": self.dtype,
            "shape": self.shape,
            "level": self.group.get("ZLevel") if compressed else 0,
            "chunk": max(1, self.group.get("NumFramesChunks")),
            "swmr": bool(self.group.get("SWMRMode")),
        }

    def prepare(self) -> None:
        """Get ready for an acquisition: in Single mode, with AutoSave, each frame gets a file.

        Raises
        ------
        PutRefusedError
            If files can't be written.
        """
        group = self.group
        single = group.get("FileWriteMode") == _SINGLE and bool(group.get("AutoSave"))
        if not single or not group.get("EnableCallbacks"):
            if self._single_armed:
                self.writer.command(op="single", template="")
                self._single_armed = False
            return
        self._clear_problem()
        self._next_path("Acquire")
        self._single_armed = True
        self.writer.command(
            op="single",
            template=group.text("FileTemplate"),
            directory=group.text("FilePath_RBV"),
            name=group.text("FileName"),
            number=group.get("FileNumber"),
            increment=group.get("AutoIncrement"),
            layout=self._layout(),
        )

    def _next_path(self, put: str) -> Path:
        directory = self.group.text("FilePath_RBV")
        where = f"{self.group.prefix}{put}"
        if not directory.startswith("/"):
            raise PutRefusedError(f"{where}: FilePath must be absolute, found {directory!r}.")
        if not self.connected:
            reason = self.occupied or "the frame writer gets no frames from the server"
            raise PutRefusedError(f"{where}: {reason}.")
        folder = Path(directory)
        try:
            path = file_path(
                self.group.text("FileTemplate"),
                directory,
                self.group.text("FileName"),
                self.group.get("FileNumber"),
            )
        except ValueError as error:
            raise PutRefusedError(f"{where}: {error}.") from None
        depth = abs(self.group.get("CreateDirectory"))
        try:
            missing = sum(not parent.exists() for parent in (folder, *folder.parents))
            if 0 < missing <= depth:
                folder.mkdir(parents=True, exist_ok=True)
            if not folder.is_dir():
                raise PutRefusedError(f"{where}: the directory {directory} does not exist.")
        except OSError as error:
            raise PutRefusedError(
                f"{where}: can't create the directory {directory}: {error.strerror}."
            ) from None
        self.group.set("FilePathExists_RBV", 1)
        return path

    def _ask(self, put: str, **command: Any) -> Completion:
        loop = asyncio.get_running_loop()
        if self._reply is None or self._reply.done():
            self._reply = loop.create_future()
        reply = self._reply
        self._asked = put
        if not self.writer.command(**command):
            self._fail("the frame writer is not running")
            return reply
        timer = loop.call_later(_WRITER_TIMEOUT, self._fail, "the frame writer does not answer")
        self._patience = timer
        reply.add_done_callback(lambda _: timer.cancel())
        return reply

    # ---- what the writer reports

    def writer_event(self, event: str, details: Mapping[str, Any]) -> None:
        """Take an event of the frame writer."""
        group = self.group
        if event == "connected":
            self.connected = True
            self.occupied = ""
            self.last_frame = -1  # a new server numbers anew
            self.ready.set()
            self.writer.command(op="enable", value=group.get("EnableCallbacks"))
            self.restore()
            if self._held is not None:
                self._open()
        elif event == "disconnected":
            self.connected = False
        elif event == "refused":
            self._refused(details["reason"])
        elif event == "armed":
            self._opening = False
            group.set("Capture", 1)
            self._answer()
        elif event == "opened":
            self._opening = False
            group.set("Capture", 1)
            group.set("SWMRActive_RBV", int(details["swmr"]))
            self._named(details["path"], group.get("FileNumber"))
            self._answer()
        elif event == "written":
            self._named(details["path"], details["number"])
            self._answer()
        elif event == "closed":
            group.set("RunTime", details["seconds"])
            group.set("IOSpeed", 8e-6 * details["nbytes"] / max(details["seconds"], 1e-6))
            group.set("SWMRActive_RBV", 0)
            if self._lacking and details["path"] and not details["complete"]:
                self._show_failure(f"{details['path']} is incomplete: {self._lacking}")
            self._lacking = ""
            group.set("Capture", 0)
            self._answer()
        elif event == "frames":
            self._count(details)
        elif event == "failed":
            self._fail(details["message"])
        elif event == "died":
            self.connected = False
            if self._opening and self._held is None and not self._reopened:
                # It was dead already when it was asked; the next one may do.
                self._reopened = True
                if self._patience is not None:
                    self._patience.cancel()
                self._held = asyncio.get_running_loop().call_later(HOLD, self._open)
            elif self._held is None and (group.get("Capture") or self._reply is not None):
                self._fail(details["message"])
            else:
                group.set_text("WriteMessage", details["message"])
                group.alarm(AlarmStatus.COMM, AlarmSeverity.INVALID_ALARM)

    def _refused(self, reason: str) -> None:
        if reason != self.occupied:
            _log.error("%s: %s", self.group.prefix.rstrip(":"), reason)
        self.occupied = reason
        self.group.set_text("WriteMessage", reason)
        self.group.alarm(AlarmStatus.COMM, AlarmSeverity.INVALID_ALARM)

    def _named(self, path: str, number: int) -> None:
        self.group.set_text("FullFileName_RBV", path)
        if self.group.get("AutoIncrement"):
            self.group.set("FileNumber", number + 1)

    def _count(self, details: Mapping[str, Any]) -> None:
        group = self.group
        self.last_frame = details["last"]
        self.received += details["received"]
        group.set("ArrayCounter", group.get("ArrayCounter") + details["received"])
        group.set("NumCaptured_RBV", details["captured"])
        group.set("DroppedArrays", details["dropped"])
        if group.get("SWMRActive_RBV"):
            group.set("SWMRCbCounter_RBV", group.get("SWMRCbCounter_RBV") + 1)
        if details["received"]:
            show_newest(group, details["last"], details["time"])

    def _answer(self, problem: str = "") -> None:
        reply, self._reply = self._reply, None
        if reply is None or reply.done():
            return
        if problem:
            reply.set_exception(PutRefusedError(f"{self.group.prefix}{self._asked}: {problem}."))
            reply.exception()
        else:
            reply.set_result(None)

    def _fail(self, problem: str) -> None:
        self.problem = problem.rstrip(".")
        self.group.set("SWMRActive_RBV", 0)
        self._show_failure(problem)
        if self._opening:
            self._opening = False
            self.group.set("Capture", 1)
            timer = asyncio.get_running_loop().call_later(BLINK, self._end_refusal)
            self._refusal = (timer, self.problem)
        elif self._refusal is not None:
            self._end_refusal()
        else:
            self.group.set("Capture", 0)
            self._answer(self.problem)

    def _end_refusal(self) -> None:
        if self._refusal is None:
            return
        (timer, problem), self._refusal = self._refusal, None
        timer.cancel()
        self.group.set("Capture", 0)
        self._answer(problem)

    def _show_failure(self, problem: str) -> None:
        _log.error("%s: %s", self.group.prefix.rstrip(":"), problem)
        self.group.set("WriteStatus", 1)
        self.group.set_text("WriteMessage", problem)
        self.group.alarm(AlarmStatus.WRITE, AlarmSeverity.INVALID_ALARM)

    def miss_frames(self, reason: str) -> None:
        """Take notice that an acquisition failed: a file that is open lacks frames."""
        if self.group.get("Capture_RBV") and self.group.get("EnableCallbacks"):
            self._lacking = self._lacking or reason

    def _clear_problem(self) -> None:
        self.problem = self._lacking = ""
        self.group.set("WriteStatus", 0)
        self.restore()

    def _forget_problem(self) -> None:
        if not self.group.get("Capture_RBV"):
            self._clear_problem()

    def restore(self) -> None:
        """End the alarm, if frames come and nothing stands against writing them."""
        if self.connected and not self.group.get("WriteStatus"):
            self.group.set_text("WriteMessage", "")
            self.group.clear_alarm()

    def set_array(self, dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
        """Tell what frames are like."""
        self.dtype, self.shape = dtype, shape
        show_array(self.group, "UInt32" if dtype == EVENTS else "UInt16", shape, nbytes)

    def lose_link(self) -> None:
        """Put all records into alarm: the device server is gone."""
        self.group.lose_link()
