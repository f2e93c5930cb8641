"""Signals that are read by asking the IOC, several in one round trip, and that know their unit.

After a put has completed, a monitored value was measured to be stale nine times of ten and a plain
get never. Everything that ends up in an event is therefore read with these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.utils.epics_pvs import AlarmSeverity, AlarmStatus

from beamline.core.errors import ConnectionLostError, DeviceServerError, MissingError
from devices._channel_access import Sample, asked, unused
from devices._operation import READ_TIMEOUT, Operation, believed

__all__ = [
    "INVALID",
    "ChoiceSignal",
    "CommandSignal",
    "FreshSignal",
    "FreshSignalRO",
    "PromptSignalRO",
    "Sample",
    "VerifiedSignal",
    "answers",
    "channel_access_errors",
    "get",
    "latest",
    "read_fresh",
    "read_many",
]

#: Severity of a value that must not be used (EPICS ``INVALID_ALARM``).
INVALID = 3


class _Cleared:
    """Clears its channels when no thread uses them."""

    def destroy(self) -> None:
        with unused():
            super().destroy()  # type: ignore[misc]


class _Fresh(_Cleared):
    """What both signal classes add to ophyd's: unit of last resort, and `read` by a plain get."""

    name: str
    pvname: str
    _read_pv: Any

    def __init__(self, *args: Any, units: str = "", **kwargs: Any) -> None:
        self._units = units
        # ophyd describes a signal by a get of its own.
        kwargs.setdefault("timeout", READ_TIMEOUT)
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


class PromptSignalRO(FreshSignalRO):
    """A monitored PV whose value and alarm are known as soon as they arrive.

    ophyd hands all monitors on in one thread, where a slow callback of anybody holds up the others.
    """

    @property
    def value(self) -> Any:
        """The value that the monitor brought last."""
        arrived = self._arrived("value")
        return super().value if arrived is None else arrived

    @property
    def alarm_severity(self) -> Any:
        """The severity that the monitor brought last."""
        arrived = self._arrived("severity")
        return super().alarm_severity if arrived is None else AlarmSeverity(arrived)

    @property
    def alarm_status(self) -> Any:
        """The kind of alarm that the monitor brought last."""
        arrived = self._arrived("status")
        return super().alarm_status if arrived is None else AlarmStatus(arrived)

    def _arrived(self, what: str) -> Any:
        # pyepics' own properties may ask the IOC.
        return self.channel._args.get(what)  # noqa: SLF001


class CommandSignal(_Cleared, EpicsSignal):
    """A PV that an `Operation` can put to."""

    @property
    def put_channel(self) -> Any:
        """The pyepics ``PV`` that is written."""
        return self._write_pv


class FreshSignal(_Fresh, CommandSignal):
    """A PV of numbers that is always read from the IOC.

    Parameters
    ----------
    units
        Unit of the value where the record has no EGU.
    """


class VerifiedSignal(FreshSignal):
    """A PV of numbers whose `set` is done when the record holds the value.

    It is read back: a record may take something else than what was put.

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
            channels=[self._write_pv],
            verify=lambda operation, samples: self._verify(operation, samples[0], value),
            error=DeviceServerError,
            settle_time=settle_time or 0.0,
        ).begin(self, value)

    def _answers_and_is_idle(self, timeout: float) -> bool:
        _read([self._write_pv], timeout)
        return False

    def _verify(self, operation: Operation, sample: Sample, value: float) -> None:
        if sample.severity >= INVALID:
            raise DeviceServerError(
                f"{operation.what} left it in alarm, {sample.alarm}: is the device server running?"
            )
        if not math.isclose(sample.value, value, rel_tol=1e-6, abs_tol=1e-12):
            raise DeviceServerError(
                f"{operation.what} was refused: it still holds {sample.value:g}."
            )


class ChoiceSignal(CommandSignal):
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
        choices = self.choices
        if value not in choices:
            raise MissingError(
                f"{self.setpoint_pvname} has no choice {value!r}: expected one of "
                f"{', '.join(choices)}."
            )
        index = choices.index(value)
        return Operation(
            self,
            f"the setting of {self.setpoint_pvname} to {value!r}",
            timeout_after=timeout or self.put_timeout,
            busy=lambda patience: get(self, patience) != value,
            channels=[self._read_pv],
            verify=lambda operation, samples: self._verify(operation, samples[0], index),
            error=DeviceServerError,
            settle_time=settle_time or 0.0,
        ).begin(self, index)

    def _verify(self, operation: Operation, sample: Sample, index: int) -> None:
        if sample.value != index:
            found = dict(enumerate(self.choices)).get(sample.value, sample.value)
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
    samples = asked(channels, timeout)
    known = all(channel.connected for channel in channels)
    return believed(channels, samples, f"silent for {timeout:g} s" if known else "not connected")


def latest(signal: Any) -> Any:
    """Value of a signal with ``auto_monitor`` as its monitor brought it last; nobody is asked.

    For settings that others may change at any time anyway; ophyd's ``get`` costs 20 times more.
    """
    value = signal._readback  # noqa: SLF001  (ophyd's `value` is a `get`)
    return value if isinstance(value, (int, float, str)) else signal.get()


def channel_access_errors() -> tuple[type[Exception], ...]:
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
    errors: tuple[type[Exception], ...] = (TimeoutError, *channel_access_errors())
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
