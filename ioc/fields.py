"""The kinds of values that fields have, and how a client's data becomes one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from caproto import (
    ChannelByte,
    ChannelDouble,
    ChannelEnum,
    ChannelFloat,
    ChannelInteger,
    ChannelShort,
    ChannelString,
    ChannelType,
)
from caproto._backend import backend

from ioc.channel import Field, PutRefusedError

__all__ = [
    "CharArray",
    "Double",
    "DoubleArray",
    "Enum",
    "FloatArray",
    "Long",
    "LongArray",
    "Short",
    "String",
]


def _decoded(data: Any) -> str:
    return bytes(data[0]).split(b"\0")[0].decode("latin-1")


class Double(Field, ChannelDouble):
    """A 64-bit floating-point field; NaN and infinity are refused from clients."""

    def __init__(self, **kwargs: Any) -> None:
        for edge in ("upper_alarm", "lower_alarm", "upper_warning", "lower_warning"):
            kwargs.setdefault(f"{edge}_limit", math.nan)  # none, where caproto would say 0
        super().__init__(**kwargs)

    def expected(self) -> str:
        """Return what clients may put, in words."""
        return "a finite number"

    def _from_wire(self, data: Any, wire_type: ChannelType) -> float:
        number = float(_decoded(data) if wire_type is ChannelType.STRING else data[0])
        if not math.isfinite(number):
            raise PutRefusedError(f"{self.name} can't take {number}: expected {self.expected()}.")
        return number

    def _to_wire(self, native: Any) -> Any:
        if native is ChannelType.DOUBLE:
            return np.array([self._data["value"]], dtype=">f8")
        if native is ChannelType.STRING:
            precision = self._data.get("precision", 0)
            return [_format(self._data["value"], precision).encode("latin-1")]
        return super()._to_wire(native)


def _format(value: float, precision: int) -> str:
    # As EPICS base: fixed notation while it fits, exponential for what fixed would show as zero.
    if value and (abs(value) < 10.0**-precision or abs(value) >= 1e15):
        return f"{value:.{max(precision, 3)}e}"
    return f"{value:.{precision}f}"


class _Integer(Field):
    _low = -(2**31)
    _high = 2**31 - 1

    def expected(self) -> str:
        """Return what clients may put, in words."""
        return f"a whole number, {self._low} to {self._high}"

    def _from_wire(self, data: Any, wire_type: ChannelType) -> int:
        # Not by caproto's conversion, which wraps what is too large.
        number = int(float(_decoded(data)) if wire_type is ChannelType.STRING else data[0])
        if not self._low <= number <= self._high:
            raise PutRefusedError(f"{self.name} can't take {number}: expected {self.expected()}.")
        return number


class Long(_Integer, ChannelInteger):
    """A 32-bit integer field."""


class Short(_Integer, ChannelShort):
    """A 16-bit integer field."""

    _low = -(2**15)
    _high = 2**15 - 1


class Enum(Field, ChannelEnum):
    """An enumeration; its value is the index of the state."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(self._data["enum_strings"])

    @property
    def state(self) -> str:
        """Name of the present state."""
        return self.states[self.current]

    def set_states(self, states: Iterable[str]) -> None:
        """Give new names to the states (at most 16, each of at most 25 characters)."""
        self.set_properties(enum_strings=tuple(state[:25] for state in states)[:16])

    def expected(self) -> str:
        """Return what clients may put, in words."""
        return f"one of {', '.join(self.states)}"

    def _from_wire(self, data: Any, wire_type: ChannelType) -> int:
        if wire_type is ChannelType.STRING:
            text = _decoded(data)
            if text in self.states:
                return self.states.index(text)
            index = int(text) if text.strip().isdigit() else -1
        else:
            index = int(data[0])
        if not 0 <= index < len(self.states):
            shown = text if wire_type is ChannelType.STRING else index
            raise PutRefusedError(f"{self.name} can't take {shown!r}: expected {self.expected()}.")
        return index


class String(Field, ChannelString):
    """A string of at most 39 characters (longer ones are reached as ``NAME.FIELD$``)."""

    def expected(self) -> str:
        """Return what clients may put, in words."""
        return "text of at most 39 characters"

    def _from_wire(self, data: Any, wire_type: ChannelType) -> str:
        if wire_type is ChannelType.STRING:
            return _decoded(data)
        if wire_type is ChannelType.CHAR:
            return bytes(data).split(b"\0")[0].decode("latin-1")
        return str(data[0])


class CharArray(Field, ChannelByte):
    """A long string as a null-terminated character waveform (ADCore's file paths)."""

    def __init__(self, *, value: str = "", max_length: int = 1024, **kwargs: Any) -> None:
        super().__init__(value=b"\0", max_length=max_length, **kwargs)
        self._data["value"] = self.pack(value)

    def pack(self, text: str) -> bytes:
        """Encode a string for `post`."""
        return text.encode("utf-8", "surrogateescape") + b"\0"

    @property
    def text(self) -> str:
        """Present value as a string; bytes that are no UTF-8 are kept as `os.fsdecode` does."""
        return bytes(self.current).split(b"\0")[0].decode("utf-8", "surrogateescape")

    def expected(self) -> str:
        """Return what clients may put, in words."""
        return f"text of at most {self._max_length - 1} bytes"

    def _from_wire(self, data: Any, wire_type: ChannelType) -> bytes:
        raw = bytes(data[0]) if wire_type is ChannelType.STRING else bytes(data)
        raw = raw.split(b"\0")[0]
        if len(raw) >= self._max_length:
            raise PutRefusedError(
                f"{self.name} takes at most {self._max_length - 1} bytes, found {len(raw)}."
            )
        return raw + b"\0"

    def _to_wire(self, native: Any) -> Any:
        if native is ChannelType.STRING:
            return [bytes(self.current).rstrip(b"\0")[:39]]
        return np.frombuffer(self.current, dtype=np.uint8).astype(backend.type_map[native])


class _Array(Field):
    """Numbers that clients only read; every post is sent, whether they have changed or not."""

    dtype: type[np.generic]

    def expected(self) -> str:
        """Return what clients may put, in words."""
        return f"up to {self.max_length} numbers"

    def __init__(self, *, value: Any = (), max_length: int, **kwargs: Any) -> None:
        super().__init__(value=[0], max_length=max_length, **kwargs)
        self._data["value"] = np.asarray(value, dtype=self.dtype)

    def post(self, value: Any, *, force: bool = True, monitor: bool = True) -> None:
        """Store an array and send monitors."""
        del force
        super().post(np.asarray(value, dtype=self.dtype), force=True, monitor=monitor)

    def number_payload(self, data_type: int) -> bytes | None:  # noqa: ARG002
        """Return None: there are several numbers."""
        return None

    def _to_wire(self, native: Any) -> Any:
        if native is ChannelType.STRING:
            return [f"{number:g}".encode("latin-1") for number in self.current]
        return self.current.astype(backend.type_map[native])


class DoubleArray(_Array, ChannelDouble):
    """A waveform of 64-bit floating-point numbers."""

    dtype = np.float64


class FloatArray(_Array, ChannelFloat):
    """A waveform of 32-bit floating-point numbers."""

    dtype = np.float32


class LongArray(_Array, ChannelInteger):
    """A waveform of 32-bit integers."""

    dtype = np.int32
