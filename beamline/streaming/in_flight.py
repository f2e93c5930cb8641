"""Items between the queue and the disk: their events in blocks, one block for each task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from beamline.streaming.batches import BatchHeader, ProcessedBatch, ProcessedEvent

__all__ = ["Block", "Item", "tokens"]

_FLOAT_BYTES = 4
_CLASSES = 2


@dataclass(eq=False)
class Item:
    """One leased item.

    Attributes
    ----------
    lease
        To acknowledge when every block is final.
    header
        What is known of it.
    logits, images
        Arrays or Ray references.
    nbytes
        Of both, as far as they are known.
    blocks
        Its events, until `let_go`.
    untold
        Blocks of which ledger and documents don't have everything.
    """

    lease: Any
    header: BatchHeader
    logits: Any
    images: Any
    nbytes: int = 0
    blocks: list[Block] = field(default_factory=list)
    untold: int = 0

    @classmethod
    def from_lease(cls, lease: Any, events_per_block: int, tokens: Iterator[int]) -> Item:
        """Take an item apart.

        Raises
        ------
        BatchError
            If it is not what the contract says.
        """
        source = lease.item
        header = BatchHeader.from_item(source)
        logits = getattr(source, "predictions_ref", None)
        if logits is None:
            logits = getattr(source, "predictions", None)
        images = getattr(source, "original_image_ref", None)
        item = cls(lease, header, logits, images, _nbytes(source, logits, images))
        count = header.n_events
        if count is None:
            item.blocks = [Block(item, next(tokens), None)]
        else:
            item.blocks = [
                Block(item, next(tokens), (first, min(first + events_per_block, count)))
                for first in range(0, count, events_per_block)
            ]
        item.untold = len(item.blocks)
        return item

    def let_go(self) -> None:
        """Forget the blocks, which know the item: its arrays go with the last of them.

        Such a circle would hold them in the object store until Python looks for circles.
        """
        self.blocks.clear()


@dataclass(eq=False)
class Block:
    """Consecutive events of an item.

    Attributes
    ----------
    item
        That they belong to.
    token
        Names the block to the writer.
    span
        First event and the one behind the last; None: all there are.
    attempts
        How often it was given to a task.
    batch
        What the task found.
    unwritten
        Hits, by number of the event, that are in no complete file yet.
    judged
        Whether its events are sorted into hits and others.
    final
        Whether the fate of every event is final.
    told
        Whether ledger and documents have them.
    """

    item: Item
    token: int
    span: tuple[int, int] | None
    attempts: int = 0
    batch: ProcessedBatch | None = None
    unwritten: dict[int, ProcessedEvent] = field(default_factory=dict)
    judged: bool = False
    final: bool = False
    told: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        which = "all events" if self.span is None else f"events {self.span[0]}-{self.span[1] - 1}"
        return f"{which} of batch {self.item.header.batch_id}"

    @property
    def n_events(self) -> int:
        """Number of events; 1 if it is not known."""
        if self.batch is not None:
            return len(self.batch.events)
        return 1 if self.span is None else self.span[1] - self.span[0]


def tokens() -> Iterator[int]:
    """Count blocks."""
    return itertools.count(1)


def _nbytes(source: Any, logits: Any, images: Any) -> int:
    preprocessing = getattr(source, "preprocessing_metadata", None)
    shape = getattr(preprocessing, "preprocessed_shape", None)
    try:
        pixels = int(np.prod([int(n) for n in shape])) if shape is not None else 0
    except (TypeError, ValueError):
        pixels = 0
    found = [getattr(logits, "nbytes", None), getattr(images, "nbytes", None)]
    guess = [pixels * _FLOAT_BYTES * _CLASSES, pixels * _FLOAT_BYTES]
    return sum(int(g if f is None else f) for f, g in zip(found, guess, strict=True))
