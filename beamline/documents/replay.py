"""Recorded documents again, to any consumers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from beamline.core.errors import MissingError
from beamline.documents.consumers import Consumer, ConsumerError, DocumentError, deliver

__all__ = ["CUT_OFF", "completed", "replay"]

#: ``reason`` of the stop document that `completed` makes.
CUT_OFF = "the process that recorded the run ended before the run had stopped"


def replay(
    documents: Iterable[tuple[str, Mapping[str, Any]]],
    consumers: Iterable[Consumer],
    *,
    refused: Callable[[str], object] | None = None,
) -> int:
    """Give documents to consumers in order; return how many there were.

    Parameters
    ----------
    documents
        Of one run or several: from `Journal.documents`, `read_journal`, a catalogue's
        ``run.documents()``.
    consumers
        Each gets every document, whichever of the others raises.
    refused
        Called with a sentence for every document that breaks the rules of event-model, and the
        next one is replayed, as during the run; without it, that ends the replay.

    Raises
    ------
    ConsumerError
        At the first document that a consumer can't take for another reason (a full disk).
    """
    receivers = list(consumers)
    count = 0
    for name, doc in documents:
        try:
            deliver(receivers, name, doc, doc["uid"] if name == "start" else doc.get("run_start"))
        except ConsumerError as error:
            reasons = list(_reasons(error))
            if refused is None or not all(
                isinstance(reason, DocumentError | MissingError) for reason in reasons
            ):
                raise
            for reason in reasons:
                refused(str(reason))
        count += 1
    return count


def _reasons(error: ConsumerError) -> Iterator[Exception]:
    for _, inner in error.errors:
        if isinstance(inner, ConsumerError):
            yield from _reasons(inner)
        else:
            yield inner


def completed(
    documents: Iterable[tuple[str, Mapping[str, Any]]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield documents of one run, with a stop document made up if they end without one.

    It says ``exit_status="fail"`` and `CUT_OFF` as reason, carries the time of the last document,
    and is the same each time, so that files made from a run that was cut off are closed, labelled
    and equal.
    """
    start: str | None = None
    stopped = False
    time = 0.0
    streams: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name, doc in documents:
        if name == "start":
            start = doc["uid"]
        elif name == "descriptor":
            streams[doc["uid"]] = doc.get("name", "primary")
            counts[streams[doc["uid"]]] += 0
        elif name == "event":
            counts[streams.get(doc["descriptor"], "primary")] += 1
        elif name == "event_page":
            counts[streams.get(doc["descriptor"], "primary")] += len(doc["seq_num"])
            time = max([time, *doc["time"]])
        elif name == "stop":
            stopped = True
        if isinstance(doc.get("time"), int | float):
            time = max(time, doc["time"])
        yield name, doc
    if start is not None and not stopped:
        made = {
            "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"stop of {start}")),
            "run_start": start,
            "time": time,
            "exit_status": "fail",
            "reason": CUT_OFF,
            "num_events": dict(counts),
        }
        yield "stop", made
