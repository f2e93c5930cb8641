"""Whether a journal is whole, and its documents keep to the rules of event-model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from beamline.documents._records import JournalReader
from beamline.validation.findings import Report

__all__ = ["check_journal", "document_problems"]

_SHOWN = 10


def check_journal(path: Path) -> Report:
    """Check a journal: checksums, order and schema of its documents, files that they refer to."""
    report = Report("journal")
    with JournalReader(path) as reader:
        uid = str(reader.start()["uid"])
        problems = list(document_problems(reader))
        length = reader.end
        damage, stopped = reader.damage, reader.stop() is not None
        alive = reader.being_written
    report.add([f"{damage}."] if damage else [], f"checksums of {length} bytes")
    ends = "the run is being recorded" if alive else "ends with its stop document"
    report.add(
        []
        if stopped or alive
        else ["there is no stop document: the run was cut off, 'beamline recover' completes it."],
        ends,
    )
    shown = [f"run {uid[:8]}: {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"{len(problems) - _SHOWN} more of this kind.")
    report.add(shown, "documents keep to the rules of event-model")
    return report


def document_problems(
    documents: Iterator[tuple[str, Mapping[str, Any]]] | JournalReader,
) -> Iterator[str]:
    """Yield a sentence for every document of one run that breaks the rules, with its key.

    Those are event-model's schema, references to descriptors and resources that were never
    received, rows without their data keys, events that are missing or more than were announced,
    and frame files that are not there.
    """
    keys: dict[str, frozenset[str]] = {}
    streams: dict[str, str] = {}
    counts: Counter[str] = Counter()
    resources: set[str] = set()
    missing: list[tuple[str, int, int]] = []
    refused = False
    for name, doc in documents:
        if problem := _schema_problem(name, doc):
            refused = True
            yield problem
            continue
        if name == "descriptor":
            streams[doc["uid"]] = str(doc.get("name", "primary"))
            external = {k for k, key in doc["data_keys"].items() if key.get("external")}
            keys[doc["uid"]] = frozenset(doc["data_keys"]) - external
        elif name in ("event", "event_page"):
            yield from _event_problems(name, doc, keys, streams)
            refused |= doc["descriptor"] not in keys
            numbers = [doc["seq_num"]] if name == "event" else doc["seq_num"]
            label = streams.get(doc["descriptor"], "")
            for number in numbers:
                if number > counts[label] + 1:
                    missing.append((label, counts[label] + 1, number - 1))
                counts[label] = max(counts[label], number)
        elif name in ("resource", "stream_resource"):
            resources.add(doc["uid"])
            yield from _file_problems(doc)
        elif name == "stream_datum" and doc["stream_resource"] not in resources:
            yield f"a stream_datum refers to the unknown stream_resource {doc['stream_resource']}."
        elif name == "stop":
            for stream, number in (doc.get("num_events") or {}).items():
                # A stream of frames alone has no events, only their number.
                if counts[stream] and counts[stream] != number:
                    yield (
                        f"stream {stream!r} has {counts[stream]} events, the stop document says "
                        f"{number}."
                    )
    # Those that were named above are not missing as well.
    for stream, first, last in missing if not refused else ():
        which = f"event {first} is" if first == last else f"events {first} to {last} are"
        yield f"{which} missing in stream {stream!r}."


def _schema_problem(name: str, doc: Mapping[str, Any]) -> str | None:
    import event_model
    import jsonschema

    try:
        validator = event_model.schema_validators[event_model.DocumentNames[name]]
    except KeyError:
        return f"there is no document of kind {name!r}."
    try:
        validator.validate(doc)
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the document"
        said = " ".join(error.message.split())
        return f"{name} {_label(doc)}: {place}: {said[:200]}."
    return None


def _label(doc: Mapping[str, Any]) -> str:
    return str(doc.get("seq_num", str(doc.get("uid", ""))[:8]))


def _event_problems(
    name: str,
    doc: Mapping[str, Any],
    keys: Mapping[str, frozenset[str]],
    streams: Mapping[str, str],
) -> Iterator[str]:
    wanted = keys.get(doc["descriptor"])
    if wanted is None:
        yield f"{name} {_label(doc)} refers to the unknown descriptor {doc['descriptor']}."
        return
    missing = sorted(wanted - set(doc["data"]))
    if missing:
        stream = streams[doc["descriptor"]]
        yield f"{name} {_label(doc)} of stream {stream!r} has no value for data key {missing[0]!r}."


def _file_problems(doc: Mapping[str, Any]) -> Iterator[str]:
    if "uri" in doc:
        uri = urlparse(str(doc["uri"]))
        path, key = Path(unquote(uri.path)), str(doc["data_key"])
        local = uri.scheme == "file"
    else:
        path, key = Path(str(doc.get("root", "/")), str(doc["resource_path"])), str(doc["spec"])
        local = True
    if local and not path.exists():
        yield f"the file of {key!r}, {path}, is not there."
