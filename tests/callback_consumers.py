"""Consumers for the tests of the callback server, and a bare subscriber as a program."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def _append(run: str, name: str, doc: Any) -> None:
    with open(os.environ["RECORD_TO"], "a", encoding="utf-8") as stream:  # noqa: PTH123
        stream.write(json.dumps([run, name, doc.get("seq_num", 0)]) + "\n")


def record(start):
    """Write a line for each document."""
    return [lambda name, doc: _append(start["uid"], name, doc)]


def refuse(start):
    """Raise at the tenth event."""

    def consumer(name, doc):
        if name == "event" and doc["seq_num"] == 10:
            raise RuntimeError("I do not take event 10")

    return [consumer]


def main(address: str, count: int) -> None:
    """Take so many documents of a publisher, and end."""
    from beamline.documents.network import DocumentSubscriber

    subscriber = DocumentSubscriber(address)
    print("READY", flush=True)
    received = 0
    while received < count:
        for delivery in subscriber.receive(0.2):
            _append(delivery.run, delivery.name, delivery.doc)
            received += 1
    subscriber.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
