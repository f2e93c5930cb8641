"""What is recorded of one run: streams, data keys, devices, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RunDetails", "StreamDetails", "describe_run"]


@dataclass
class StreamDetails:
    """One stream of a run.

    Attributes
    ----------
    data_keys
        As in the descriptors.
    rows
        Number of events; of frames where the stream has frames and no events.
    first, last
        Time of the first and of the last event, seconds since 1970; None without events.
    configuration
        Device → key → value, and the units where there are any.
    """

    data_keys: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: int = 0
    first: float | None = None
    last: float | None = None
    configuration: dict[str, dict[str, tuple[Any, str | None]]] = field(default_factory=dict)

    def saw(self, times: Iterable[float]) -> None:
        """Count events."""
        for time in times:
            self.rows += 1
            self.first = time if self.first is None else min(self.first, time)
            self.last = time if self.last is None else max(self.last, time)


@dataclass
class RunDetails:
    """One run.

    Attributes
    ----------
    start, stop
        The documents; `stop` is None for a run that was cut off or is going on.
    streams
        By name, in the order of their descriptors.
    files
        Data key → files that hold its frames.
    documents
        Number of documents of each kind.
    """

    start: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] | None = None
    streams: dict[str, StreamDetails] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    documents: Counter[str] = field(default_factory=Counter)


def describe_run(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> RunDetails:
    """Read through the documents of one run.

    Parameters
    ----------
    documents
        Of one run, as `Journal.documents` gives them.
    """
    run = RunDetails()
    by_descriptor: dict[str, StreamDetails] = {}
    frames: Counter[str] = Counter()
    for name, doc in documents:
        run.documents[name] += 1
        if name == "start":
            run.start = doc
        elif name == "stop":
            run.stop = doc
        elif name == "descriptor":
            label = str(doc.get("name", "primary"))
            stream = run.streams.setdefault(label, StreamDetails())
            by_descriptor[doc["uid"]] = stream
            _add_descriptor(stream, doc)
        elif name in ("event", "event_page") and doc["descriptor"] in by_descriptor:
            times = [doc["time"]] if name == "event" else doc["time"]
            by_descriptor[doc["descriptor"]].saw(times)
        elif name == "stream_resource":
            run.files.setdefault(str(doc["data_key"]), []).append(str(doc["uri"]))
        elif name == "resource":
            path = f"{doc.get('root', '')}/{doc['resource_path']}"
            run.files.setdefault(str(doc.get("spec", "")), []).append(path)
        elif name == "stream_datum":
            frames[doc["descriptor"]] = max(frames[doc["descriptor"]], doc["indices"]["stop"])
    for uid, number in frames.items():
        stream = by_descriptor.get(uid, StreamDetails())
        stream.rows = stream.rows or number
    return run


def _add_descriptor(stream: StreamDetails, doc: Mapping[str, Any]) -> None:
    stream.data_keys.update(doc["data_keys"])
    for device, configured in (doc.get("configuration") or {}).items():
        keys = configured.get("data_keys") or {}
        stream.configuration.setdefault(device, {}).update(
            {
                key: (value, (keys.get(key) or {}).get("units"))
                for key, value in (configured.get("data") or {}).items()
            }
        )
