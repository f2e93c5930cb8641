"""Values of events as arrays that fit a column, or the kind of column that they need instead.

A data key may promise one thing and deliver another: an integer that becomes 0.5, a waveform whose
length changes, a number that becomes text. Nothing is cut off then: the column becomes wider.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.nexus.names import clean_text

__all__ = ["MisfitError", "as_text", "converted", "fit"]

Array = npt.NDArray[Any]
_FLOAT = np.dtype(np.float64)
#: Integers beyond this are not exact in float64.
_EXACT = 2**53


class MisfitError(Exception):
    """Values do not fit their column; it has to become (`dtype`, `shape`)."""

    def __init__(self, dtype: np.dtype[Any] | None, shape: tuple[int, ...] | None) -> None:
        super().__init__(f"a column of {dtype} {shape} is needed")
        self.dtype = dtype
        self.shape = shape


def fit(
    values: Sequence[Any] | Array, dtype: np.dtype[Any] | None, shape: tuple[int, ...] | None
) -> Array:
    """Make the rows of a column from the values of N events.

    Parameters
    ----------
    values
        N values: numbers, texts, lists or arrays.
    dtype, shape
        Of the column, as in `beamline.nexus.tree.Column`.

    Returns
    -------
    array
        (N, \\*shape) of `dtype`; objects (text, or one array per row) for text and for rows of
        differing length. None becomes NaN or "".

    Raises
    ------
    MisfitError
        If the column can't hold them; it names the column that can. It may have to be asked again
        for that one.
    """  # noqa: D301  (the backslash is for the documentation)
    if dtype is None:
        return _text_rows(values, shape or ())
    if shape is None:
        return _ragged_rows(values, dtype)
    if len(values) == 0:
        return np.empty((0, *shape), dtype)
    if isinstance(values[0], str):
        raise MisfitError(None, ())
    try:
        array = np.asarray(values, dtype=dtype if dtype.kind == "f" else None)
    except (TypeError, ValueError, OverflowError):
        raise MisfitError(*_wider(values, dtype, shape)) from None
    if array.shape != (len(values), *shape) or array.dtype.kind not in "iufb":
        raise MisfitError(*_wider(values, dtype, shape))
    if array.dtype == dtype:
        return array
    return _cast(values, array, dtype, shape)


def _cast(
    values: Sequence[Any] | Array, array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    if array.size == 0 or bool(np.all(cast == array)):
        return cast
    if array.dtype.kind == "f":
        # Integers of both signs beyond int64 make numpy choose float64, which rounds them.
        if shape == () and any(isinstance(value, int) and abs(value) > _EXACT for value in values):
            if not all(isinstance(value, int) and 0 <= value < 2**64 for value in values):
                raise MisfitError(None, ())
            if dtype == np.uint64:
                return np.array(values, dtype=np.uint64)
            raise MisfitError(np.dtype(np.uint64), ())
        raise MisfitError(_FLOAT, shape)
    for wider in (np.int64, np.uint64):
        if bool(np.all(array.astype(wider) == array)):
            raise MisfitError(np.dtype(wider), shape)
    raise MisfitError(_FLOAT, shape)


def _wider(
    values: Sequence[Any] | Array, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[np.dtype[Any] | None, tuple[int, ...] | None]:
    """Kind of column for values of which no array of the right shape could be made."""
    if shape == () and all(_is_number(value) for value in values):
        large = [v for v in values if isinstance(v, int) and abs(v) > _EXACT]
        return (None, ()) if large else (_FLOAT, ())
    try:
        rows = [np.asarray(value) for value in values]
    except (TypeError, ValueError):
        return None, ()
    if any(row.dtype.kind not in "iufb" for row in rows):
        return None, ()
    common = np.result_type(dtype, *rows)
    if len({row.shape for row in rows}) == 1 and rows[0].size:
        return common, rows[0].shape
    return (common, None) if all(row.ndim <= 1 for row in rows) else (None, ())


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | np.number | np.bool_)


def _ragged_rows(values: Sequence[Any] | Array, dtype: np.dtype[Any]) -> Array:
    rows = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        try:
            row = np.atleast_1d(np.asarray([] if value is None else value))
        except (TypeError, ValueError):
            raise MisfitError(None, ()) from None
        if row.ndim != 1 or row.dtype.kind not in "iufb":
            raise MisfitError(None, ())
        common = np.result_type(dtype, row) if row.size else dtype
        if common != dtype:
            raise MisfitError(common, None)
        rows[index] = row.astype(dtype)
    return rows


def _text_rows(values: Sequence[Any] | Array, shape: tuple[int, ...]) -> Array:
    if shape == ():
        rows = np.empty(len(values), dtype=object)
        rows[:] = [as_text(value) for value in values]
        return rows
    nested = np.empty((len(values), *shape), dtype=object)
    for index, value in enumerate(values):
        row = np.asarray(value, dtype=object)
        if row.shape != shape:
            raise MisfitError(None, ())
        nested[index] = np.vectorize(as_text, otypes=[object])(row)
    return nested


def as_text(value: Any) -> str:
    """Return text as it is, None as "", anything else as JSON (or as Python shows it)."""
    if isinstance(value, str):
        return clean_text(value)
    if value is None:
        return ""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    try:
        return clean_text(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):
        return clean_text(str(value))


def converted(rows: Array, dtype: np.dtype[Any] | None, shape: tuple[int, ...] | None) -> Array:
    """Rows that were written already, as rows of the wider column that replaces theirs."""
    if dtype is not None and shape is not None:
        return rows.astype(dtype)
    listed = [row.decode() if isinstance(row, bytes) else row for row in rows]
    return fit(listed, dtype, shape)
