"""What the columns of a run hold, found by reading it once before it is written.

tiled keeps scalars in SQL tables, whose columns have one type for good (that of the first batch),
no lists, and names that SQL allows; arrays go to zarr, with one shape for all rows. Documents
promise none of that. A survey of the whole run decides for each column what keeps most of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from beamline.catalog._plain import plain
from beamline.documents import DocumentError

__all__ = ["Column", "Stream", "survey"]

_INT64 = 2**63
_SQL_BYTES = 63 - len("ts_")
_NOT_SQL = re.compile(r"[^\w .:\-]|--+")
_SCALARS = {float: "float", int: "int", bool: "bool", str: "str", type(None): "none"}


class Column:
    """One data key of one stream.

    Attributes
    ----------
    name : str
        As which it is stored: the data key, unless SQL has no place for that.
    convert : callable
        From a value in a document to the stored one.
    """

    def __init__(self, key: str, declared: Mapping[str, Any]) -> None:
        self.key = self.name = key
        self.declared = declared
        self.convert: Callable[[Any], Any] = plain
        self._changes: dict[str, Any] = {}
        self._kinds: set[str] = set()
        self._shapes: set[tuple[int, ...]] = set()
        self._dtypes: set[np.dtype[Any]] = set()

    def observe(self, value: Any) -> None:
        """Take note of one value."""
        kind = _SCALARS.get(type(value))
        if kind == "int" and not -_INT64 <= value < _INT64:
            kind = "float"
        if kind is not None:
            self._kinds.add(kind)
        elif isinstance(value, np.ndarray | list | tuple):
            self._observe_array(value)
        elif isinstance(value, np.generic):
            self.observe(plain(value))
        else:
            self._kinds.add("list" if isinstance(plain(value), list | dict) else "str")

    def _observe_array(self, value: Any) -> None:
        try:
            array = np.asarray(value)
        except ValueError:  # nested lists of different lengths
            self._kinds.add("list")
            return
        if array.dtype.kind in "biufU" and not isinstance(value, np.ma.MaskedArray):
            self._kinds.add("array")
            self._shapes.add(array.shape)
            self._dtypes.add(array.dtype)
        else:
            self._kinds.add("list")

    def settle(self) -> None:
        """Decide how the column is stored; all values have been observed."""
        kinds = self._kinds - {"none"}
        missing = "none" in self._kinds
        if not kinds:
            numeric = self.declared.get("dtype") in ("number", "integer", "boolean")
            self.convert = _float if numeric else plain
            if self.declared.get("dtype") == "array":
                self._as_text()
        elif kinds == {"array"} and not missing and self._settle_array():
            pass
        elif kinds & {"array", "list"}:
            self._as_text()
        elif "str" in kinds:
            self.convert = _string
        elif (kinds == {"bool"} and not missing) or (
            kinds == {"int"} and not missing and self.declared.get("dtype") != "number"
        ):
            self.convert = plain
        else:
            self.convert = _float

    def _is_number(self) -> bool:
        # A motor that stands at whole numbers is a number all the same.
        return self.declared.get("dtype") == "number"

    def _settle_array(self) -> bool:
        dtype = np.result_type(*self._dtypes)
        if len(self._shapes) == 1:
            (shape,) = self._shapes
            self.convert = lambda value: np.asarray(value, dtype=dtype)
        elif all(len(shape) == 1 for shape in self._shapes) and dtype.kind in "biuf":
            # As tiled does with ragged rows; the length of each is that before the NaNs.
            shape, dtype = max(self._shapes), np.dtype(np.float64)
            self.convert = lambda value: _padded(value, shape[0])
        else:
            return False
        if not shape or 0 in shape:
            return False
        self._changes = {"dtype": "array", "shape": list(shape), "dtype_numpy": dtype.str}
        return True

    def _as_text(self) -> None:
        self.convert = _json
        self._changes = {"dtype": "string", "shape": [], "dtype_numpy": None, "stored_as": "json"}

    def data_key(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry of the stored descriptor."""
        made = {**declared, **self._changes}
        if made.get("dtype_numpy", "") is None:
            del made["dtype_numpy"]
        if self.name != self.key:
            made["original_key"] = self.key
        return made


class Stream:
    """The columns of one stream, by data key; external keys are not among them."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}

    def declare(self, data_keys: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what a descriptor says."""
        for key, declared in data_keys.items():
            if "external" not in declared:
                self.columns.setdefault(key, Column(key, declared))

    def event(self, data: Mapping[str, Any]) -> None:
        """Observe one row."""
        for key, column in self.columns.items():
            column.observe(data.get(key))

    def page(self, data: Mapping[str, list[Any]], rows: int) -> None:
        """Observe the rows of an event page."""
        for key, column in self.columns.items():
            for value in data.get(key, [None] * rows):
                column.observe(value)

    def settle(self) -> None:
        """Decide about types and names."""
        # "time" and "seq_num" are columns that tiled adds.
        taken = {"time", "seq_num"}
        for key, column in self.columns.items():
            column.settle()
            column.name = _sql_name(key, taken)
            taken |= {column.name.lower(), f"ts_{column.name}".lower()}


def survey(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Stream]:
    """Read the documents of one run; return its streams by their names.

    Raises
    ------
    DocumentError
        For an event without descriptor.
    """
    streams: dict[str, Stream] = {}
    by_descriptor: dict[str, Stream] = {}
    for name, doc in documents:
        if name == "descriptor":
            stream = streams.setdefault(doc.get("name", "primary"), Stream())
            stream.declare(doc.get("data_keys", {}))
            by_descriptor[doc["uid"]] = stream
        elif name in ("event", "event_page"):
            if doc["descriptor"] not in by_descriptor:
                raise DocumentError(
                    f"{name} refers to descriptor {doc['descriptor']}, which is not in the journal"
                )
            stream = by_descriptor[doc["descriptor"]]
            if name == "event":
                stream.event(doc["data"])
            else:
                stream.page(doc["data"], len(doc["seq_num"]))
    for stream in streams.values():
        stream.settle()
    return streams


def _sql_name(key: str, taken: set[str]) -> str:
    name = _NOT_SQL.sub("_", key)
    if not re.match(r"[A-Za-z]", name):  # tiled keeps the underscore for itself
        name = f"k_{name}"
    if len(name.encode()) > _SQL_BYTES - 3:  # room for a suffix
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        name = f"{name.encode()[: _SQL_BYTES - 12].decode(errors='ignore')}_{digest}"
    candidates = [name, f"{name}_", *(f"{name}_{n}" for n in range(2, 100))]
    return next(
        candidate
        for candidate in candidates
        if not {candidate.lower(), f"ts_{candidate}".lower()} & taken
    )


def _float(value: Any) -> Any:
    # Not None: a batch with nothing else would make it a column of text.
    return math.nan if value is None else float(value)


def _string(value: Any) -> Any:
    value = plain(value)
    return value if value is None or isinstance(value, str) else str(value)


def _json(value: Any) -> Any:
    value = plain(value)
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _padded(value: Any, length: int) -> Any:
    row = np.full(length, np.nan)
    row[: len(value)] = value
    return row
