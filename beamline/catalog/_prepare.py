"""Documents of one run as tiled can take them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from beamline.catalog._columns import Column, Stream
from beamline.catalog._plain import plain
from beamline.catalog._restore import RECORDED
from beamline.documents.pages import times_of_rows

__all__ = ["Preparer"]

#: What an address of tiled has no place for in a stream's name.
_NOT_ADDRESS = re.compile(r"[^\w .:\-]")
#: What tiled and its plugin understand otherwise: folders, and the streams of their older layout.
_RESERVED = frozenset({"", ".", "..", "streams"})
_LONGEST = 100


class Preparer:
    """Prepares the documents of one run, in their order.

    Parameters
    ----------
    streams
        From `survey` of the same documents.
    """

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self._streams = streams
        self._names = _stored_names(streams)
        self._columns: dict[str, dict[str, Column]] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of the document that tiled accepts."""
        if name == "event":
            return self._event(doc)
        if name == "event_page":
            return self._page(doc)
        prepared: dict[str, Any] = plain(doc)
        if name == "descriptor":
            self._descriptor(prepared)
        elif name == "stream_resource" and "uri" in prepared:
            _stream_resource(prepared)
        return prepared

    def _descriptor(self, doc: dict[str, Any]) -> None:
        doc[RECORDED] = json.dumps(doc, ensure_ascii=False)
        name = doc.get("name", "primary")
        columns = self._streams[name].columns
        doc["name"] = self._names[name]
        if doc["name"] != name:
            doc["original_name"] = name
        self._columns[doc["uid"]] = columns

        def stored(key: str) -> str:
            return columns[key].name if key in columns else key

        doc["data_keys"] = {
            stored(key): columns[key].data_key(declared) if key in columns else declared
            for key, declared in doc.get("data_keys", {}).items()
        }
        if "object_keys" in doc:
            doc["object_keys"] = {
                device: [stored(key) for key in keys] for device, keys in doc["object_keys"].items()
            }
        for hints in doc.get("hints", {}).values():
            if isinstance(hints, dict) and "fields" in hints:
                hints["fields"] = [stored(key) for key in hints["fields"]]

    def _event(self, doc: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._columns[doc["descriptor"]]
        given, times = doc["data"], doc["timestamps"]
        # Every row has every column, or the first row would decide which are kept.
        data = {column.name: column.convert(given.get(key)) for key, column in columns.items()}
        timestamps = {column.name: _time(times.get(key)) for key, column in columns.items()}
        for key, value in given.items():
            if key not in columns:
                data[key] = plain(value)
                timestamps[key] = _time(times.get(key))
        return {
            "uid": doc["uid"],
            "descriptor": doc["descriptor"],
            "seq_num": int(doc["seq_num"]),
            "time": float(doc["time"]),
            "filled": dict(doc.get("filled", {})),
            "data": data,
            "timestamps": timestamps,
        }

    def _page(self, doc: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._columns[doc["descriptor"]]
        given, times = doc["data"], doc["timestamps"]
        nothing = [None] * len(doc["seq_num"])
        data: dict[str, Any] = {}
        timestamps: dict[str, Any] = {}
        for key in {**columns, **given}:
            column = columns.get(key)
            name, convert = (key, plain) if column is None else (column.name, column.convert)
            data[name] = [convert(value) for value in given.get(key, nothing)]
            timestamps[name] = [_time(value) for value in times.get(key, nothing)]
        return {
            "uid": plain(doc["uid"]),
            "descriptor": doc["descriptor"],
            "seq_num": [int(number) for number in doc["seq_num"]],
            "time": [float(time) for time in times_of_rows(doc)],
            "filled": plain(doc.get("filled", {})),
            "data": data,
            "timestamps": timestamps,
        }


def _stored_names(streams: Iterable[str]) -> dict[str, str]:
    """Give every stream a name that an address can have; those that have one keep it."""
    given = {name: _NOT_ADDRESS.sub("_", name.strip())[:_LONGEST] for name in streams}
    taken = {name for name, safe in given.items() if name == safe and name not in _RESERVED}
    stored = {name: name for name in taken}
    for name, safe in given.items():
        if name in taken:
            continue
        candidate, number = safe if safe not in _RESERVED else f"{safe.strip('.')}_", 1
        while candidate in stored.values():
            number += 1
            candidate = f"{safe}_{number}"
        stored[name] = candidate
    return stored


def _time(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _stream_resource(doc: dict[str, Any]) -> None:
    if doc.get("mimetype") == "application/x-hdf5":
        # A detector's file may still be open in its writer, which locks it for others.
        parameters = doc.setdefault("parameters", {})
        parameters.setdefault("locking", False)
        parameters.setdefault("swmr", False)
    address = urlsplit(str(doc["uri"]))
    if address.scheme == "file" and Path(unquote(address.path)).exists():
        # tiled takes the path as it stands and does not unquote it.
        doc["uri"] = f"file://localhost{unquote(address.path)}"
