"""What the schemas check of one field; a failure names schema, field, expected and found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.xpcs.adapters import host_array

__all__ = ["Field", "SchemaValidationError"]

Shape = tuple[int, ...]


class SchemaValidationError(BeamlineError, ValueError):
    """A field of an XPCS schema has the wrong shape, type, unit or values."""


class Field:
    """One field of a schema; its methods return the value in the form to be stored, or raise."""

    __slots__ = ("_name",)

    def __init__(self, schema: object, name: str) -> None:
        if isinstance(schema, str):
            self._name = f"{schema}: {name}"
        else:
            owner = schema if isinstance(schema, type) else type(schema)
            self._name = f"{owner.__name__}.{name}"

    def fail(self, expected: str, found: object) -> SchemaValidationError:
        """Return the error that says what was expected and what was found."""
        return SchemaValidationError(f"{self._name}: expected {expected}, found {found}.")

    def number(self, value: Any) -> float:
        """Return a finite number."""
        if isinstance(value, bool | str | bytes) or value is None:
            raise self.fail("a number", repr(value))
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self.fail("a number", repr(value)) from None
        if not math.isfinite(number):
            raise self.fail("a finite number", number)
        return number

    def positive(self, value: Any) -> float:
        """Return a number greater than 0."""
        number = self.number(value)
        if number <= 0.0:
            raise self.fail("a number greater than 0", f"{number:g}")
        return number

    def count(self, value: Any, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        number = self.number(value)
        if not number.is_integer() or number < least:
            raise self.fail(f"a whole number of at least {least}", f"{number:g}")
        return int(number)

    def choice(self, value: Any, choices: Sequence[str]) -> str:
        """Return one of `choices`."""
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if text not in choices:
            raise self.fail(f"one of {', '.join(choices)}", repr(value))
        return str(text)

    def text(self, value: Any) -> str:
        """Return text."""
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise self.fail("text", repr(value))
        return str(text)

    def image_shape(self, value: Any) -> tuple[int, int]:
        """Return the shape (H, W) of an image that has pixels."""
        try:
            sizes = [self.count(size, least=1) for size in value]
        except TypeError:
            raise self.fail("a shape (H, W)", repr(value)) from None
        if len(sizes) != 2:
            raise self.fail("a shape (H, W)", tuple(sizes))
        return sizes[0], sizes[1]

    def numbers(
        self, value: Any, shape: Shape | None = None, *, dimensions: int = 1, nan: bool = False
    ) -> npt.NDArray[np.float64]:
        """Return finite float64 numbers of `shape` (None: any of so many dimensions), read-only.

        With `nan`, NaN is allowed.
        """
        array = self._real(value)
        self._check_shape(array, shape, dimensions)
        numbers = array if array.dtype == np.float64 else array.astype(np.float64)
        finite = ~np.isinf(numbers) if nan else np.isfinite(numbers)
        if not finite.all():
            count = numbers.size - int(np.count_nonzero(finite))
            raise self.fail("finite numbers", f"{count} NaN or infinite of {numbers.size}")
        return _read_only(numbers)

    def image(self, value: Any, shape: Shape | None = None) -> npt.NDArray[np.float64]:
        """Return a finite float64 map (H, W), read-only."""
        return self.numbers(value, shape, dimensions=2)

    def integers(self, value: Any, shape: Shape | None = None) -> npt.NDArray[np.int32]:
        """Return whole numbers (H, W) as int32, read-only; booleans become 0 and 1."""
        array = self._real(value)
        self._check_shape(array, shape, dimensions=2)
        if array.dtype == np.int32:
            return _read_only(array)
        if array.dtype.kind in "bui" and np.can_cast(array.dtype, np.int32, "safe"):
            return _read_only(array.astype(np.int32))
        with np.errstate(invalid="ignore"):
            integers = array.astype(np.int32)
        if not np.array_equal(integers, array):
            raise self.fail("whole numbers that fit into int32", f"others, of type {array.dtype}")
        return _read_only(integers)

    def mask(self, value: Any, shape: Shape | None = None) -> npt.NDArray[np.int32]:
        """Return a mask (H, W) of 0 and 1 as int32, read-only."""
        mask = self.integers(value, shape)
        # As unsigned numbers, negative ones are large: one pass is enough.
        if mask.view(np.uint32).max() > 1:
            raise self.fail("only 0 (masked) and 1 (valid)", f"{_some(mask[(mask >> 1) != 0])}")
        return mask

    def labels(self, value: Any, shape: Shape | None = None) -> npt.NDArray[np.int32]:
        """Return labels (H, W) of bins, 0 and greater, as int32, read-only."""
        labels = self.integers(value, shape)
        if labels.min() < 0:
            raise self.fail("labels of 0 (masked) and greater", _some(labels[labels < 0]))
        return labels

    def _real(self, value: Any) -> npt.NDArray[Any]:
        if value is None:
            raise self.fail("an array", "nothing")
        try:
            array = host_array(value)
        except (TypeError, ValueError):
            raise self.fail("an array of numbers", f"a {type(value).__name__}") from None
        if array.dtype.kind not in "buif":
            raise self.fail("an array of real numbers", f"one of type {array.dtype}")
        return array

    def _check_shape(self, array: npt.NDArray[Any], shape: Shape | None, dimensions: int) -> None:
        if shape is not None and array.shape != shape:
            raise self.fail(f"shape {shape}", f"shape {array.shape}")
        if array.ndim != dimensions or not array.size:
            raise self.fail(
                f"{dimensions} dimension(s), none of them empty", f"shape {array.shape}"
            )


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _some(values: npt.NDArray[Any]) -> str:
    shown = ", ".join(str(value) for value in np.unique(values)[:3])
    return f"{values.size} other value(s): {shown}"


def same(left: Any, right: Any) -> bool:
    """Whether two values of a field are equal, arrays element by element."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return (
            isinstance(left, np.ndarray)
            and isinstance(right, np.ndarray)
            and np.array_equal(left, right)
        )
    return bool(left == right)


def require(schema: type, data: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise SchemaValidationError if `data` lacks one of `names`."""
    missing = [name for name in names if data.get(name) is None]
    if missing:
        raise SchemaValidationError(
            f"{schema.__name__}: expected the key(s) {', '.join(missing)}, found only"
            f" {', '.join(sorted(map(str, data))) or 'nothing'}."
        )
