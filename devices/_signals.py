"""Signals that are read by asking the IOC, several in one round trip, and that know their unit.

After a put has completed, a monitored value was measured to be stale nine times of ten and a plain
get never. Everything that ends up in an event is therefore read with these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.utils.epics_pvs import AlarmSeverity, AlarmStatus

from beamline.core.errors import ConnectionLostError, DeviceServerError, MissingError
from devices._operation import Operation

__all__ = [
    "INVALID",
    "ChoiceSignal",
    "FreshSignal",
    "FreshSignalRO",
    "Sample",
    "VerifiedSignal",
    "answers",
    "get",
    "read_fresh",
    "read_many",
]

#: Seconds that an IOC may take to answer a get.
READ_TIMEOUT = 3.0
#: Severity of a value that must not be used (EPICS ``INVALID_ALARM``).
INVALID = 3


class Sample(NamedTuple):
    """One value as the IOC gave it.

    Attributes
    ----------
    value
        The value, of the PV's native type.
    timestamp : float
        The record's time stamp (s since 1970).
    severity : int
        Alarm severity: 0 none, 1 minor, 2 major, 3 invalid.
    status : int
        Alarm status (EPICS ``STAT``).
    """

    value: Any
    timestamp: float
    severity: int
    status: int

    @property
    def alarm(self) -> str:
        """The alarm in words, for example ``"INVALID (COMM)"``."""
        severity = AlarmSeverity(self.severity).name.removesuffix("_ALARM")
        return f"{severity} ({AlarmStatus(self.status).name})"


class _Fresh:
    """What both signal classes add to ophyd's: unit of last resort, and `read` by a plain get."""

    name: str
    pvname: str
    _read_pv: Any

    def __init__(self, *args: Any, units: str = "", **kwargs: Any) -> None:
        self._units = units
        super().__init__(*args, **kwargs)

    @property
    def channel(self) -> Any:
        """The pyepics ``PV`` that is read."""
        return self._read_pv

    def read(self) -> dict[str, dict[str, Any]]:
        """Read the value and its time stamp from the IOC, never from a monitor's cache."""
        (sample,) = read_many([self])
        return {self.name: {"value": sample.value, "timestamp": sample.timestamp}}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Describe the signal; the record's EGU wins over the unit stated in the code."""
        description: dict[str, dict[str, Any]] = super().describe()  # type: ignore[misc]
        key = description[self.name]
        key["units"] = key.get("units") or self._units
        return description


class FreshSignalRO(_Fresh, EpicsSignalRO):
    """A read-only PV of numbers that is always read from the IOC.

    Parameters
    ----------
    units
        Unit of the value where the record has no EGU.
    """


class FreshSignal(_Fresh, EpicsSignal):
    """A PV of numbers that is always read from the IOC.

    Parameters
    ----------
    units
        Unit of the value where the record has no EGU.
    """


class VerifiedSignal(FreshSignal):
    """A PV of numbers whose `set` is done when the record holds the value.

    pyepics reports a refused put like a completed one, so the value is read back.

    Parameters
    ----------
    units
        Unit of the value where the record has no EGU.
    """

    #: Seconds that a put may take.
    put_timeout = 10.0

    def set(
        self, value: float, *, timeout: float | None = None, settle_time: float | None = None
    ) -> Operation:
        """Write a value.

        Raises
        ------
        ValueError
            If it is outside the record's limits.
        ConnectionLostError
            If the record can't be written.
        """
        self.check_value(value)
        return Operation(
            self,
            f"the setting of {self.setpoint_pvname} to {value:g}",
            timeout_after=timeout or self.put_timeout,
            busy=self._answers_and_is_idle,
            verify=lambda operation: self._verify(operation, value),
            error=DeviceServerError,
            settle_time=settle_time or 0.0,
        ).begin(self, value)

    def _answers_and_is_idle(self, timeout: float) -> bool:
        _read([self._write_pv], timeout)
        return False

    def _verify(self, operation: Operation, value: float) -> None:
        (sample,) = _read([self._write_pv])
        if sample.severity >= INVALID:
            raise DeviceServerError(
                f"{operation.what} left it in alarm, {sample.alarm}: is the device server running?"
            )
        if not math.isclose(sample.value, value, rel_tol=1e-6, abs_tol=1e-12):
            raise DeviceServerError(
                f"{operation.what} was refused: it still holds {sample.value:g}."
            )


