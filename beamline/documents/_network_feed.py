"""What a subscriber knows of each run that it follows, what it hands on, and what it counts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beamline.documents._network_wire import OPEN, WINDOW, records

__all__ = ["STALL", "Delivery", "Feed", "NetworkCounts"]

#: Seconds without progress before a run is asked for again; then twice as long.
STALL = 0.5


@dataclass
class NetworkCounts:
    """What happened on the way, since the subscriber was made.

    Attributes
    ----------
    received
        Documents that arrived, with those that were not needed.
    delivered
        Documents that were handed on, each once.
    gaps, missed
        Gaps that were noticed, and documents that were missing in them.
    refilled
        Of these, documents that were sent again.
    duplicates
        Documents that were dropped because they had come before.
    damaged
        Messages and records that could not be read.
    lost
        Documents or runs that could not be had at all.
    stalls
        How often a run was asked for again because nothing came.
    """

    received: int = 0
    delivered: int = 0
    gaps: int = 0
    missed: int = 0
    refilled: int = 0
    duplicates: int = 0
    damaged: int = 0
    lost: int = 0
    stalls: int = 0


@dataclass(frozen=True)
class Delivery:
    """One document, or the news that a run was cut off.

    Attributes
    ----------
    run : str
        Uid.
    number : int
        Of the document in its run; 0 is the start document.
    name, doc
        The document. For a run that was cut off, name is "cut off" and doc empty; it comes after
        the last document.
    """

    run: str
    number: int
    name: str
    doc: Mapping[str, Any]


@dataclass
class Feed:
    """One run that is followed."""

    uid: str
    started: float
    state: str = OPEN
    known: int = -1
    next: int = 0
    highest: int = 0
    acked: int = 0
    pending: dict[int, bytes] = field(default_factory=dict)
    damaged: int = 0
    patience: float = STALL
    moved: float = field(default_factory=time.monotonic)
    behind_since: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the run has ended and all of it has been delivered."""
        return self.state != OPEN and 0 <= self.known <= self.next

    def missing_before(self, first: int) -> int:
        """Return how many documents from `highest` on are missing if number `first` comes now."""
        return first - self.highest if self.highest < first < self.next + WINDOW else 0

    def store(self, first: int, block: bytes, counts: NetworkCounts) -> None:
        """Keep the records of a message that are new."""
        number = first
        for payload in records(block):
            counts.received += 1
            if payload is None:
                counts.damaged += 1
                self.damaged += number == self.next
            elif number < self.next or number in self.pending:
                counts.duplicates += 1
            elif number < self.next + WINDOW:
                if number < self.highest:
                    counts.refilled += 1
                self.pending[number] = payload
            number += 1
        self.highest = max(self.highest, min(number, self.next + WINDOW))

    def delivered(self) -> None:
        """Go on to the next document."""
        del self.pending[self.next]
        self.next += 1
        self.damaged = 0
        self.patience = STALL
        self.moved = time.monotonic()
