"""The file plugin of the area detector (``HDF1``): records in front of the frame writer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from ioc.channel import Completion, PutRefusedError
from ioc.fields import CharArray, Enum, Long, String
from ioc.soft import RecordGroup
from ioc.writer_process import WriterProcess

__all__ = ["FilePlugin"]

_log = logging.getLogger("ioc.file_plugin")

_NO_YES = ("No", "Yes")
_DONE_CAPTURE = ("Done", "Capture")
_COMPRESSIONS = ("None", "N-bit", "szip", "zlib")
_WRITER_COMPRESSIONS = {"None": "none", "zlib": "gzip"}
_WRITER_TIMEOUT = 10.0


class FilePlugin:
    """Records of ``HDF1``, named as ADCore names them.

    A put with completion to Capture is answered when the file is open, or closed again. Where a
    file can't be written, WriteStatus and WriteMessage say why, all records of the plugin are in
    alarm, and `problem` keeps frames from being taken for it until Capture is put again.

    Parameters
    ----------
    prefix
        For example ``BL02:AD1:``.
    host, port
        Address of the device server.
    on_progress
        Called when the writer has reported something.
    """

    def __init__(self, prefix: str, host: str, port: int, on_progress: Callable[[], None]) -> None:
        self.group = RecordGroup(f"{prefix}HDF1:")
        self.writer = WriterProcess(host, port, self)
        self.connected = False
        self.problem = ""
        self.ready = asyncio.Event()
        self.last_frame = -1
        self.shape = (0, 0)
        self._on_progress = on_progress
        self._reply: asyncio.Future[None] | None = None
        self._add_records()

    def _add_records(self) -> None:
        group = self.group
        group.setting("FilePath", CharArray, "", put=self._put_path)
        group.setting("FileName", CharArray, "frames")
        group.setting("FileTemplate", CharArray, "%s%s_%6.6d.h5")
        group.readback("FullFileName_RBV", CharArray, "")
        group.readback("WriteMessage", CharArray, "")
        group.readback("FilePathExists_RBV", Enum, 0, enum_strings=_NO_YES)
        group.readback("WriteStatus", Enum, 0, enum_strings=("Write OK", "Write error"))
        group.setting("FileNumber", Long, 1)
        group.setting("CreateDirectory", Long, 0)
        group.setting("NumCapture", Long, 1, put=self._put_num_capture)
        group.readback("NumCaptured_RBV", Long, 0)
        group.setting("ArrayCounter", Long, 0)
        group.setting("DroppedArrays", Long, 0)
        group.setting("AutoIncrement", Enum, 1, enum_strings=_NO_YES)
        group.setting("AutoSave", Enum, 0, enum_strings=_NO_YES)
        group.setting("EnableCallbacks", Enum, 1, enum_strings=("Disable", "Enable"))
        group.setting("BlockingCallbacks", Enum, 1, enum_strings=_NO_YES)
        group.setting("LazyOpen", Enum, 1, enum_strings=_NO_YES)
        group.setting("Capture", Enum, 0, put=self._put_capture, enum_strings=_DONE_CAPTURE)
        group.setting(
            "FileWriteMode", Enum, 2, put=self._put_mode,
            enum_strings=("Single", "Capture", "Stream"),
        )  # fmt: skip
        group.setting("Compression", Enum, 0, put=self._put_compression, enum_strings=_COMPRESSIONS)
        group.setting("NDArrayPort", String, "AD1")
        group.readback("PortName_RBV", String, "FileHDF1")
        group.readback("PluginType_RBV", String, "NDFileHDF5")
        for axis in range(3):
            group.readback(f"ArraySize{axis}_RBV", Long, 0)

    # ---- puts

    def _put_path(self, value: bytes) -> Completion:
        text = value.split(b"\0")[0].decode("utf-8", "replace")
        self.group.records["FilePath"].set(value)
        self.group.records["FilePath_RBV"].set(
            (text.rstrip("/") + "/" if text else "").encode() + b"\0"
        )
        self.group.set("FilePathExists_RBV", int(Path(text).is_dir()) if text else 0)
        return None

    def _put_num_capture(self, value: int) -> Completion:
        if value < 0:
            raise PutRefusedError(
                f"{self.group.prefix}NumCapture can't take {value}: expected 0 (until Capture is "
                "put to 0) or more."
            )
        self.group.set("NumCapture", value)
        return None

    def _put_mode(self, value: int) -> Completion:
        if value != 2:
            raise PutRefusedError(f"{self.group.prefix}FileWriteMode: only Stream is available.")
        return None

    def _put_compression(self, value: int) -> Completion:
        if _COMPRESSIONS[value] not in _WRITER_COMPRESSIONS:
            raise PutRefusedError(
                f"{self.group.prefix}Compression can't be {_COMPRESSIONS[value]}: expected one of "
                f"{', '.join(_WRITER_COMPRESSIONS)}."
            )
        self.group.set("Compression", value)
        return None

    def _put_capture(self, value: int) -> Completion:
        if self._reply is not None and not self._reply.done():
            raise PutRefusedError(f"{self.group.prefix}Capture is still at work on the last put.")
        if value:
            if self.group.get("Capture_RBV"):
                return None
            return self._start()
        self._clear_problem()
        if not self.group.get("Capture_RBV"):
            self.group.set("Capture", 0)
            return None
        return self._ask(op="close")

    def _start(self) -> Completion:
        self._clear_problem()
        try:
            path = self._next_path()
        except PutRefusedError as error:
            self._fail(str(error).removeprefix(f"{self.group.prefix}Capture: "))
            raise
        self.group.set("NumCaptured_RBV", 0)
        self.group.set("DroppedArrays", 0)
        self.group.records["Capture"].set(1)
        return self._ask(
            op="open",
            path=str(path),
            shape=self.shape,
            compression=_WRITER_COMPRESSIONS[_COMPRESSIONS[self.group.get("Compression")]],
            limit=self.group.get("NumCapture"),
        )

    def _next_path(self) -> Path:
        directory = self.group.text("FilePath_RBV")
        template = self.group.text("FileTemplate")
        name, number = self.group.text("FileName"), self.group.get("FileNumber")
        where = f"{self.group.prefix}Capture"
        if not directory.startswith("/"):
            raise PutRefusedError(f"{where}: FilePath must be absolute, found {directory!r}.")
        if not self.connected:
            raise PutRefusedError(f"{where}: the frame writer gets no frames from the server.")
        folder = Path(directory)
        try:
            # As with ADCore's printf, a template may leave out the last of the three.
            taken = template.replace("%%", "").count("%")
            path = Path(template % (directory, name, number)[:taken])
        except (TypeError, ValueError) as error:
            raise PutRefusedError(
                f"{where}: FileTemplate {template!r} must take path, name and number: {error}."
            ) from None
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

    def _ask(self, **command: Any) -> Completion:
        if not self.writer.command(**command):
            self._fail("the frame writer is not running")
            raise PutRefusedError(f"{self.group.prefix}Capture: the frame writer is not running.")
        loop = asyncio.get_running_loop()
        reply = self._reply = loop.create_future()
        timer = loop.call_later(_WRITER_TIMEOUT, self._fail, "the frame writer does not answer")
        reply.add_done_callback(lambda _: timer.cancel())
        return reply

    # ---- what the writer reports

    def writer_event(self, event: str, details: Mapping[str, Any]) -> None:
        """Take an event of the frame writer."""
        group = self.group
        if event == "connected":
            self.connected = True
            self.last_frame = -1  # a new server numbers anew
            self.ready.set()
            self.restore()
        elif event == "disconnected":
            self.connected = False
        elif event == "opened":
            group.set_text("FullFileName_RBV", details["path"])
            group.set("Capture", 1)
            if group.get("AutoIncrement"):
                group.set("FileNumber", group.get("FileNumber") + 1)
            self._answer()
        elif event == "closed":
            group.set("Capture", 0)
            self._answer()
        elif event == "frames":
            self.last_frame = details["last"]
            self._count(details["captured"], details["dropped"])
        elif event == "failed":
            self._fail(details["message"])
        elif event == "died":
            self.connected = False
            if group.get("Capture") or self._reply is not None:
                self._fail(details["message"])
            else:
                group.set_text("WriteMessage", details["message"])
                group.alarm(AlarmStatus.COMM, AlarmSeverity.INVALID_ALARM)
        self._on_progress()

    def _count(self, captured: int, dropped: int) -> None:
        before = self.group.get("NumCaptured_RBV")
        if captured > before:
            self.group.set("ArrayCounter", self.group.get("ArrayCounter") + captured - before)
        self.group.set("NumCaptured_RBV", captured)
        self.group.set("DroppedArrays", dropped)

    def _answer(self, problem: str = "") -> None:
        reply, self._reply = self._reply, None
        if reply is None or reply.done():
            return
        if problem:
            reply.set_exception(PutRefusedError(f"{self.group.prefix}Capture: {problem}."))
            reply.exception()
        else:
            reply.set_result(None)

    def _fail(self, problem: str) -> None:
        _log.error("%s%s", self.group.prefix, problem)
        self.problem = problem.rstrip(".")
        self.group.set("WriteStatus", 1)
        self.group.set_text("WriteMessage", problem)
        self.group.set("Capture", 0)
        self.group.alarm(AlarmStatus.WRITE, AlarmSeverity.INVALID_ALARM)
        self._answer(self.problem)
        self._on_progress()

    def _clear_problem(self) -> None:
        self.problem = ""
        self.group.set("WriteStatus", 0)
        self.restore()

    def restore(self) -> None:
        """End the alarm, if frames come and nothing stands against writing them."""
        if self.connected and not self.problem:
            self.group.set_text("WriteMessage", "")
            self.group.clear_alarm()

    def set_shape(self, shape: tuple[int, int]) -> None:
        """Tell the size of the frames, ``(ny, nx)``."""
        self.shape = shape
        self.group.set("ArraySize0_RBV", shape[1])
        self.group.set("ArraySize1_RBV", shape[0])

    def lose_link(self) -> None:
        """Put all records into alarm: the device server is gone."""
        self.group.lose_link()
