"""Items as a queue carries them: a small pickle, and apart from it the large arrays by reference.

A queue never unpickles items, so it needs none of their classes, and an item that can't be read
harms nobody but its reader.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from beamline.streaming import items

__all__ = ["Parcel", "pack", "unpack"]


@dataclass(slots=True)
class Parcel:
    """One packed item.

    Attributes
    ----------
    skeleton
        The pickle; its large arrays and references are numbered places in `parts`.
    parts
        Ray references.
    sequence
        Number that the producer gave it; the second one of the same number is the same item.
    stamp
        When it was put, ns since 1970: orders the items of several shards.
    """

    skeleton: bytes
    parts: list[Any] = field(default_factory=list)
    sequence: int = 0
    stamp: int = 0

    def on_the_wire(self) -> tuple[bytes, list[Any], int, int]:
        """Return the arguments that make it again: a tuple is pickled 15 times as fast."""
        return self.skeleton, self.parts, self.sequence, self.stamp


def pack(item: Any, put: Callable[[Any], Any]) -> Parcel:
    """Take an item apart; `put` is `ray.put`, or something like it."""
    if isinstance(item, items.PipelineOutput):
        item = item.by_reference(put)
    stream = io.BytesIO()
    packer = _packer_class()(stream, put)
    packer.dump(item)
    return Parcel(stream.getvalue(), packer.parts)


@functools.cache
def _packer_class() -> Any:
    from ray import ObjectRef, cloudpickle

    class Packer(cloudpickle.Pickler):
        def __init__(self, stream: io.BytesIO, put: Callable[[Any], Any]) -> None:
            super().__init__(stream, protocol=5)
            self.put = put
            self.parts: list[Any] = []

        def persistent_id(self, value: Any) -> tuple[str, Any] | None:
            if isinstance(value, np.ndarray):
                if value.nbytes < items.LARGE or value.dtype.hasobject:
                    return None
                self.parts.append(self.put(value))
                return "array", len(self.parts) - 1
            if isinstance(value, ObjectRef):
                self.parts.append(value)
                return "reference", len(self.parts) - 1
            if items.is_tensor(value):
                return "value", items.as_array(value)
            return None

    return Packer


def unpack(skeleton: bytes, parts: Sequence[Any], get: Callable[[Any], Any]) -> Any:
    """Put an item together again.

    Parameters
    ----------
    skeleton, parts
        Of the parcel.
    get
        `ray.get`: arrays that were part of the item itself are fetched, references stay references.
    """
    unpacker = _Unpacker(io.BytesIO(skeleton))
    unpacker.parts, unpacker.get = parts, get
    return unpacker.load()


class _Unpacker(pickle.Unpickler):
    parts: Sequence[Any]
    get: Callable[[Any], Any]

    def persistent_load(self, place: tuple[str, Any]) -> Any:
        kind, value = place
        if kind == "value":
            return value
        return self.parts[value] if kind == "reference" else self.get(self.parts[value])
