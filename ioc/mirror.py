"""Records that mirror PVs of the device server: ai, ao, bi, bo, mbbo."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import BeamlineError
from beamline.core.pvs import RING_LOLO, PVSpec
from ioc.channel import Completion, Field, PutRefusedError
from ioc.fields import Double, Enum, String
from ioc.link import DeviceLink
from ioc.record import NO_LIMITS, AlarmLimits, Record

__all__ = ["ALARM_LIMITS", "UNKNOWN_STATES", "Input", "Output"]

_log = logging.getLogger("ioc.mirror")

#: Alarm limits, set on purpose; every other analog record has none.
ALARM_LIMITS: Mapping[str, AlarmLimits] = {
    "RING:CURRENT": AlarmLimits(lolo=RING_LOLO, low=200.0),
    "VACUUM:PRESSURE": AlarmLimits(high=2e-8, hihi=1e-7),
    "HUTCH:TEMP": AlarmLimits(lolo=15.0, low=19.0, high=27.0, hihi=30.0),
}

#: States of a record whose states the device server names: those of its samples.
UNKNOWN_STATES = ("unknown",)

#: Smallest change that is sent to clients (MDEL); else noise would be all they see.
_DEADBANDS: Mapping[str, float] = {
    "RING:CURRENT": 1e-3,
    "VACUUM:PRESSURE": 1e-12,
    "HUTCH:TEMP": 1e-3,
}

#: Longest that a put with completion waits for its confirmation, e.g. the shutter's travel (s).
_CONFIRMATION_TIMEOUT = 8.0


class Input(Record):
    """An ai or bi record: what the device server says.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    spec
        Row of the PV table.
    """

    writable = False

    def __init__(self, prefix: str, spec: PVSpec) -> None:
        super().__init__(prefix + spec.suffix, spec.record, spec.description)
        self.spec = spec
        self.limits = ALARM_LIMITS.get(spec.suffix, NO_LIMITS)
        self._deadband = _DEADBANDS.get(spec.suffix, 0.0)
        self._posted: float | None = None
        self._confirmations: list[tuple[float, asyncio.Future[None]]] = []
        self.value = self._analog() if spec.record in {"ai", "ao"} else self._states()

    def _analog(self) -> Field:
        spec = self.spec
        metadata = self.add_analog_fields(
            spec.units, spec.precision, spec.low, spec.high, self.limits
        )
        if self.writable:
            metadata |= {"upper_ctrl_limit": spec.high, "lower_ctrl_limit": spec.low}
            self.add("DRVH", Double, value=spec.high, precision=spec.precision, read_only=True)
            self.add("DRVL", Double, value=spec.low, precision=spec.precision, read_only=True)
        self.add("MDEL", Double, value=self._deadband, read_only=True)
        value: Field = self.add(
            "VAL", Double, value=0.0, put=self.put, read_only=not self.writable, **metadata
        )
        return value

    def _states(self) -> Field:
        states = self.spec.enum or UNKNOWN_STATES
        if self.spec.record != "mbbo":
            self.add("ZNAM", String, value=states[0], read_only=True)
            self.add("ONAM", String, value=states[1], read_only=True)
        value: Field = self.add(
            "VAL", Enum, value=0, enum_strings=states, put=self.put, read_only=not self.writable
        )
        return value

    def put(self, value: float) -> Completion:
        """Handle a client's put (outputs only)."""
        raise PutRefusedError(f"{self.name} was not set to {value:g}: the PV is read-only.")

    def mirror(self, text: str, stamp: float) -> None:
        """Take a value from the device server; NaN says that a device has none.

        Raises
        ------
        ValueError
            If it is not a finite number.
        """
        self.touch(stamp)
        number = float(text)
        if math.isnan(number) and isinstance(self.value, Double):
            self._posted = None
            self.value.post(number, monitor=False)
            self.set_alarm(AlarmStatus.READ, AlarmSeverity.INVALID_ALARM)
            return
        if not math.isfinite(number):
            raise ValueError("not a finite number")
        if isinstance(self.value, Enum):
            if not 0 <= number < len(self.value.states):
                self.set_alarm(AlarmStatus.STATE, AlarmSeverity.INVALID_ALARM)
                return
            self.clear_alarm()
            self.value.post(int(number))
        else:
            self._mirror_number(number)
        for wanted, future in self._confirmations:
            if wanted == number and not future.done():
                future.set_result(None)

    def _mirror_number(self, number: float) -> None:
        previous = self._posted
        # Stored first: the monitor that tells of an alarm carries the value that caused it.
        self.value.post(number, monitor=False)
        self.set_alarm(*self.limits.evaluate(number))
        if previous is None or (number != previous and abs(number - previous) >= self._deadband):
            self._posted = number
            self.value.post(number, force=True)

    async def wait_for(self, value: float) -> None:
        """Wait until the device server says `value`.

        Raises
        ------
        PutRefusedError
            If that takes too long.
        """
        if self.value.current == value:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (value, future)
        self._confirmations.append(entry)
        try:
            async with asyncio.timeout(_CONFIRMATION_TIMEOUT):
                await future
        except TimeoutError:
            raise PutRefusedError(
                f"{self.name} did not become {value:g} within {_CONFIRMATION_TIMEOUT:g} s."
            ) from None
        finally:
            self._confirmations.remove(entry)

    def lose_link(self) -> None:
        """Mark the value as invalid, and give up waiting for confirmations."""
        super().lose_link()
        for _, future in self._confirmations:
            if not future.done():
                future.set_exception(
                    PutRefusedError(f"{self.name} lost its connection to the device server.")
                )


