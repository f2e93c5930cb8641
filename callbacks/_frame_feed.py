"""From documents to frames: every event of a run with its image, in order, none forgotten."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.crystallography.geometry import Detector
from callbacks._frames import FrameNotReadyError, FrameSource, MissingFrameError
from callbacks._image_stream import ImageStream, is_scalar, to_unit

__all__ = ["EventFrames", "FrameFeed"]

_POLL = 0.05


@dataclass
class EventFrames:
    """The frames of one event.

    Attributes
    ----------
    stream
        The stream that the event belongs to.
    seq_num
        Its number in the stream, from 1.
    event
        Its document; None for a stream that has frames but no event documents.
    frames
        Shape (n, ss, fs); empty if `error` is set.
    source, row
        The file that they were read from and the first row; None and -1 for frames that came with
        the document.
    error
        Why there are none.
    """

    stream: ImageStream
    seq_num: int
    event: Mapping[str, Any] | None
    frames: npt.NDArray[Any]
    source: FrameSource | None = None
    row: int = -1
    error: MissingFrameError | None = None

    def reading(self, key: str) -> tuple[float, str] | None:
        """Return a number of the event and its unit; None if the event has no such number."""
        if self.event is None or key not in self.stream.scan_units:
            return None
        value = _number(self.event["data"].get(key))
        return None if value is None else (value, self.stream.scan_units[key])

    def stored(self, name: str, frame: int = 0) -> float | None:
        """Return what the detector stored with a frame in its file, or None."""
        return None if self.source is None else self.source.attribute(name, self.row + frame)


@dataclass
class _Pending:
    stream: ImageStream
    descriptor: str
    seq_num: int
    arrived: float
    event: Mapping[str, Any] | None


@dataclass
class _Range:
    """Datums of a file that belong to consecutive events."""

    seq_start: int
    seq_stop: int
    datum: int
    source: FrameSource | MissingFrameError


class FrameFeed:
    """Documents of one run in, events with their frames out.

    Frames may be referred to by `stream_datum` or `datum`, before or after their event, or be in
    the event itself. Events keep their order: one whose frame is not in its file yet holds back
    those after it, for at most `timeout` seconds.

    Parameters
    ----------
    image_key
        Data key of the frames; by default the first image of a stream, external ones first.
    geometry
        The detector, instead of what descriptors say.
    timeout
        Seconds after its event that a frame may take to appear.

    Attributes
    ----------
    streams : dict[str, ImageStream]
        Streams with frames by uid of their descriptor.
    first : dict[str, tuple[float, str]]
        First reading, and its unit, of every number in streams without frames (baseline).
    sparse : Counter[str]
        Data keys whose frames are lists of photons (NXevent_data), and how many rows of them there
        were; they are not delivered.
    """

    def __init__(
        self,
        *,
        image_key: str | None = None,
        geometry: Detector | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.streams: dict[str, ImageStream] = {}
        self.first: dict[str, tuple[float, str]] = {}
        self.sparse: collections.Counter[str] = collections.Counter()
        self._image_key, self._geometry, self._timeout = image_key, geometry, timeout
        self._scalars: dict[str, dict[str, str]] = {}
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._sources: dict[str, FrameSource | MissingFrameError] = {}
        self._datums: dict[str, tuple[str, int]] = {}
        self._ranges: dict[str, list[_Range]] = {}
        self._pending: collections.deque[_Pending] = collections.deque()

    @property
    def waiting(self) -> int:
        """Number of events that were not delivered yet."""
        return len(self._pending)

    def energy(self, item: EventFrames, number: int, key: str) -> float:
        """Return the photon energy of a frame, eV; NaN if nobody knows.

        From the event, else from what the detector stored with the frame, the baseline, or the
        configuration of the detector.

        Parameters
        ----------
        item, number
            Event, and which of its frames.
        key
            Data key of the energy; that of inference runs, ``photon_energy``, is known besides.
        """
        found = item.reading(key) or item.reading("photon_energy")
        if found is None:
            stored = item.stored("PhotonEnergy", number)
            if stored is not None:
                return stored
            found = self.first.get(key)
        if found is not None:
            return to_unit(*found, "eV", "eV")
        configured = item.stream.photon_energy
        return math.nan if configured is None else configured

    def add(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        if name == "descriptor":
            self._descriptor(doc)
        elif name == "event":
            self._event(doc)
        elif name == "event_page":
            from event_model import unpack_event_page

            for event in unpack_event_page(doc):
                self._event(event)
        elif name in ("stream_resource", "resource"):
            self._resources[doc["uid"]] = doc
            if "event_id" in doc.get("parameters", {}):
                self._leave_out(doc["data_key"])
        elif name == "datum":
            self._datum(doc)
        elif name == "datum_page":
            from event_model import unpack_datum_page

            for datum in unpack_datum_page(doc):
                self._datum(datum)
        elif name == "stream_datum":
            self._stream_datum(doc)

    def ready(self, *, final: bool = False) -> Iterator[EventFrames]:
        """Yield the events whose frames can be had, or will not come.

        An event counts as delivered when the next one is asked for, so that one whose treatment
        raised is delivered again.

        Parameters
        ----------
        final
            No more documents will come: wait for frames, up to the timeout.
        """
        if final:
            self._add_frames_without_events()
        while self._pending:
            item = self._pending[0]
            made = EventFrames(item.stream, item.seq_num, item.event, np.empty((0, 0, 0)))
            try:
                made.frames, made.source, made.row = self._find(item, final=final)
            except FrameNotReadyError as error:
                if time.monotonic() - item.arrived <= self._timeout:
                    if not final:
                        return
                    time.sleep(_POLL)
                    continue
                made.error = MissingFrameError(f"{error} (waited {self._timeout:g} s)")
            except MissingFrameError as error:
                made.error = error
            yield made
            self._pending.popleft()
            self._forget(item)

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        uid = doc["uid"]
        stream = ImageStream.from_descriptor(doc, self._image_key, self._geometry)
        if stream is None:
            keys = doc["data_keys"].items()
            self._scalars[uid] = {k: v.get("units") or "" for k, v in keys if is_scalar(v)}
        elif stream.image_key not in self.sparse:
            self.streams[uid] = stream
            self._ranges[uid] = []

    def _leave_out(self, image_key: str) -> None:
        self.sparse[image_key] += 0
        for uid, stream in tuple(self.streams.items()):
            if stream.image_key == image_key:
                del self.streams[uid], self._ranges[uid]
        kept = (item for item in self._pending if item.descriptor in self.streams)
        self._pending = collections.deque(kept)

    def _event(self, doc: Mapping[str, Any]) -> None:
        uid = doc["descriptor"]
        stream = self.streams.get(uid)
        if stream is not None:
            now = time.monotonic()
            self._pending.append(_Pending(stream, uid, int(doc["seq_num"]), now, doc))
            return
        for key, units in self._scalars.get(uid, {}).items():
            value = _number(doc["data"].get(key))
            if value is not None:
                self.first.setdefault(key, (value, units))

    def _datum(self, doc: Mapping[str, Any]) -> None:
        number = int(doc["datum_kwargs"].get("point_number", 0))
        self._datums[doc["datum_id"]] = (doc["resource"], number)

    def _stream_datum(self, doc: Mapping[str, Any]) -> None:
        stream = self.streams.get(doc["descriptor"])
        resource = self._resources.get(doc["stream_resource"])
        if resource and resource["data_key"] in self.sparse:
            rows = doc["indices"]
            self.sparse[resource["data_key"]] += int(rows["stop"]) - int(rows["start"])
        if stream is None or (resource and resource["data_key"] != stream.image_key):
            return
        first, stop = int(doc["seq_nums"]["start"]), int(doc["seq_nums"]["stop"])
        datum = int(doc["indices"]["start"])
        source = self._source(doc["stream_resource"], stream)
        ranges = self._ranges[doc["descriptor"]]
        last = ranges[-1] if ranges else None
        if (
            last is not None
            and last.source is source
            and last.seq_stop == first
            and last.datum - last.seq_start == datum - first
        ):
            last.seq_stop = stop
        else:
            ranges.append(_Range(first, stop, datum, source))

    def _source(self, uid: str, stream: ImageStream) -> FrameSource | MissingFrameError:
        if uid not in self._sources:
            doc = self._resources.get(uid)
            source: FrameSource | MissingFrameError
            try:
                if doc is None:
                    source = MissingFrameError(f"no document describes the resource {uid}.")
                elif "uri" in doc:
                    source = FrameSource.from_stream_resource(doc, stream.frames_per_event)
                else:
                    source = FrameSource.from_resource(doc)
            except MissingFrameError as error:
                source = error
            self._sources[uid] = source
        return self._sources[uid]

    def _find(
        self, item: _Pending, *, final: bool
    ) -> tuple[npt.NDArray[Any], FrameSource | None, int]:
        """Return the frames of an event, the file they are in and the first row."""
        key = item.stream.image_key
        value = None if item.event is None else item.event["data"].get(key)
        no_document = MissingFrameError if final else FrameNotReadyError
        if isinstance(value, str):
            if value not in self._datums:
                raise no_document(
                    f"event {item.seq_num} of {item.stream.name} has no frame: its datum {value} "
                    f"did not come."
                )
            resource, datum = self._datums[value]
            source = self._source(resource, item.stream)
        elif value is not None:
            image = np.asarray(value, dtype=item.stream.dtype)
            if image.ndim not in (2, 3):
                raise MissingFrameError(
                    f"event {item.seq_num} of {item.stream.name} has no frame: {key} has the shape "
                    f"{image.shape}."
                )
            return image.reshape(-1, *image.shape[-2:]), None, -1
        else:
            span = self._range(item)
            if span is None:
                raise no_document(
                    f"event {item.seq_num} of {item.stream.name} has no frame: no stream_datum "
                    f"refers to it."
                )
            source, datum = span.source, span.datum + item.seq_num - span.seq_start
        if isinstance(source, MissingFrameError):
            raise source
        return source.read(datum), source, source.row(datum)

    def _range(self, item: _Pending) -> _Range | None:
        """Return the first range with an event: of a point taken twice, the frame taken first."""
        for span in self._ranges[item.descriptor]:
            if span.seq_start <= item.seq_num < span.seq_stop:
                return span
        return None

    def _forget(self, item: _Pending) -> None:
        """Drop what refers to an event that was delivered; if it is taken again, that is new."""
        value = None if item.event is None else item.event["data"].get(item.stream.image_key)
        if isinstance(value, str):
            self._datums.pop(value, None)
        span = self._range(item) if value is None else None
        if span is None:
            return
        ranges = self._ranges[item.descriptor]
        place = ranges.index(span)
        shift = span.datum - span.seq_start
        parts = [(span.seq_start, item.seq_num), (item.seq_num + 1, span.seq_stop)]
        ranges[place : place + 1] = [
            _Range(first, stop, first + shift, span.source) for first, stop in parts if first < stop
        ]

    def _add_frames_without_events(self) -> None:
        """Queue frames that no event refers to: whole streams may have no event documents."""
        expected = collections.Counter((item.descriptor, item.seq_num) for item in self._pending)
        now = time.monotonic()
        for uid, ranges in self._ranges.items():
            for span in ranges:
                for seq_num in range(span.seq_start, span.seq_stop):
                    if expected[uid, seq_num]:
                        expected[uid, seq_num] -= 1
                    else:
                        self._pending.append(_Pending(self.streams[uid], uid, seq_num, now, None))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else None
