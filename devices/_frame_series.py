"""A series of frames without a gap: bluesky's protocol of flying, for an area detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ophyd import Device
from ophyd.status import DeviceStatus

from beamline.core.errors import DetectorError
from devices._operation import Operation
from devices._signals import read_many

__all__ = ["FrameSeries"]

#: Seconds that a frame may take beyond its exposure and period.
_GRACE = 10.0


class FrameSeries:
    """What `devices.AreaDetector` does to take a series; the rest is the detector's own."""

    name: str
    frames_per_event: int
    exposure: Any
    period: Any
    acquire: Any
    array_counter: Any
    num_captured: Any
    describe: Callable[[], dict[str, dict[str, Any]]]
    _take: Callable[[str, float, Callable[[float], bool]], Operation]
    _open_file: Callable[[int], None]
    _armed: bool
    _resource: Any
    _resource_is_new: bool
    _operation: Operation | None

    @property
    def image_key(self) -> str:
        """Data key of the frames."""
        raise NotImplementedError

    #: Frames of the series, those referred to, and those taken when somebody last looked.
    _series = 0
    _referred = 0
    _taken = 0

    def prepare(self, value: int) -> DeviceStatus:
        """Get ready for a series of `value` frames, into a file of its own.

        Raises
        ------
        DetectorError
            If the detector is not staged or has begun a file, if an event has several frames, or
            if the file writer does not open a file.
        ConfigurationError
            If `directory` is not set or the IOC can't see it.
        ConnectionLostError
            If the IOC doesn't answer.
        """
        if not self._armed or self._resource is not None or self.frames_per_event != 1:
            raise DetectorError(
                f"{self.name} cannot take a series: it must be staged, have one frame per event "
                "and no file yet."
            )
        self._open_file(value)
        self._series, self._referred = value, 0
        return _finished(self)

    def kickoff(self) -> DeviceStatus:
        """Begin the series that was prepared.

        Raises
        ------
        DetectorError
            If none was.
        ConnectionLostError
            If it can't be started.
        """
        if not self._series:
            raise DetectorError(f"{self.name} was kicked off without a series: prepare it first.")
        exposure, period = (s.value for s in read_many([self.exposure, self.period]))
        what = f"the series of {self._series} frames of {self.acquire.pvname}"
        self._take(what, exposure + max(exposure, period) + _GRACE, self._progressing)
        return _finished(self)

    def complete(self) -> Operation:
        """Return the status of the series; it fails as that of `trigger` does.

        Raises
        ------
        DetectorError
            If none was kicked off.
        """
        if not self._series or self._operation is None:
            raise DetectorError(f"{self.name} cannot complete a series: none was kicked off.")
        return self._operation

    @property
    def acquiring(self) -> bool:
        """Whether frames of ours are still being taken."""
        return self._operation is not None and not self._operation.done

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        """Describe the frames of a series."""
        return {self.image_key: self.describe()[self.image_key]}

    def _refer_to_series(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Refer to the frames of the series that the file has got since the last time."""
        (captured,) = read_many([self.num_captured])
        first, stop = self._referred, min(int(captured.value), self._series)
        if stop <= first:
            return
        self._referred = stop
        if self._resource_is_new:
            self._resource_is_new = False
            yield "stream_resource", self._resource.stream_resource_doc
        indices = {"start": first, "stop": stop}
        yield "stream_datum", self._resource.compose_stream_datum(indices=indices)

    def _progressing(self, timeout: float) -> bool:
        """As `_acquiring`; while frames come, a series may take as long as it needs."""
        acquire, taken = read_many([self.acquire, self.array_counter], timeout)
        if taken.value != self._taken and self._operation is not None:
            self._taken = taken.value
            self._operation.prolong()
        return bool(acquire.value)


def _finished(device: Device) -> DeviceStatus:
    status = DeviceStatus(device)
    status.set_finished()
    return status
