"""What a shard is made of: who uses it, what it holds, what it knows of its producers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from beamline.streaming.presence import Process

__all__ = [
    "Content",
    "Counts",
    "Delivery",
    "Entry",
    "Part",
    "Party",
    "Recovered",
    "RecoveredItem",
    "State",
]


@dataclass(frozen=True)
class Party:
    """A producer or consumer.

    Attributes
    ----------
    name
        A producer that is started anew under its old name goes on with its stream.
    incarnation
        Of this start; numbers of items and requests are counted within it.
    process
        Where it runs.
    """

    name: str
    incarnation: str
    process: Process

    def packed(self) -> list[Any]:
        """Return it as msgpack takes it."""
        return [self.name, self.incarnation, list(self.process)]

    @classmethod
    def unpacked(cls, packed: list[Any]) -> Party:
        """Return what `packed` was made from."""
        name, incarnation, process = packed
        return cls(name, incarnation, Process(*process))


@dataclass(slots=True)
class Part:
    """A large array of an item: the reference to it, and its value if that is at hand."""

    reference: Any
    value: Any


@dataclass(slots=True)
class Content:
    """An item: its pickle, and its large arrays."""

    skeleton: bytes
    parts: list[Part] = field(default_factory=list)


@dataclass
class State:
    """What a shard knows of its producers.

    Attributes
    ----------
    next_number
        Of the next item.
    last
        By incarnation of a producer, the number of its last item.
    open
        Producers that began and have not ended, by name.
    streams_ended
        How many ended since the end was acknowledged.
    generation
        How often the end was acknowledged.
    """

    next_number: int = 0
    last: dict[str, int] = field(default_factory=dict)
    open: dict[str, Party] = field(default_factory=dict)
    streams_ended: int = 0
    generation: int = 0

    def packed(self) -> list[Any]:
        """Return it as msgpack takes it."""
        return [
            self.next_number,
            self.last,
            [party.packed() for party in self.open.values()],
            self.streams_ended,
            self.generation,
        ]

    @classmethod
    def unpacked(cls, packed: list[Any]) -> State:
        """Return what `packed` was made from."""
        number, last, open_parties, ended, generation = packed
        parties = [Party.unpacked(party) for party in open_parties]
        return cls(number, last, {party.name: party for party in parties}, ended, generation)


@dataclass
class RecoveredItem:
    """An item that was not acknowledged when the log was last written."""

    number: int
    stamp: int
    nbytes: int
    attempt: int = 0
    consumer: Party | None = None
    request: int = 0


@dataclass
class Recovered:
    """What a log holds; items in the order of their numbers."""

    state: State = field(default_factory=State)
    items: dict[int, RecoveredItem] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """An item in a shard; without content, it is in the log alone."""

    number: int
    nbytes: int
    stamp: int
    content: Content | None = None
    memory: int = 0
    attempt: int = 0
    consumer: Party | None = None
    deadline: float = 0.0


@dataclass(frozen=True)
class Delivery:
    """An item in the hands of a consumer.

    Attributes
    ----------
    number
        Of the item in its shard, for ever.
    attempt
        1 the first time.
    stamp
        When it was put, ns since 1970.
    content
        The item; where it comes from the log, its parts are values without references.
    """

    number: int
    attempt: int
    stamp: int
    content: Content


@dataclass
class Counts:
    """What happened in a shard since it was made or read from its log."""

    put: int = 0
    refused: int = 0
    acknowledged: int = 0
    expired: int = 0
    given_back: int = 0
    orphaned: int = 0
    acknowledged_twice: int = 0
    recovered: int = 0
