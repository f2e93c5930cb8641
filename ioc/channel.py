"""Fields: the values that Channel Access clients connect to.

caproto's ``ChannelData`` classes supply types and metadata; what differs here is how values move.
`Field.post` is synchronous, so several fields change together before any client sees one of them;
a client's put runs a handler at once, which may refuse it or answer it later; limits and alarms
are the record's business and are never evaluated behind its back on an internal write.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from caproto import (
    AccessRights,
    AlarmSeverity,
    AlarmStatus,
    ChannelAlarm,
    ChannelType,
    SubscriptionType,
)
from caproto._backend import backend
from caproto._dbr import (
    DBR_TYPES,
    TimeStamp,
    _channel_type_by_name,
    _LongStringChannelType,
    native_type,
    native_types,
)
from caproto._utils import ConversionDirection

from beamline.core.errors import BeamlineError
from ioc.wire import SCALARS, as_bytes

__all__ = [
    "ALARM_CHANGED",
    "PROPERTY_CHANGED",
    "VALUE_CHANGED",
    "Alarm",
    "Completion",
    "Field",
    "PutHandler",
    "PutRefusedError",
    "Stamp",
    "settle",
    "shown",
]

VALUE_CHANGED = SubscriptionType.DBE_VALUE | SubscriptionType.DBE_LOG
ALARM_CHANGED = SubscriptionType.DBE_ALARM
PROPERTY_CHANGED = SubscriptionType.DBE_PROPERTY

#: A type's number is that of its native type and a multiple of this: alone, with status, with time.
_TYPES = 7
_EPICS_EPOCH = 631152000

#: What a put handler returns: None when the put is finished, or a future that ends when it is.
Completion = asyncio.Future[None] | None
PutHandler = Callable[[Any], Completion]


def settle(waiting: Iterable[asyncio.Future[None]], failure: BaseException | None) -> None:
    """Answer the clients that wait for the end of an action; None: it succeeded."""
    for completion in waiting:
        if completion.done():
            continue
        if failure is None:
            completion.set_result(None)
        else:
            completion.set_exception(failure)
            # Marks it as seen: a client that went away asks for nothing any more.
            completion.exception()


class PutRefusedError(BeamlineError, ValueError):
    """A client's put was refused; the message names the PV, the value and what is allowed."""


class Dispatcher(Protocol):
    """Where monitor updates go: the server's context."""

    def deliver(self, spec: Any, field: Field, flags: int, only: Any = None) -> None:
        """Send the present value to the subscribers of `spec`, or to one of them."""


class Alarm(ChannelAlarm):
    """Alarm state that all fields of a record share."""

    def set(self, status: AlarmStatus, severity: AlarmSeverity) -> bool:
        """Set the state without publishing it; return whether it changed."""
        if (self.status, self.severity) == (status, severity):
            return False
        self._data["status"] = status
        self._data["severity"] = severity
        self._data["severity_to_acknowledge"] = max(
            severity, self.severity_to_acknowledge if self.must_acknowledge_transient else 0
        )
        return True


class Stamp:
    """Time stamp that all fields of a record share (s since 1970)."""

    def __init__(self) -> None:
        self.time = time.time()


