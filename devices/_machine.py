"""What surrounds the experiment: ring, shutter, attenuator, environment."""

from __future__ import annotations

import math
import time
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import StatusBase

from beamline.core.errors import DeviceServerError
from devices._channel_access import Sample
from devices._component import Named, recorded
from devices._operation import Operation, StillBusy
from devices._signals import (
    INVALID,
    CommandSignal,
    FreshSignalRO,
    PromptSignalRO,
    VerifiedSignal,
    latest,
    read_fresh,
    read_many,
)

__all__ = ["Attenuator", "Environment", "Ring", "Shutter"]

_OPEN_WORDS = {"open": 1, "close": 0, "closed": 0}


class _FreshDevice(Device):
    """A device whose readings come from the IOC in one round trip."""

    def read(self) -> dict[str, dict[str, Any]]:
        """Read all signals from the IOC."""
        return read_fresh(recorded(self))


class Ring(_FreshDevice):
    """Storage ring: ``ring_current`` (mA)."""

    current = Named(
        PromptSignalRO, "CURRENT", name="ring_current", kind="normal", units="mA", auto_monitor=True
    )


class Environment(_FreshDevice):
    """Hutch and vacuum: ``hutch_temperature`` (degC) and ``vacuum_pressure`` (mbar)."""

    temperature = Named(
        FreshSignalRO, "HUTCH:TEMP", name="hutch_temperature", kind="normal", units="degC"
    )
    pressure = Named(
        FreshSignalRO, "VACUUM:PRESSURE", name="vacuum_pressure", kind="normal", units="mbar"
    )


class Attenuator(_FreshDevice):
    """Attenuator: ``attenuator``, the transmitted fraction of the beam (0 to 1)."""

    factor = Named(
        VerifiedSignal, "FACTOR", name="attenuator", kind="normal", auto_monitor=True, limits=True
    )

    def set(self, value: float) -> StatusBase:
        """Set the transmitted fraction (0 to 1)."""
        return self.factor.set(value)


class Shutter(_FreshDevice):
    """Photon shutter: ``shutter``, 1 = open.

    ``set`` takes ``"Open"``, ``"Close"``, 1 or 0 and is done when the status says so, and its
    monitor has told the suspenders that watch it. It closes when a plan is paused and opens again
    when the plan resumes.
    """

    status = Named(PromptSignalRO, "STATUS", name="shutter", kind="normal", auto_monitor=True)
    command = Cpt(CommandSignal, "CMD", kind="omitted", auto_monitor=True)

    #: Seconds that a change may take.
    travel_timeout = 10.0
    #: Seconds for which a get is not believed while the monitor is silent.
    monitor_patience = 1.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reopen = False
        super().__init__(*args, **kwargs)

    @property
    def is_open(self) -> bool:
        """Whether the shutter is open at this moment.

        Raises
        ------
        ConnectionLostError
            If its status can't be read.
        """
        (status,) = read_many([self.status])
        return bool(status.value)

    @property
    def found_closed(self) -> bool:
        """Whether its monitor has told that the shutter is closed, and it still is.

        As long as the monitor says that it is open, nobody is asked.

        Raises
        ------
        ConnectionLostError
            If its status can't be read.
        """
        return not self.status.value and not self.is_open

    def set(self, value: str | int) -> StatusBase:
        """Open or close the shutter.

        Raises
        ------
        ValueError
            For anything but open and close.
        ConnectionLostError
            If the command can't be written.
        """
        wanted = _OPEN_WORDS.get(value.lower(), -1) if isinstance(value, str) else int(value)
        if wanted not in (0, 1):
            raise ValueError(
                f'{self.name} ({self.command.pvname}) takes "Open", "Close", 1 or 0, found '
                f"{value!r}."
            )
        heard = False
        arrived = math.inf

        def verify(_: Operation, samples: list[Sample]) -> None:
            nonlocal arrived
            self._verify(samples[0], wanted)
            arrived = min(arrived, time.monotonic())
            # Suspenders go by the monitor, which may be later than the answer to a get.
            if not heard and time.monotonic() < arrived + self.monitor_patience:
                raise StillBusy

        operation = Operation(
            self,
            f"the command to {'open' if wanted else 'close'} {self.command.pvname}",
            timeout_after=self.travel_timeout,
            busy=lambda timeout: read_many([self.status], timeout)[0].value != wanted,
            channels=[self.status.channel],
            verify=verify,
            error=DeviceServerError,
        )

        def watch(value: float, **_: Any) -> None:
            nonlocal heard
            heard = value == wanted
            operation.completed()

        self.status.subscribe(watch, run=False)
        heard = latest(self.status) == wanted
        operation.add_callback(lambda _: self.status.clear_sub(watch))
        return operation.begin(self.command, wanted)

    def _verify(self, status: Sample, wanted: int) -> None:
        if status.severity >= INVALID:
            raise DeviceServerError(
                f"{self.status.pvname} is in alarm, {status.alarm}: the shutter's state is unknown."
            )
        if status.value != wanted:
            raise StillBusy

    def pause(self) -> None:
        """Close while the plan is paused (called by the RunEngine)."""
        self._reopen = self.is_open
        if self._reopen:
            self.set(0).wait(self.travel_timeout)

    def resume(self) -> None:
        """Open again if `pause` closed (called by the RunEngine)."""
        if self._reopen:
            self._reopen = False
            self.set(1).wait(self.travel_timeout)
