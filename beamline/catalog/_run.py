"""A run of the catalogue that can give its documents with the frames in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3

from beamline.catalog._photons import PhotonFrames
from beamline.catalog._restore import lists_photons, restored

__all__ = ["Run"]

#: Frames are fetched in blocks of so many bytes, or one by one where one is larger.
_BLOCK_BYTES = 16 * 2**20


class Run(BlueskyRunV3):
    """`bluesky_tiled_plugins.BlueskyRun` whose `documents` can be filled."""

    def documents(self, fill: bool = False) -> Iterator[tuple[str, Any]]:
        """Yield (name, document) in order.

        Parameters
        ----------
        fill
            Put the frames, read from their files, into the events as arrays, with true in
            ``filled``; descriptors then have nothing external, and the documents that refer to
            the files are left out. An event whose frame was never written keeps false. Frames that
            are lists of photons are counted into pixels, if their file is on this machine.

        Raises
        ------
        Exception
            What tiled says of a file that is missing or can't be read, when its turn comes.
        """
        documents = restored(super().documents())
        return self._filled(list(documents)) if fill else documents

    def _filled(self, documents: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        streams: dict[str, str] = {}
        shapes: dict[str, dict[str, list[Any]]] = {}
        sources: dict[str, dict[str, _Source]] = {}
        types: dict[str, str] = {}
        resources: dict[str, Mapping[str, Any]] = {}
        for name, doc in documents:
            if name == "descriptor":
                streams[doc["uid"]] = doc["name"]
                shapes[doc["name"]] = {
                    key: declared["shape"]
                    for key, declared in doc["data_keys"].items()
                    if "external" in declared
                }
                for key, declared in doc["data_keys"].items():
                    types[key] = declared.get("dtype_numpy") or "<u4"
            elif name == "stream_resource":
                resources[doc["uid"]] = doc
            elif name == "stream_datum":
                resource = resources[doc["stream_resource"]]
                stream, key = streams[doc["descriptor"]], resource["data_key"]
                events = doc["seq_nums"]["stop"] - doc["seq_nums"]["start"]
                shape = shapes[stream][key]
                found: _Source = (
                    PhotonFrames(resource, events, shape, types[key])
                    if lists_photons(resource)
                    else _Frames(self._client(stream, key), events, shape)
                )
                sources.setdefault(stream, {})[key] = found
        for name, doc in documents:
            if name == "descriptor":
                declared = {key: _internal(given) for key, given in doc["data_keys"].items()}
                yield name, {**doc, "data_keys": declared}
            elif name == "event":
                stream = streams[doc["descriptor"]]
                yield name, _fill(doc, shapes[stream], sources.get(stream, {}))
            elif name not in ("stream_resource", "stream_datum"):
                yield name, doc

    def _client(self, stream: str, key: str) -> Callable[[], Any]:
        return lambda: self[stream][key]


class _Source(Protocol):
    def get(self, seq_num: int) -> Any:
        """Return the frame, or the stack of frames, of one event; None if there is none."""


class _Frames:
    """The frames of one data key, by the number of the event."""

    def __init__(self, client: Callable[[], Any], events: int, shape: Sequence[Any]) -> None:
        self._open = client
        self._events = events
        self._shape = shape
        self._array: Any = None
        self._begin = 0
        self._block: Any = np.empty(0)

    def get(self, seq_num: int) -> Any:
        """Return the frame, or the stack of frames, of one event; None if there is none."""
        if not 1 <= seq_num <= self._events:
            return None
        if self._array is None:
            self._array = self._open()
        # Several frames of an event may lie behind one another, on the axis of the events.
        each = self._array.shape[0] // self._events
        begin, end = (seq_num - 1) * each, seq_num * each
        if not self._begin <= begin < end <= self._begin + len(self._block):
            size = int(np.prod(self._array.shape[1:])) * self._array.dtype.itemsize * each
            events = max(1, _BLOCK_BYTES // max(size, 1))
            self._begin = begin
            self._block = np.asarray(self._array[begin : begin + events * each])
        return self._block[begin - self._begin : end - self._begin].reshape(self._shape)


def _fill(
    event: Mapping[str, Any], keys: Iterable[str], sources: Mapping[str, _Source]
) -> dict[str, Any]:
    data, times = dict(event["data"]), dict(event["timestamps"])
    filled = dict(event.get("filled", {}))
    for key in keys:
        frame = sources[key].get(event["seq_num"]) if key in sources else None
        filled[key] = frame is not None
        if frame is not None:
            data[key] = frame
            times.setdefault(key, event["time"])
    return {**event, "data": data, "timestamps": times, "filled": filled}


def _internal(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in declared.items() if name != "external"}
