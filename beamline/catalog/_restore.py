"""Documents of the catalogue as they were recorded, as far as tiled keeps what is needed for it.

tiled adds to descriptors, and stores columns under names and types that SQL has a place for. The
descriptor as it was lies beside what tiled made of it (`RECORDED`), so that a run comes out with
its own data keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["EVENT_INDEX", "RECORDED", "lists_photons", "restored"]

#: Key of a stored descriptor: the recorded one, as JSON text.
RECORDED = "recorded"
#: Of an NXevent_data group: the place of each frame's first photon in ``event_id``.
EVENT_INDEX = "event_index"


def restored(documents: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the documents of one run with the descriptors and data keys that were recorded.

    Runs that were brought in without `RECORDED` come out as tiled has them.
    """
    columns: dict[str, dict[str, tuple[str, bool]]] = {}
    shapes: dict[str, Any] = {}
    for name, doc in _descriptors_first(documents):
        if name == "descriptor":
            shapes |= {key: declared.get("shape") for key, declared in doc["data_keys"].items()}
        if name == "descriptor" and RECORDED in doc:
            columns[doc["uid"]] = {
                stored: (key.get("original_key", stored), key.get("stored_as") == "json")
                for stored, key in doc["data_keys"].items()
                if "original_key" in key or "stored_as" in key
            }
            yield name, _descriptor(doc)
        elif name == "event" and columns.get(doc["descriptor"]):
            yield name, _event(doc, columns[doc["descriptor"]])
        elif name == "stream_resource" and lists_photons(doc):
            yield name, _photons(doc, shapes.get(doc["data_key"]))
        else:
            yield name, doc


def lists_photons(resource: Mapping[str, Any]) -> bool:
    """Whether a stream resource leads to an NXevent_data group instead of pixels."""
    dataset = (resource.get("parameters") or {}).get("dataset")
    return isinstance(dataset, str) and dataset.rpartition("/")[2] == EVENT_INDEX


def _photons(resource: Mapping[str, Any], shape: Any) -> dict[str, Any]:
    """Give back what tiled drops, without which nobody knows photons from pixels."""
    parameters = resource["parameters"]
    group = parameters["dataset"].removesuffix(EVENT_INDEX)
    known = {"event_id": f"{group}event_id", "frame_shape": shape, "chunk_shape": [1]}
    return {**resource, "parameters": {**parameters, **known}}


def _descriptors_first(documents: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Put events behind their descriptor: tiled sorts by time, and a flyer's is made last."""
    known: set[str] = set()
    waiting: dict[str, list[tuple[str, Any]]] = {}
    for name, doc in documents:
        uid = doc.get("descriptor")
        if uid is not None and uid not in known:
            waiting.setdefault(uid, []).append((name, doc))
            continue
        if name == "stop":
            for items in waiting.values():
                yield from items
        yield name, doc
        if name == "descriptor":
            known.add(doc["uid"])
            yield from waiting.pop(doc["uid"], ())


def _descriptor(stored: Mapping[str, Any]) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(stored[RECORDED])
    if recorded["uid"] == stored["uid"]:
        return recorded
    # A later one of the same stream, of which tiled keeps what it can change.
    return {**recorded, **{key: stored[key] for key in ("uid", "time", "configuration")}}


def _event(doc: Mapping[str, Any], columns: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    data, times = dict(doc["data"]), dict(doc["timestamps"])
    for stored, (key, is_json) in columns.items():
        if stored in data:
            value = data.pop(stored)
            data[key] = json.loads(value) if is_json and isinstance(value, str) else value
        if stored in times:
            times[key] = times.pop(stored)
    return {**doc, "data": data, "timestamps": times}
