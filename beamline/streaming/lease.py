"""What a consumer gets from a queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Lease"]


@dataclass(frozen=True)
class Lease:
    """An item that this consumer has, until it acknowledges it or gives it back.

    Attributes
    ----------
    item
        What was put; None if it could not be read.
    lease_id
        Number of the item in its shard.
    shard
        Index of the shard.
    attempt
        1 when it is given out the first time.
    stamp
        When it was put, ns since 1970 by the producer's clock; 0 if unknown.
    error
        Why the item could not be read.
    """

    item: Any
    lease_id: int
    shard: int
    attempt: int
    stamp: int = 0
    error: Exception | None = None
