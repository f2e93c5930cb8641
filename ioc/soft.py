"""Single-value records that a piece of the IOC owns (area detector PVs)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from ioc.channel import Field, PutHandler, PutRefusedError, shown
from ioc.fields import (
    CharArray,
    Double,
    DoubleArray,
    Enum,
    FloatArray,
    Long,
    LongArray,
    Short,
    String,
)
from ioc.record import Record

__all__ = ["RecordGroup", "Soft"]

_RECORD_TYPES: dict[type[Field], tuple[str, str]] = {
    Double: ("ai", "ao"),
    Long: ("longin", "longout"),
    Enum: ("mbbi", "mbbo"),
    String: ("stringin", "stringout"),
    CharArray: ("waveform", "waveform"),
    DoubleArray: ("waveform", "waveform"),
    FloatArray: ("waveform", "waveform"),
    LongArray: ("waveform", "waveform"),
}


class Soft(Record):
    """A record with one value and no more than the common fields."""

    def __init__(
        self,
        name: str,
        kind: type[Field],
        *,
        put: PutHandler | None = None,
        read_only: bool = False,
        **metadata: Any,
    ) -> None:
        inputs, outputs = _RECORD_TYPES[kind]
        if kind is Enum and len(metadata["enum_strings"]) == 2:
            inputs, outputs = "bi", "bo"
        super().__init__(name, inputs if read_only else outputs, "")
        if "units" in metadata:
            self.add("EGU", String, value=metadata["units"], read_only=True)
        self.value: Any = self.add("VAL", kind, put=put, read_only=read_only, **metadata)

    def set(self, value: Any, *, force: bool = False) -> None:
        """Give a new value; `force` sends monitors even if it is the old one."""
        self.touch()
        self.value.post(value, force=force)

    def add_disable(self) -> None:
        """Add DISA, which some clients connect to."""
        self.add("DISA", Short, value=0, read_only=True)


class RecordGroup:
    """The records of one plugin, by the part of their name behind the prefix.

    Parameters
    ----------
    prefix
        What their names begin with, for example ``BL02:AD1:cam1:``.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.records: dict[str, Soft] = {}

    def readback(self, name: str, kind: type[Field], value: Any, **metadata: Any) -> None:
        """Add a record that clients only read."""
        self.records[name] = Soft(self.prefix + name, kind, value=value, read_only=True, **metadata)

    def setting(
        self,
        name: str,
        kind: type[Field],
        value: Any,
        put: PutHandler | None = None,
        **metadata: Any,
    ) -> None:
        """Add a record that clients write, and its ``_RBV`` partner.

        Without a handler a put is taken as it is and shown by the partner.
        """

        def take(new: Any) -> None:
            self.set(name, new)

        self.records[name] = Soft(
            self.prefix + name, kind, value=value, put=put or take, **metadata
        )
        self.readback(f"{name}_RBV", kind, value, **metadata)

    def control(self, name: str, kind: type[Field], value: Any, **options: Any) -> None:
        """Add a record that clients write and that has no ``_RBV`` partner."""
        self.records[name] = Soft(self.prefix + name, kind, value=value, **options)

    def fixed(self, names: Sequence[str], kind: type[Field], value: Any, **metadata: Any) -> None:
        """Add settings with one possible value: a put of it is fine, of another it is refused."""
        for name in names:
            self.setting(name, kind, value, put=self.only(name, value), **metadata)

    def only(self, name: str, value: Any) -> PutHandler:
        """Return a put handler for a record with one possible value."""
        return self._put_of(name, lambda: value)

    def same(self, name: str) -> PutHandler:
        """Return a put handler for a record whose value only the IOC changes."""
        return self._put_of(name, lambda: self.get(name))

    def _put_of(self, name: str, possible: Callable[[], Any]) -> PutHandler:
        def refuse_others(new: Any) -> None:
            value = possible()
            if new == value:
                return
            field = self.records[name].value
            states = field.states if isinstance(field, Enum) else ()
            found, expected = (states[i] if states else shown(i) for i in (new, value))
            raise PutRefusedError(
                f"{self.prefix}{name} can't be set to {found}: only {expected} is available here."
            )

        return refuse_others

    def get(self, name: str) -> Any:
        """Present value of a record."""
        return self.records[name].value.current

    def set(self, name: str, value: Any) -> None:
        """Give a record, and its ``_RBV`` partner, a new value."""
        self.records[name].set(value)
        partner = self.records.get(f"{name}_RBV")
        if partner is not None:
            partner.set(value)

    def set_text(self, name: str, text: str) -> None:
        """Give a character waveform, and its partner, a new text (cut to its length)."""
        raw = text.encode("utf-8", "surrogateescape")
        if len(raw) > 1000:
            raw = raw[:1000].decode("utf-8", "ignore").encode()
        self.set(name, raw + b"\0")

    def text(self, name: str) -> str:
        """Present text of a character waveform."""
        return str(self.records[name].value.text)

    def alarm(self, status: AlarmStatus, severity: AlarmSeverity) -> None:
        """Put all records into the same alarm state."""
        for record in self.records.values():
            record.touch()
            record.set_alarm(status, severity)

    def clear_alarm(self) -> None:
        """End the alarm of all records."""
        for record in self.records.values():
            record.clear_alarm()

    def lose_link(self) -> None:
        """Mark all records as invalid."""
        for record in self.records.values():
            record.lose_link()