class Output(Input):
    """An ao, bo or mbbo record: a client's put goes to the device server.

    A put with completion ends when the server has taken the value and, where a `readback` is
    given, when that has followed.

    Parameters
    ----------
    prefix, spec
        As for `Input`.
    link
        Connection to the device server.
    readback
        Record that shows when the command has been carried out. Commands with a readback act on
        the machine (the shutter); they are not repeated after a restart of the device server.
    """

    writable = True

    def __init__(
        self, prefix: str, spec: PVSpec, link: DeviceLink, readback: Input | None = None
    ) -> None:
        super().__init__(prefix, spec)
        self._link = link
        self._readback = readback
        self._asked = 0
        self._set_by_client = False
        self._lost_value: float | None = None
        self.value.claim = self.claim

    def claim(self) -> None:
        """Count the present value as one that a client has set."""
        self._set_by_client = True
        if not self._link.connected:
            self._lost_value = self.value.current

    def put(self, value: float) -> Completion:
        """Send a client's value to the device server."""
        spec = self.spec
        if isinstance(self.value, Double) and not spec.low <= value <= spec.high:
            raise PutRefusedError(
                f"{self.name} can't take {value:g}: expected {spec.low:g} to {spec.high:g}"
                f"{' ' * bool(spec.units)}{spec.units}."
            )
        if not self._link.connected:
            raise PutRefusedError(
                f"{self.name} can't take {value:g}: no connection to the device server."
            )
        before = self.value.current
        self.touch()
        self.value.post(value)
        self._asked += 1
        answer = self._link.request(f"PUT:{self.name}:{value:.17g}")
        return asyncio.ensure_future(self._finish(answer, before, value))

    async def _finish(self, answer: asyncio.Future[str], before: float, value: float) -> None:
        try:
            await answer
        except BeamlineError as error:
            self.touch()
            self.value.post(before)
            raise PutRefusedError(f"{self.name} could not be set to {value:g}: {error}") from None
        finally:
            self._asked -= 1
        self._set_by_client = True
        if self._readback is not None:
            await self._readback.wait_for(value)

    def mirror(self, text: str, stamp: float) -> None:
        """Take a value from the device server, unless a newer one is on its way there."""
        if self._asked == 0:
            super().mirror(text, stamp)

    def lose_link(self) -> None:
        """Mark the value as invalid, and remember it if a client had set it."""
        # A server that was lost again before it took the value has shown its default.
        if self._set_by_client and self._lost_value is None:
            self._lost_value = self.value.current
        super().lose_link()

    def restore(self) -> None:
        """Give the value that a client had set to a device server that started anew."""
        value, self._lost_value = self._lost_value, None
        if value is None or value == self.value.current or self._readback is not None:
            return
        _log.info("restoring %s to %g", self.name, value)
        completion = self.put(value)
        if completion is not None:
            completion.add_done_callback(lambda done: done.cancelled() or done.exception())
