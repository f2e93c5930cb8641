"""Consumers for the tests of the callback server, and bare subscribers as a program."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def _append(path: str, run: str, name: str, doc: Any) -> None:
    with open(path, "a", encoding="utf-8") as stream:  # noqa: PTH123
        stream.write(json.dumps([run, name, doc.get("seq_num", 0)]) + "\n")


def record(start):
    """Write a line for each document."""
    path = os.environ["RECORD_TO"]
    return [lambda name, doc: _append(path, start["uid"], name, doc)]


def refuse(start):
    """Raise at the tenth event."""

    def consumer(name, doc):
        if name == "event" and doc["seq_num"] == 10:
            raise RuntimeError("I do not take event 10")

    return [consumer]


def refuse_stop(start):
    """Raise at the stop document, a while after the session has forgotten the run."""

    def consumer(name, doc):
        if name == "stop" and start["scan_id"] == 1:
            time.sleep(3)
            raise RuntimeError("I cannot close the file")

    return [consumer]


def main(address: str, count: int, *records: str) -> None:
    """Take so many documents of a publisher, once for each file of records, and end."""
    from beamline.documents.network import DocumentSubscriber

    subscribers = {path: DocumentSubscriber(address) for path in records}
    received = dict.fromkeys(records, 0)
    print("READY", flush=True)
    while min(received.values()) < count:
        for path, subscriber in subscribers.items():
            for delivery in subscriber.receive(0.02):
                _append(path, delivery.run, delivery.name, delivery.doc)
                received[path] += 1
    for subscriber in subscribers.values():
        subscriber.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