class Field:
    """Mix-in for the ``ChannelData`` classes below.

    Parameters
    ----------
    put
        Handler of client puts. It stores the value with `post` if it accepts it, and raises
        `PutRefusedError` if it doesn't. Without a handler the value is simply stored.
    read_only
        Whether clients are denied write access.
    stamp, alarm
        Shared with the other fields of the record.
    **kwargs
        Value and metadata, as the ``ChannelData`` class takes them.
    """

    # Members of ChannelData, which is untyped.
    _data: dict[str, Any]
    _content: dict[str, Any]
    data_type: ChannelType
    max_length: int
    string_encoding: str | None
    alarm: Alarm
    reported_record_type: str
    calculate_length: Callable[[Any], int]

    def __init__(
        self,
        *,
        put: PutHandler | None = None,
        read_only: bool = False,
        stamp: Stamp | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("alarm", Alarm())
        super().__init__(**kwargs)
        self.put = put
        self.read_only = read_only
        #: Clients may write even while the IOC is switched offline.
        self.always_writable = False
        #: Called when a client's value is none for this field, before the put is refused.
        self.on_unusable: Callable[[], None] | None = None
        #: Of a setting that the device server keeps: count its value as one that a client has put.
        self.claim: Callable[[], None] | None = None
        self.stamp = stamp or Stamp()
        self.name = ""
        self._subscribers: dict[Any, Dispatcher] = {}

    @property
    def current(self) -> Any:
        """Present value (an index for enumerations)."""
        return self._data["value"]

    def metadata(self) -> Mapping[str, Any]:
        """Units, limits, names of states and the like."""
        return {key: value for key, value in self._data.items() if key != "value"}

    # ---- changes from inside

    def post(self, value: Any, *, force: bool = False, monitor: bool = True) -> None:
        """Store a value and send monitors if it changed.

        Parameters
        ----------
        value
            New value, of this field's type.
        force
            Send monitors even if the value is the same.
        monitor
            False stores only (monitor deadband).
        """
        changed = force or not _same(value, self._data["value"])
        self._data["value"] = value
        if changed and monitor:
            self.publish_now(VALUE_CHANGED)

    def set_properties(self, **properties: Any) -> None:
        """Change metadata such as ``upper_ctrl_limit``, ``units``, ``enum_strings``."""
        changed = {
            key: value for key, value in properties.items() if not _same(value, self._data.get(key))
        }
        if changed:
            self._data.update(changed)
            self.publish_now(PROPERTY_CHANGED)

    def publish_now(self, flags: int) -> None:
        """Send the present state to all subscribers whose mask matches."""
        self._content.clear()
        for spec, dispatcher in self._subscribers.items():
            if spec.mask & flags:
                dispatcher.deliver(spec, self, flags)

    # ---- puts from clients

    def check_access(self, hostname: str | None, username: str | None) -> AccessRights:  # noqa: ARG002
        """Access rights that clients are told."""
        if self.read_only:
            return AccessRights.READ
        return AccessRights.READ | AccessRights.WRITE

    def client_put(self, data: Any, data_type: ChannelType) -> Completion:
        """Handle a put from the network.

        Raises
        ------
        PutRefusedError
            If the value can't be converted, or the handler refuses it.
        """
        if self.read_only:
            raise PutRefusedError(f"{self.name} was not set to {shown(data)}: the PV is read-only.")
        try:
            value = self._from_wire(data, native_type(data_type))
        except Exception as error:
            if self.on_unusable is not None:
                self.on_unusable()
            if isinstance(error, PutRefusedError):
                raise
            raise PutRefusedError(
                f"{self.name} can't take {shown(data)}: expected {self.expected()}."
            ) from error
        if self.put is None:
            self.stamp.time = time.time()
            self.post(value)
            return None
        return self.put(value)

    def expected(self) -> str:
        """Return what clients may put, as it may stand in a message."""
        raise NotImplementedError

    def _from_wire(self, data: Any, wire_type: ChannelType) -> Any:
        """Convert a client's data, of any of the native types, to a value of this field."""
        raise NotImplementedError

    # ---- the network side, called by caproto

    async def subscribe(self, queue: Dispatcher, sub_spec: Any, sub: Any) -> None:
        """Register a subscription and send it the present value."""
        self._subscribers[sub_spec] = queue
        self._content.clear()
        queue.deliver(sub_spec, self, 0, only=sub)

    async def unsubscribe(self, dispatcher: Dispatcher, spec: Any) -> None:  # noqa: ARG002
        """Forget a kind of subscription that nobody has any more."""
        self._subscribers.pop(spec, None)

    async def publish(self, flags: int) -> None:
        """Publish on behalf of caproto (alarm acknowledgement)."""
        self.publish_now(flags)

    async def write(self, value: Any, **_: Any) -> None:
        """Write from inside through caproto's interface: never refused, never evaluated."""
        self.post(value)

    async def _read(self, data_type: ChannelType) -> tuple[Any, Any]:
        return self._encode(data_type)

    def published(self, type_name: str) -> tuple[Any, Any]:
        """Metadata and values of the update that is being sent, by the name of their type."""
        if type_name not in self._content:
            self._content[type_name] = self._encode(_channel_type_by_name[type_name])
        return self._content[type_name]

    def published_payload(self, type_name: str) -> tuple[bytes, int]:
        """Payload and number of values of the update that is being sent."""
        # caproto's type names are in capitals, so these keys are free.
        key = type_name.lower()
        if key not in self._content:
            self._content[key] = self.payload(_channel_type_by_name[type_name])
        return self._content[key]

    def payload(self, data_type: Any) -> tuple[bytes, int]:
        """Return the present value as the payload of a message, and the number of values."""
        number = self.number_payload(data_type)
        if number is not None:
            return number, 1
        metadata, values = self._encode(data_type)
        count = self.calculate_length(values)
        return as_bytes(metadata, values, ChannelType(data_type), count), count

    def number_payload(self, data_type: int) -> bytes | None:
        """Return the payload if this is a number and is asked for as one of its own type."""
        layouts = SCALARS.get(self.data_type)
        kind, native = divmod(data_type, _TYPES)
        if layouts is None or native != self.data_type or kind > 2:
            return None
        value = self._data["value"]
        if kind == 0:
            return layouts[0].pack(value)
        alarm = self.alarm._data  # noqa: SLF001  (its properties make enumerations)
        if kind == 1:
            return layouts[1].pack(alarm["status"], alarm["severity"], value)
        seconds, nanoseconds = divmod(round(self.stamp.time * 1e9), 1_000_000_000)
        return layouts[2].pack(
            alarm["status"], alarm["severity"], max(seconds - _EPICS_EPOCH, 0), nanoseconds, value
        )

    @property
    def epics_timestamp(self) -> TimeStamp:
        """Time stamp of the record."""
        return TimeStamp.from_unix_timestamp(self.stamp.time)

    def _encode(self, data_type: Any) -> tuple[Any, Any]:
        """Value and metadata as ``(metadata, values)`` for the wire."""
        if data_type is ChannelType.STSACK_STRING:
            dbr = DBR_TYPES[data_type]()
            _fill_alarm(dbr, self.alarm)
            return dbr, b""
        if data_type is ChannelType.CLASS_NAME:
            dbr = DBR_TYPES[data_type]()
            dbr.value = self.reported_record_type.encode("latin-1")
            return dbr, b""
        if data_type in _LongStringChannelType:
            native: Any = _LongStringChannelType.LONG_STRING
            data_type = ChannelType(data_type)
        else:
            native = native_type(data_type)
        values = self._to_wire(native)
        if data_type in native_types:
            return b"", values
        dbr = DBR_TYPES[data_type]()
        self._read_metadata(dbr)  # type: ignore[attr-defined]
        _fill_alarm(dbr, self.alarm)
        return dbr, values

    def _to_wire(self, native: Any) -> Any:
        return backend.convert_values(
            values=self._data["value"],
            from_dtype=self.data_type,
            to_dtype=native,
            string_encoding=self.string_encoding,
            enum_strings=self._data.get("enum_strings"),
            direction=ConversionDirection.TO_WIRE,
        )


def _fill_alarm(dbr: Any, alarm: Alarm) -> None:
    for name, value in (
        ("status", alarm.status),
        ("severity", alarm.severity),
        ("ackt", int(alarm.must_acknowledge_transient)),
        ("acks", alarm.severity_to_acknowledge),
    ):
        if hasattr(dbr, name):
            setattr(dbr, name, value)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return bool(first == second)


def shown(data: Any) -> str:
    """Return a client's data as it may stand in a message."""
    if isinstance(data, (Sequence, np.ndarray)) and not isinstance(data, (bytes, str)):
        if not len(data):
            return "an empty array"
        data = data[0] if len(data) == 1 else np.asarray(data[:20]).tolist()
    if isinstance(data, np.generic):
        data = data.item()
    if isinstance(data, bytes):
        data = data.split(b"\0")[0].decode("latin-1")
    text = repr(data)
    return text if len(text) <= 80 else text[:77] + "..."
