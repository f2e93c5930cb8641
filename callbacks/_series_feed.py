"""From documents to blocks of frames: all frames of a run in their order, and where some lack."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from callbacks._continuity import Continuity, Gap, Restart
from callbacks._frame_blocks import BlockSource, FrameBlock
from callbacks._frames import FrameNotReadyError, MissingFrameError
from callbacks._image_stream import ImageStream

__all__ = ["SeriesFeed"]

_POLL = 0.05


@dataclass
class _Rows:
    source: BlockSource | MissingFrameError
    start: int
    stop: int
    arrived: float


class SeriesFeed:
    """Documents of one run in, frames out, for what follows frame after frame.

    Frames may be referred to by `stream_datum` or `datum`, with events or without. Rows that are
    not in their file yet hold back those after them, for at most `timeout` seconds.

    Parameters
    ----------
    image_key
        Data key of the frames; by default the first image of a stream, external ones first.
    timeout
        Seconds after its document that a frame may take to appear.

    Attributes
    ----------
    stream : ImageStream or None
        The stream with the frames, once its descriptor has come.
    first : dict[str, tuple[float, str]]
        First reading, and its unit, of every number in streams without frames (baseline).
    files : list[str]
        That frames came from.
    """

    def __init__(self, *, image_key: str | None = None, timeout: float = 10.0) -> None:
        self.stream: ImageStream | None = None
        self.descriptor: Mapping[str, Any] | None = None
        self.first: dict[str, tuple[float, str]] = {}
        self.files: list[str] = []
        self._image_key, self._timeout = image_key, timeout
        self._uids: set[str] = set()
        self._scalars: dict[str, dict[str, str]] = {}
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._sources: dict[str, BlockSource | MissingFrameError] = {}
        self._datums: dict[str, tuple[str, int]] = {}
        self._rows: collections.deque[_Rows] = collections.deque()
        self._continuity = Continuity()

    @property
    def waiting(self) -> int:
        """Number of frames that were referred to and not delivered yet."""
        return sum(rows.stop - rows.start for rows in self._rows)

    def add(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        if name == "descriptor":
            self._descriptor(doc)
        elif name in ("event", "event_page"):
            self._events(name, doc)
        elif name in ("stream_resource", "resource"):
            self._resources[doc["uid"]] = doc
        elif name in ("datum", "datum_page"):
            self._datum(name, doc)
        elif name == "stream_datum" and doc["descriptor"] in self._uids:
            resource = self._resources.get(doc["stream_resource"], {})
            if self.stream is not None and resource.get("data_key") in (
                None,
                self.stream.image_key,
            ):
                indices = doc["indices"]
                self._refer(doc["stream_resource"], int(indices["start"]), int(indices["stop"]))

    def ready(self, *, final: bool = False) -> Iterator[FrameBlock | Gap | Restart]:
        """Yield frames that can be had, and where some lack or the detector began anew.

        Parameters
        ----------
        final
            No more documents will come: wait for frames, up to the timeout.
        """
        while self._rows:
            rows = self._rows[0]
            try:
                if isinstance(rows.source, MissingFrameError):
                    raise rows.source
                block = rows.source.read_block(rows.start, rows.stop)
            except FrameNotReadyError as error:
                if time.monotonic() - rows.arrived <= self._timeout:
                    if not final:
                        return
                    time.sleep(_POLL)
                    continue
                yield self._lose(rows, f"{error} (waited {self._timeout:g} s)")
            except MissingFrameError as error:
                yield self._lose(rows, str(error))
            else:
                rows.start += len(block)
                if rows.start >= rows.stop:
                    self._rows.popleft()
                yield from self._continuity.parts(block)

    def _lose(self, rows: _Rows, reason: str) -> Gap:
        self._rows.popleft()
        number = rows.stop - rows.start
        self._continuity.lose(number)
        return Gap(number, reason)

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        found = ImageStream.from_descriptor(doc, self._image_key, None)
        if found is None:
            keys = doc["data_keys"].items()
            self._scalars[doc["uid"]] = {
                key: value.get("units") or ""
                for key, value in keys
                if value["dtype"] in ("number", "integer") and not value.get("shape")
            }
            return
        if self.stream is None:
            self.stream, self.descriptor = found, doc
        if found.image_key == self.stream.image_key:
            self._uids.add(doc["uid"])

    def _events(self, name: str, doc: Mapping[str, Any]) -> None:
        uid = doc["descriptor"]
        is_page = name == "event_page"
        if uid in self._uids and self.stream is not None:
            value = doc["data"].get(self.stream.image_key)
            for datum in (value or []) if is_page else [value]:
                if isinstance(datum, str):
                    resource, number = self._datums.pop(datum, ("", 0))
                    self._refer(resource, number, number + 1)
            return
        for key, units in self._scalars.get(uid, {}).items():
            values = doc["data"].get(key)
            value = values[0] if is_page and values else values
            if isinstance(value, int | float | np.number):
                self.first.setdefault(key, (float(value), units))

    def _datum(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "datum_page":
            from event_model import unpack_datum_page

            for datum in unpack_datum_page(doc):
                self._datum("datum", datum)
            return
        number = int(doc["datum_kwargs"].get("point_number", 0))
        self._datums[doc["datum_id"]] = (doc["resource"], number)

    def _refer(self, resource: str, start: int, stop: int) -> None:
        assert self.stream is not None  # noqa: S101  (its descriptor comes first)
        source = self._source(resource)
        each = 1 if isinstance(source, MissingFrameError) else source.frames_per_datum
        first, last = start * each, stop * each
        newest = self._rows[-1] if self._rows else None
        if newest is not None and newest.source is source and newest.stop == first:
            newest.stop = last
            newest.arrived = time.monotonic()
        else:
            self._rows.append(_Rows(source, first, last, time.monotonic()))

    def _source(self, uid: str) -> BlockSource | MissingFrameError:
        if uid not in self._sources:
            doc = self._resources.get(uid)
            each = 1 if self.stream is None else self.stream.frames_per_event
            try:
                if doc is None:
                    raise MissingFrameError(f"no document describes the resource {uid or '?'}.")
                made = BlockSource.from_document(doc, each)
            except MissingFrameError as error:
                self._sources[uid] = error
            else:
                self._sources[uid] = made
                if str(made.path) not in self.files:
                    self.files.append(str(made.path))
        return self._sources[uid]