class ChoiceSignal(EpicsSignal):
    """An enumerated PV that is read and written as text; `set` is done when the record holds it."""

    #: Seconds that a put may take.
    put_timeout = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, string=True, **kwargs)

    @property
    def choices(self) -> tuple[str, ...]:
        """The states of the record."""
        return tuple(self.enum_strs or ())

    def set(
        self, value: str, *, timeout: float | None = None, settle_time: float | None = None
    ) -> Operation:
        """Write one of the choices.

        Raises
        ------
        MissingError
            If there is no such choice.
        ConnectionLostError
            If the record can't be written.
        """
        if value not in self.choices:
            raise MissingError(
                f"{self.setpoint_pvname} has no choice {value!r}: expected one of "
                f"{', '.join(self.choices)}."
            )
        return Operation(
            self,
            f"the setting of {self.setpoint_pvname} to {value!r}",
            timeout_after=timeout or self.put_timeout,
            busy=lambda patience: get(self, patience) != value,
            verify=lambda operation: self._verify(operation, value),
            error=DeviceServerError,
            settle_time=settle_time or 0.0,
        ).begin(self, value)

    def _verify(self, operation: Operation, value: str) -> None:
        found = get(self)
        if found != value:
            raise DeviceServerError(f"{operation.what} was refused: it still holds {found!r}.")


def read_many(
    signals: Sequence[FreshSignal | FreshSignalRO | _Fresh], timeout: float = READ_TIMEOUT
) -> list[Sample]:
    """Read many PVs in one round trip.

    Parameters
    ----------
    signals
        What to read.
    timeout
        Seconds that all of them may take together.

    Raises
    ------
    ConnectionLostError
        Naming the PVs that are not connected or did not answer.
    """
    return _read([signal.channel for signal in signals], timeout)


def _read(channels: Sequence[Any], timeout: float = READ_TIMEOUT) -> list[Sample]:
    from epics import ca

    lost = [channel.pvname for channel in channels if not channel.connected]
    if lost:
        raise ConnectionLostError(_unreachable(lost, "not connected"))
    if ca.current_context() is None:
        # pyepics does this in its PV methods; the functions below expect it done.
        ca.attach_context(channels[0].context)
    asked = []
    for channel in channels:
        try:
            kind = ca.promote_type(channel.chid, use_time=True)
            ca.get_with_metadata(channel.chid, ftype=kind, wait=False)
        except _channel_access_errors():  # the connection broke since it was looked at
            lost.append(channel.pvname)
            continue
        asked.append((channel, kind))
    samples = []
    deadline = time.monotonic() + timeout
    for channel, kind in asked:
        left = max(deadline - time.monotonic(), 0.001)
        try:
            answer = ca.get_complete_with_metadata(channel.chid, ftype=kind, timeout=left)
        except _channel_access_errors():
            answer = None
        if answer is None:
            lost.append(channel.pvname)
            continue
        samples.append(
            Sample(
                answer["value"],
                answer["timestamp"],
                int(answer["severity"]),
                int(answer["status"]),
            )
        )
    if lost:
        raise ConnectionLostError(_unreachable(lost, f"silent for {timeout:g} s"))
    return samples


def _channel_access_errors() -> tuple[type[Exception], ...]:
    """All that pyepics raises when a connection is dead or dies; they have no common base."""
    from epics import ca

    return (ca.ChannelAccessException, ca.ChannelAccessGetFailure, ca.CASeverityException)


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Turn the many errors of ophyd and pyepics about dead connections into one.

    Raises
    ------
    ConnectionLostError
        ``<what> (<their words>): is the IOC running?``
    """
    errors: tuple[type[Exception], ...] = (TimeoutError, *_channel_access_errors())
    try:
        yield
    except errors as error:
        words = " ".join(str(error).split()).rstrip(".")
        raise ConnectionLostError(f"{what} ({words}): is the IOC running?") from error


def get(signal: Any, timeout: float = READ_TIMEOUT) -> Any:
    """Get the value of any ophyd EPICS signal from the IOC, never from a monitor's cache.

    Raises
    ------
    ConnectionLostError
        Naming the PV.
    """
    with answers(f"{signal.pvname} cannot be read"):
        return signal.get(use_monitor=False, timeout=timeout)


def read_fresh(signals: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Read the signals into a dictionary as ``Device.read`` returns it, in one round trip.

    Signals that are not of this module's classes (strings, simulated ones) are read one by one.
    """
    together = [signal for signal in signals if isinstance(signal, _Fresh)]
    samples = dict(zip((s.name for s in together), read_many(together), strict=True))
    reading: dict[str, dict[str, Any]] = {}
    for signal in signals:
        if signal.name in samples:
            sample = samples[signal.name]
            reading[signal.name] = {"value": sample.value, "timestamp": sample.timestamp}
        else:
            reading.update(signal.read())
    return reading


def _unreachable(names: Sequence[str], how: str) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown} cannot be read ({how}): is the IOC running?"
