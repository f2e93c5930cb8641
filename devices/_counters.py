"""Ion chambers and photon counters: the channels of one scaler record, read as one count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device

from beamline.core.errors import DetectorError
from devices._channel_access import Sample, asked
from devices._component import Named, recorded
from devices._operation import READ_TIMEOUT, Operation, believed
from devices._signals import (
    INVALID,
    FreshSignal,
    FreshSignalRO,
    VerifiedSignal,
    answers,
    latest,
    read_many,
)

__all__ = ["IonChambers"]

#: Seconds that a count may take beyond its counting time.
_GRACE = 10.0


#: How far the time counted may be from the preset, relative and in seconds: ticks of the clock.
_TIME_RTOL, _TIME_ATOL = 1e-3, 1e-6


class _Exposure(VerifiedSignal):
    """The counting time; its device knows what this session has set it to."""

    def set(
        self, value: float, *, timeout: float | None = None, settle_time: float | None = None
    ) -> Operation:
        status = super().set(value, timeout=timeout, settle_time=settle_time)
        if self.parent.preset is not None:
            self.parent.preset = float(value)
        return status


def _channel(number: int, name: str, kind: str = "hinted") -> Any:
    return Named(FreshSignalRO, f".S{number}", name=name, kind=kind, units="counts")


class IonChambers(Device):
    """The scaler: incident, transmitted, fluorescence, reference and diffracted intensity.

    ``trigger`` counts for the preset time and is done when all counts are in. An event holds the
    counts and the time counted, all with the time stamp of that count.

    Attributes
    ----------
    i0, itrans, ifluor, irefer, idiffr
        Counts of one exposure. The first four are hinted; ``idiffr``, the point detector on the
        2θ arm, is recorded without being shown (``idiffr.kind = "hinted"`` shows it).
    exposure
        Set: the counting time of the next count (s). Read: the time counted (s).
    plot_signal : str
        Data key that the default plots of the files show: the beam behind the sample, where `i0`
        is noise. May be changed.
    preset : float or None
        While staged: the counting time (s) that every count must have, whatever others set.
    """

    plot_signal = "itrans"

    # Channel 1 is the time base; the order of the others is beamline.core.pvs.SCALER_CHANNELS.
    i0 = _channel(2, "i0")
    itrans = _channel(3, "itrans")
    ifluor = _channel(4, "ifluor")
    irefer = _channel(5, "irefer")
    idiffr = _channel(6, "idiffr", "normal")
    exposure = Named(
        _Exposure,
        ".T",
        write_pv=".TP",
        name="exposure",
        kind="normal",
        limits=True,
        units="s",
    )
    # Not by `exposure`, whose readback would be told twice per count.
    preset_time = Cpt(FreshSignalRO, ".TP", kind="omitted", auto_monitor=True)
    count = Cpt(FreshSignal, ".CNT", kind="omitted")

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        self._operation: Operation | None = None
        self._latest: dict[str, dict[str, Any]] | None = None
        self._latched_at: float | None = None
        self.preset: float | None = None
        super().__init__(prefix, name=name, **kwargs)

    def __repr__(self) -> str:
        # bluesky asks for it with every message; ophyd's looks at all components.
        return f"{type(self).__name__}({self.prefix!r}, name={self.name!r})"

    def trigger(self) -> Operation:
        """Start a count.

        Returns
        -------
        Operation
            Done when the counts are in. It fails with `DetectorError` if nothing was counted, for
            another time than set, or if a channel is in alarm, with `ConnectionLostError` if the
            IOC goes away.

        Raises
        ------
        ConnectionLostError
            If the count can't be started.
        """
        self.stop()
        if self._operation is not None:
            # Its end must not be taken for the end of the new count.
            self._operation.exception(timeout=_GRACE)
        self._latest = None
        preset = self.preset
        if preset is None:
            # Asked: the monitor may not have told yet what has just been set.
            (sample,) = asked([self.exposure.put_channel], READ_TIMEOUT)
            with answers(f"{self.count.pvname} cannot count"):
                preset = float(latest(self.preset_time) if sample is None else sample.value)
        operation = Operation(
            self,
            f"the count of {preset:g} s on {self.count.pvname}",
            timeout_after=preset + _GRACE,
            busy=self._counting,
            channels=[self.exposure.put_channel, *(s.channel for s in self._outcome())],
            verify=self._verify,
            error=DetectorError,
            on_timeout=self._put_stop,
        )
        self._operation = operation
        return operation.begin(self.count, 1)

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the count just triggered, or else what the scaler holds."""
        reading, self._latest = self._latest, None
        return reading if reading is not None else self._reading(read_many(recorded(self)))

    def stop(self, *, success: bool = False) -> None:
        """End a count of ours that is still running; it fails unless `success`."""
        if self._operation is not None and self._operation.end_early(success=success):
            self._put_stop()

    def pause(self) -> None:
        """End the count when a plan is paused: the point is taken again afterwards."""
        self.stop(success=True)

    def stage(self) -> list[object]:
        """Hold the counting time: from now on only `exposure.set` of this session may change it."""
        (sample,) = self._read_preset()
        staged: list[object] = super().stage()
        self.preset = float(sample.value)
        return staged

    def unstage(self) -> list[object]:
        """End a count that is still running."""
        self.preset = None
        self.stop()
        return super().unstage()

    def _put_stop(self) -> None:
        if self.count.connected:
            self.count.put(0, use_complete=False, force=True)

    def _read_preset(self) -> list[Sample]:
        channels = [self.exposure.put_channel]
        return believed(channels, asked(channels, READ_TIMEOUT), "no answer")

    def _outcome(self) -> list[Any]:
        """Return what tells how a count went, each once."""
        return list(dict.fromkeys([self.count, self.exposure, *recorded(self)]))

    def _reading(self, samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
        latched_at = max(sample.timestamp for sample in samples)
        return {
            signal.name: {"value": sample.value, "timestamp": latched_at}
            for signal, sample in zip(recorded(self), samples, strict=True)
        }

    def _counting(self, timeout: float) -> bool:
        (count,) = read_many([self.count], timeout)
        return bool(count.value)

    def _verify(self, operation: Operation, read: list[Sample]) -> None:
        signals = recorded(self)
        preset, *others = read
        outcome = dict(zip(self._outcome(), others, strict=True))
        count, elapsed = outcome[self.count], outcome[self.exposure]
        samples = [outcome[signal] for signal in signals]
        invalid = [
            (signal, sample)
            for signal, sample in zip(signals, samples, strict=True)
            if sample.severity >= INVALID
        ]
        if invalid:
            # The record has one alarm for all channels; those that read nothing have no value.
            silent = [pair for pair in invalid if math.isnan(pair[1].value)] or invalid
            raise DetectorError(
                f"{operation.what} failed: {silent[0][0].pvname} ({silent[0][0].name}) is in "
                f"alarm, {silent[0][1].alarm}; it reads {silent[0][1].value:g}."
            )
        if operation.stopped and not operation.stop_is_success:
            raise DetectorError(f"{operation.what} was stopped before its end.")
        latched_at = max(sample.timestamp for sample in samples)
        if not operation.stopped and (count.value or latched_at == self._latched_at):
            # A put that does nothing is completed as well; the counts are old then.
            raise DetectorError(
                f"{operation.what} did not take place: {signals[0].pvname} has the time stamp of "
                "the count before, or the scaler is counting for somebody else."
            )
        expected = preset.value if self.preset is None else self.preset
        if not operation.stopped and not math.isclose(
            elapsed.value, expected, rel_tol=_TIME_RTOL, abs_tol=_TIME_ATOL
        ):
            ended = "ended early" if elapsed.value < expected else "took too long"
            raise DetectorError(
                f"{operation.what} {ended}: {elapsed.value:g} s of {expected:g} s "
                f"({self.exposure.pvname}; {self.exposure.setpoint_pvname} is {preset.value:g} s); "
                "somebody else has stopped it or changed the preset."
            )
        self._latched_at = latched_at
        self._latest = self._reading(samples)
