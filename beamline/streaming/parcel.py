"""Items as a queue carries them: a small pickle, and apart from it the large arrays by reference.

A queue never unpickles items, so it needs none of their classes, and an item that can't be read
harms nobody but its reader.
"""

from __future__ import annotations

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


def pack(item: Any, put: Callable[[Any], Any]) -> Parcel:
    """Take an item apart; `put` is `ray.put`, or something like it."""
    from ray import ObjectRef, cloudpickle

    if isinstance(item, items.PipelineOutput):
        item = item.by_reference(put)
    parts: list[Any] = []

    class Packer(cloudpickle.Pickler):
        def persistent_id(self, value: Any) -> tuple[str, Any] | None:
            if isinstance(value, ObjectRef):
                parts.append(value)
                return "reference", len(parts) - 1
            if items.is_tensor(value):
                return "value", items.as_array(value)
            if (
                isinstance(value, np.ndarray)
                and value.nbytes >= items.LARGE
                and not value.dtype.hasobject
            ):
                parts.append(put(value))
                return "array", len(parts) - 1
            return None

    stream = io.BytesIO()
    Packer(stream, protocol=5).dump(item)
    return Parcel(stream.getvalue(), parts)


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
