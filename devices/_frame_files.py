"""The files of an area detector: opened, closed and described to bluesky."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from event_model import compose_stream_resource
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO
from ophyd.utils.epics_pvs import AlarmStatus

from beamline.core.errors import ConfigurationError, DetectorError
from devices._channel_access import Sample
from devices._signals import INVALID, FreshSignal, FreshSignalRO, answers, get, read_many

__all__ = ["FrameFiles"]

#: Seconds that opening and closing a file may take.
_FILE_TIMEOUT = 10.0


class FrameFiles(Device):
    """The file writer (``HDF1:``) of `devices.AreaDetector`; the camera is the detector's own."""

    #: Where the file writer puts the frames, and their type.
    dataset = "/entry/data/data"
    dtype_numpy = "<u2"
    #: Where it puts sparse frames.
    event_index = "/entry/events/event_index"
    event_id = "/entry/events/event_id"

    image_mode: Any
    num_images: Any
    array_counter: Any
    panels: Any
    size_x: Any
    size_y: Any
    sparse: Any
    image_key: Any

    file_path = Cpt(EpicsSignal, "HDF1:FilePath", kind="omitted", string=True)
    file_path_exists = Cpt(FreshSignalRO, "HDF1:FilePathExists_RBV", kind="omitted")
    file_name = Cpt(EpicsSignal, "HDF1:FileName", kind="omitted", string=True)
    file_template = Cpt(EpicsSignal, "HDF1:FileTemplate", kind="omitted", string=True)
    full_file_name = Cpt(EpicsSignalRO, "HDF1:FullFileName_RBV", kind="omitted", string=True)
    file_write_mode = Cpt(EpicsSignal, "HDF1:FileWriteMode", kind="omitted", string=True)
    lazy_open = Cpt(EpicsSignal, "HDF1:LazyOpen", kind="omitted", string=True)
    enable_callbacks = Cpt(EpicsSignal, "HDF1:EnableCallbacks", kind="omitted")
    num_capture = Cpt(EpicsSignal, "HDF1:NumCapture", kind="omitted")
    num_captured = Cpt(FreshSignalRO, "HDF1:NumCaptured_RBV", kind="omitted")
    capture = Cpt(FreshSignal, "HDF1:Capture_RBV", write_pv="HDF1:Capture", kind="omitted")
    dropped = Cpt(FreshSignalRO, "HDF1:DroppedArrays_RBV", kind="omitted")
    write_status = Cpt(FreshSignalRO, "HDF1:WriteStatus", kind="omitted")
    write_message = Cpt(EpicsSignalRO, "HDF1:WriteMessage", kind="omitted", string=True)

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        self.directory: Path | None = None
        self._captured = 0
        self._new_row: int | None = None
        self._resource: Any = None
        self._resource_is_new = False
        super().__init__(prefix, name=name, **kwargs)

    def _open_file(self, frames: int) -> None:
        if self.directory is None:
            raise ConfigurationError(
                f"{self.name} has no folder for its frames: set {self.name}.directory, or give "
                "frames_dir to Beamline."
            )
        directory = self.directory.absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot make the folder {directory} for the frames of {self.name}: "
                f"{error.strerror}; set {self.name}.directory to another."
            ) from None
        moment = time.strftime("%Y%m%d_%H%M%S")
        for signal, value in (
            (self.file_path, f"{directory}/"),
            (self.file_name, f"{self.name}_{moment}_{uuid.uuid4().hex[:8]}"),
            (self.file_template, "%s%s.h5"),
            (self.file_write_mode, "Stream"),
            (self.lazy_open, "No"),
            (self.num_capture, 0),
            (self.enable_callbacks, 1),
            (self.image_mode, "Multiple"),
            (self.num_images, frames),
            (self.array_counter, 0),
        ):
            self._put(signal, value)
        (exists,) = read_many([self.file_path_exists])
        if not exists.value:
            raise ConfigurationError(
                f"the IOC of {self.prefix} cannot write to {directory} "
                f"({self.file_path_exists.pvname} is 0): choose a folder that it sees."
            )
        self._switch_capture(1)
        path = get(self.full_file_name)
        shape = self._frame_shape()
        parameters: dict[str, Any] = {"dataset": self.dataset, "chunk_shape": [1, *shape]}
        if self._is_sparse():
            parameters = {
                "dataset": self.event_index,
                "chunk_shape": [1024],
                "event_id": self.event_id,
                "frame_shape": shape,
            }
        self._resource = compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{quote(path)}",
            data_key=self.image_key,
            parameters=parameters,
        )
        self._resource_is_new = True
        self._captured = 0
        self._new_row = None

    def _close_file(self) -> None:
        (captured, dropped) = read_many([self.num_captured, self.dropped])
        self._switch_capture(0)
        if captured.value != self._captured or dropped.value:
            raise DetectorError(
                f"the file of {self.name} holds {captured.value} frames where {self._captured} "
                f"were taken, {dropped.value} were dropped ({self.num_captured.pvname}, "
                f"{self.dropped.pvname})."
            )

    def _frame_shape(self) -> list[int]:
        panels = int(get(self.panels))
        return [*([panels] if panels > 1 else []), int(get(self.size_y)), int(get(self.size_x))]

    def _is_sparse(self) -> bool:
        return str(get(self.sparse)) == "Events"

    def _put(self, signal: Any, value: Any) -> None:
        with answers(f"{self.name} cannot be set up: {signal.pvname} cannot be written"):
            signal.put(value, wait=True, timeout=_FILE_TIMEOUT)

    def _switch_capture(self, wanted: int) -> None:
        # ADCore completes this put when the capture ends, so completion is not waited for.
        with answers(f"{self.capture.setpoint_pvname} cannot be written"):
            self.capture.put(wanted, use_complete=False, force=True)
        deadline = time.monotonic() + _FILE_TIMEOUT
        while True:
            capturing, status = read_many([self.capture, self.write_status])
            if status.value or status.severity >= INVALID:
                raise DetectorError(
                    f"the file writer of {self.name} reports: {self._write_problem(status)}."
                )
            if capturing.value == wanted:
                return
            if time.monotonic() > deadline:
                raise DetectorError(
                    f"the file writer of {self.name} did not {'open' if wanted else 'close'} its "
                    f"file within {_FILE_TIMEOUT:g} s ({self.capture.pvname})."
                )
            time.sleep(0.005)

    def _write_problem(self, status: Sample) -> str:
        message = str(get(self.write_message))
        if message:
            problem = repr(message)
        elif status.status == AlarmStatus.COMM:
            problem = "the IOC has lost its connection to the device server"
        else:
            problem = "no reason given"
        return f"{problem} ({self.write_status.pvname}, alarm {status.alarm})"
