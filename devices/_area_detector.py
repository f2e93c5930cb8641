"""The area detector: frames in an HDF5 file of the IOC's file writer, referenced by documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO

from beamline.core.errors import DetectorError
from devices._channel_access import Sample
from devices._frame_files import FrameFiles
from devices._frame_series import FrameSeries
from devices._operation import Operation
from devices._signals import (
    INVALID,
    ChoiceSignal,
    FreshSignal,
    FreshSignalRO,
    VerifiedSignal,
    get,
    read_many,
)

__all__ = ["AreaDetector"]

#: Seconds that a frame may take beyond its exposure and period.
_GRACE = 10.0


def _setting(suffix: str, **kwargs: Any) -> Any:
    return Cpt(VerifiedSignal, f"{suffix}_RBV", write_pv=suffix, kind="config", **kwargs)


def _choice(suffix: str) -> Any:
    return Cpt(ChoiceSignal, f"{suffix}_RBV", write_pv=suffix, kind="config")


def _fact(suffix: str, **kwargs: Any) -> Any:
    return Cpt(EpicsSignalRO, suffix, kind="config", **kwargs)


class AreaDetector(FrameSeries, FrameFiles):
    """Camera (``cam1:``) and file writer (``HDF1:``) of one ADCore detector.

    Every ``trigger`` takes its frames into a file that is open until the detector is unstaged.
    Events refer to them by ``stream_resource`` and ``stream_datum``: datum i is row i of the data
    set, or rows i·n to (i+1)·n with n frames per event. The counters of camera and file are
    compared for every event, so that a lost frame fails the run.

    A series of frames is taken without a gap by flying: ``prepare(number)``, ``kickoff``,
    ``complete``; each ``collect`` then refers to the frames that have reached the file since.

    Sparse frames (``sparse`` is ``Events``) have a stream resource whose ``dataset`` is the
    ``event_index`` of an NXevent_data group: row i is the place in ``event_id`` (a parameter) of
    the first photon of frame i, whose photons end where those of frame i + 1 begin. A photon is
    the flat index of its pixel in ``frame_shape`` (a parameter), in C order.

    Attributes
    ----------
    directory : Path or None
        Folder for the files, as the IOC sees it; made if it is missing.
    frames_per_event : int
        Frames that one ``trigger`` takes; set it before staging.
    sim_mode, sparse, preload
        What the simulated detector sees, whether frames are pixels (``Dense``) or photons
        (``Events``), and how many frames are drawn once and repeated (0: none).
    panels
        Panels of a frame; more than one make it a stack.
    exposure, period
        Exposure time and shortest time between frames (s).
    late_frames
        Frames of the last acquisition that were exposed later than their time stamps say, because
        the simulation or its consumer could not keep up.
    overflow_frames
        Sparse frames of the last acquisition that lack photons, because an event frame holds half a
        photon per pixel at most; ``trigger`` fails with any. The file keeps them.
    distance, beam_x, beam_y, pixel_x, pixel_y, photon_energy
        Geometry as the IOC states it: mm, pixels (fs, ss), m, eV.
    """

    exposure = _setting("cam1:AcquireTime", units="s", limits=True)
    period = _setting("cam1:AcquirePeriod", units="s")
    sim_mode = _choice("cam1:SimMode")
    sparse = _choice("cam1:Sparse")
    preload = _setting("cam1:Preload")
    panels = _fact("cam1:Panels_RBV")
    distance = _fact("cam1:DetDist_RBV")
    beam_x = _fact("cam1:BeamX_RBV")
    beam_y = _fact("cam1:BeamY_RBV")
    pixel_x = _fact("cam1:XPixelSize_RBV")
    pixel_y = _fact("cam1:YPixelSize_RBV")
    photon_energy = _fact("cam1:PhotonEnergy_RBV")
    manufacturer = _fact("cam1:Manufacturer_RBV", string=True)
    model = _fact("cam1:Model_RBV", string=True)

    acquire = Cpt(FreshSignal, "cam1:Acquire", kind="omitted")
    image_mode = Cpt(EpicsSignal, "cam1:ImageMode", kind="omitted", string=True)
    num_images = Cpt(EpicsSignal, "cam1:NumImages", kind="omitted")
    array_counter = Cpt(
        FreshSignal, "cam1:ArrayCounter_RBV", write_pv="cam1:ArrayCounter", kind="omitted"
    )
    late_frames = Cpt(EpicsSignalRO, "cam1:LateFrames_RBV", kind="omitted")
    overflow_frames = Cpt(FreshSignalRO, "cam1:OverflowFrames_RBV", kind="omitted")
    status_message = Cpt(EpicsSignalRO, "cam1:StatusMessage_RBV", kind="omitted", string=True)
    size_x = Cpt(EpicsSignalRO, "cam1:SizeX_RBV", kind="omitted")
    size_y = Cpt(EpicsSignalRO, "cam1:SizeY_RBV", kind="omitted")

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        self.frames_per_event = 1
        self._operation: Operation | None = None
        self._armed = False
        super().__init__(prefix, name=name, **kwargs)

    @property
    def simulated(self) -> bool:
        """Whether the detector calls itself simulated (``cam1:Manufacturer_RBV``).

        Raises
        ------
        ConnectionLostError
            If the IOC doesn't say.
        """
        return "simulated" in str(get(self.manufacturer)).lower()

    @property
    def image_key(self) -> str:
        """Data key of the frames."""
        return f"{self.name}_image"

    def stage(self) -> list[object]:
        """Get ready; the file is opened by the first `trigger`.

        bluesky's own plans stage the whole beamline for any of its detectors, and a scan of the
        counters must not leave an empty file behind.
        """
        staged: list[object] = super().stage()
        self._armed = True
        return staged

    def trigger(self) -> Operation:
        """Take one frame.

        Returns
        -------
        Operation
            Done when the frame is in the file. It fails with `DetectorError` if camera and file
            disagree about it or a sparse frame lacks photons, with `ConnectionLostError` if the IOC
            goes away.

        Raises
        ------
        DetectorError
            If the detector is not staged, or the file writer does not open a file.
        ConfigurationError
            If `directory` is not set or the IOC can't see it.
        ConnectionLostError
            If the IOC doesn't answer.
        """
        if not self._armed:
            raise DetectorError(f"{self.name} was triggered but is not staged: stage it first.")
        if self._series:
            raise DetectorError(f"{self.name} was triggered but is set up for a series of frames.")
        if self._resource is None:
            self._open_file(self.frames_per_event)
        self._new_row = None
        exposure, period = (s.value for s in read_many([self.exposure, self.period]))
        duration = exposure + period + (self.frames_per_event - 1) * max(exposure, period)
        what = f"frame {self._captured} of {self.acquire.pvname}"
        return self._take(what, duration + _GRACE, self._acquiring)

    def _take(self, what: str, seconds: float, busy: Callable[[float], bool]) -> Operation:
        self._operation = Operation(
            self,
            what,
            timeout_after=seconds,
            busy=busy,
            channels=[signal.channel for signal in self._outcome()],
            verify=self._verify,
            error=DetectorError,
            on_timeout=self._put_stop,
        )
        return self._operation.begin(self.acquire, 1)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Describe the frames: type, shape (panels, ss, fs), and that they are in another file."""
        description: dict[str, dict[str, Any]] = super().describe()
        frames = self.frames_per_event
        description[self.image_key] = {
            "source": f"PV:{self.prefix}cam1:",
            "dtype": "array",
            "dtype_numpy": "<u4" if self._is_sparse() else self.dtype_numpy,
            "shape": [*([frames] if frames > 1 else []), *self._frame_shape()],
            "external": "STREAM:",
            "units": "counts",
        }
        return description

    def collect_asset_docs(
        self,
        index: int | None = None,  # noqa: ARG002  (bluesky's protocol; one datum per event here)
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents that refer to the frame just taken.

        Raises
        ------
        DetectorError
            If there is none: an event without its frame would go unnoticed.
        """
        if self._series:
            yield from self._refer_to_series()
            return
        if self._new_row is None:
            raise DetectorError(f"{self.name} was read without a new frame: trigger it first.")
        row, self._new_row = self._new_row, None
        if self._resource_is_new:
            self._resource_is_new = False
            yield "stream_resource", self._resource.stream_resource_doc
        yield (
            "stream_datum",
            self._resource.compose_stream_datum(indices={"start": row, "stop": row + 1}),
        )

    def get_index(self) -> int:
        """Return the number of events whose frames are in the file."""
        return self._captured // self.frames_per_event

    def stop(self, *, success: bool = False) -> None:
        """End a frame of ours that is still being taken; it fails unless `success`."""
        if self._operation is not None and self._operation.end_early(success=success):
            self._put_stop()

    def pause(self) -> None:
        """End the frame when a plan is paused: the point is taken again, in another row."""
        self.stop(success=True)

    def unstage(self) -> list[object]:
        """Close the file.

        Raises
        ------
        DetectorError
            If the file writer does not close it or lost frames.
        """
        self.stop()
        self._armed = False
        self._series = 0
        open_file, self._resource = self._resource, None
        try:
            if open_file is not None:
                self._close_file()
        except DetectorError:
            # The frame that failed has said why already.
            operation = self._operation
            if operation is None or not operation.done or operation.exception(0) is None:
                raise
        finally:
            unstaged: list[object] = super().unstage()
        return unstaged

    def _put_stop(self) -> None:
        if self.acquire.connected:
            self.acquire.put(0, use_complete=False, force=True)

    def _acquiring(self, timeout: float) -> bool:
        (acquire,) = read_many([self.acquire], timeout)
        return bool(acquire.value)

    def _outcome(self) -> list[Any]:
        return [
            self.acquire, self.array_counter, self.num_captured, self.dropped, self.write_status,
            self.overflow_frames,
        ]  # fmt: skip

    def _verify(self, operation: Operation, samples: list[Sample]) -> None:
        acquire, taken, captured, dropped, status, overflows = samples
        before, self._captured = self._captured, int(captured.value)
        if status.value or status.severity >= INVALID:
            raise DetectorError(f"{operation.what} was not written: {self._write_problem(status)}.")
        if acquire.severity >= INVALID:
            raise DetectorError(
                f"{operation.what} was not taken: {self.acquire.pvname} is in alarm, "
                f"{acquire.alarm}: {get(self.status_message) or 'no reason given'}."
            )
        if operation.stopped:
            if operation.stop_is_success:
                return
            raise DetectorError(f"{operation.what} was stopped before its end.")
        expected = before + (self._series or self.frames_per_event)
        if (
            captured.value != expected
            or before % self.frames_per_event  # left over from an event that was interrupted
            or taken.value != captured.value
            or dropped.value
        ):
            raise DetectorError(
                f"{operation.what} is missing: the camera has taken {taken.value} frames, the "
                f"file holds {captured.value} where {expected} were expected, {dropped.value} "
                f"were dropped ({self.num_captured.pvname}, {self.dropped.pvname})."
            )
        if overflows.value:
            raise DetectorError(
                f"{operation.what} lacks photons: {get(self.status_message)} "
                f"({self.overflow_frames.pvname} is {overflows.value})."
            )
        self._new_row = before // self.frames_per_event
