"""The scaler record: counts all detectors for a preset time.

A count that begins clears T and S1 … S32. T and S1 then follow the time, RATE times a second; the
other channels stay at 0 until the end, when the counts come all at once: the device server has no
counts so far, and expectations could be taken for data. Only the time base ends a count: presets
and gates of other channels are refused, PR2 … and G2 … stay at 0 and N.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import BeamlineError, ConnectionLostError
from beamline.core.pvs import SCALER, SCALER_CHANNELS, spec
from ioc.channel import Completion, PutRefusedError, settle
from ioc.fields import Double, Enum, Long, Short, String
from ioc.link import Answer, DeviceLink
from ioc.record import Record

__all__ = ["Scaler"]

_log = logging.getLogger("ioc.scaler")

#: Channels of the record; those beyond the connected detectors stay at 0.
_CHANNELS = 32
#: Ticks per second of channel 1, the time base.
_FREQUENCY = 1e7
#: Largest RATE that is followed (Hz).
_RATE_MAX = 60.0


class Scaler(Record):
    """A scaler record whose put to CNT is answered when all counts are in.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    link
        Connection to the device server.
    """

    def __init__(self, prefix: str, link: DeviceLink) -> None:
        super().__init__(prefix + SCALER, "scaler", "Counters")
        self._prefix = prefix
        self._link = link
        self._waiting: list[asyncio.Future[None]] = []
        #: A count of ours that the device server has not confirmed yet.
        self._starting = False
        #: A count of ours went on when the link was lost.
        self._abandoned = False
        self._delay: asyncio.TimerHandle | None = None
        self._time_scale = 1.0
        self._began = 0.0
        self._display: asyncio.TimerHandle | None = None
        self._exposure = spec("DET:EXPOSURE")
        self._add_fields()
        #: Suffix of a server PV -> channel number.
        self._channels = {
            suffix: number
            for number, suffix in enumerate(SCALER_CHANNELS, start=1)
            if suffix != "time"
        }

    def _add_fields(self) -> None:
        seconds: dict[str, Any] = {"precision": 4, "units": "s"}
        self.add("CNT", Enum, value=0, enum_strings=("Done", "Count"), put=self._put_count)
        # As in the scaler record, the result is the time counted; a count starts with CNT only.
        self.add("VAL", Double, value=0.0, read_only=True, **seconds)
        self.add("CONT", Enum, value=0, enum_strings=("OneShot", "AutoCount"), put=self._put_cont)
        self.add(
            "TP", Double, value=1.0, put=self._put_preset_time,
            upper_ctrl_limit=self._exposure.high, lower_ctrl_limit=self._exposure.low, **seconds,
        )  # fmt: skip
        self.add("TP1", Double, value=1.0, **seconds)
        self.add("T", Double, value=0.0, read_only=True, **seconds)
        self.add("DLY", Double, value=0.0, lower_ctrl_limit=0.0, upper_ctrl_limit=60.0,
                 put=self._put_delay, **seconds)  # fmt: skip
        self.add("DLY1", Double, value=0.0, **seconds)
        self.add("RATE", Double, value=10.0, precision=1, units="Hz")
        self.add("RAT1", Double, value=0.0, precision=1, units="Hz")
        self.add("FREQ", Double, value=_FREQUENCY, precision=0, units="Hz", read_only=True)
        self.add("PREC", Short, value=4, read_only=True)
        self.add("EGU", String, value="counts", read_only=True)
        self.add("NCH", Short, value=_CHANNELS, read_only=True)
        self.add("CARD", Long, value=0, read_only=True)
        self.add("OUT", String, value="@beamline-sim", read_only=True)
        for number in range(1, _CHANNELS + 1):
            wired = number <= len(SCALER_CHANNELS)
            name = SCALER_CHANNELS[number - 1].rpartition(":")[2] if wired else ""
            self.add(f"S{number}", Double, value=0.0, units="counts", read_only=True)
            self.add(f"NM{number}", String, value=name)
            handler = (
                self._put_preset_ticks
                if number == 1
                else functools.partial(self._put_other_preset, number)
            )
            self.add(f"PR{number}", Double, value=0.0, put=handler)
            self.add(
                f"G{number}", Enum, value=int(number == 1), enum_strings=("N", "Y"),
                put=functools.partial(self._put_gate, number) if number > 1 else None,
                read_only=number == 1,
            )  # fmt: skip
            self.add(f"D{number}", Enum, value=0, enum_strings=("Up", "Dn"), read_only=True)

    # ---- puts

    def _put_count(self, value: int) -> Completion:
        counting = self.fields["CNT"].current == 1
        if not value:
            if counting and self._delay is not None:
                self._finish()
            elif counting:
                self._link.send("COUNTSTOP", lambda _: None)
            return None
        if not self._link.connected:
            self.fields["CNT"].post(0, force=True)
            raise PutRefusedError(f"{self.name} can't count: no connection to the device server.")
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        if not counting:
            self._starting = True
            self.touch()
            self.fields["CNT"].post(1)
            delay = self.fields["DLY"].current
            if delay > 0:
                loop = asyncio.get_running_loop()
                self._delay = loop.call_later(delay, self._send_count)
            else:
                self._send_count()
        return completion

    def _send_count(self) -> None:
        self._delay = None
        self._link.send(f"COUNT:{self.fields['TP'].current:.17g}", self._answered)

    def _answered(self, answer: Answer) -> None:
        if isinstance(answer, str):
            self._starting = False
        elif isinstance(answer, ConnectionLostError):
            if self.fields["CNT"].current:
                self.lose_link()
        else:
            _log.warning("%s: the device server refused to count: %s", self.name, answer)
            self._finish(PutRefusedError(f"{self.name} can't count: {answer}."))

    def _put_cont(self, value: int) -> Completion:
        if value:
            raise PutRefusedError(
                f"{self.name}.CONT can't be AutoCount: expected OneShot, it counts on demand only."
            )
        return None

    def _put_preset_time(self, value: float) -> Completion:
        low, high = self._exposure.low, self._exposure.high
        if not low <= value <= high:
            raise PutRefusedError(
                f"{self.name}.TP can't take {value:g} s: expected {low:g} to {high:g}."
            )
        if not self._link.connected:
            raise PutRefusedError(
                f"{self.name}.TP can't take {value:g} s: no connection to the device server."
            )
        before = self.fields["TP"].current
        self._post_preset(value)
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if isinstance(answer, str):
                if (claim := self.fields["TP"].claim) is not None:
                    claim()
                completion.set_result(None)
            else:
                self._post_preset(before)
                completion.set_exception(
                    PutRefusedError(f"{self.name}.TP can't take {value:g} s: {answer}.")
                )

        self._link.send(f"PUT:{self._prefix}DET:EXPOSURE:{value:.17g}", answered)
        return completion

    def keep_preset(self, claim: Callable[[], None]) -> None:
        """Tell `claim` that the server's counting time is one that a client has set."""
        self.fields["TP"].claim = claim

    def _put_preset_ticks(self, value: float) -> Completion:
        return self._put_preset_time(value / _FREQUENCY)

    def _put_other_preset(self, number: int, value: float) -> Completion:
        if value:
            raise PutRefusedError(
                f"{self.name}.PR{number} can't take {value:g}: expected 0, as only time ends a "
                "count (TP or PR1)."
            )
        return None

    def _put_gate(self, number: int, value: int) -> Completion:
        if value:
            raise PutRefusedError(
                f"{self.name}.G{number} can't be Y: expected N, as only the time base (G1) ends "
                "a count."
            )
        return None

    def _put_delay(self, value: float) -> Completion:
        if not 0.0 <= value <= 60.0:
            raise PutRefusedError(f"{self.name}.DLY can't take {value:g} s: expected 0 to 60.")
        self.fields["DLY"].post(value)
        return None

    def _post_preset(self, seconds: float) -> None:
        self.touch()
        self.fields["TP"].post(seconds)
        self.fields["PR1"].post(seconds * _FREQUENCY)

    # ---- news from the server

    def mirror(self, values: Mapping[str, str], stamp: float) -> None:
        """Take new values, by suffix of the device server's PVs; the counts come all at once."""
        self.touch(stamp)
        if "DET:EXPOSURE" in values and not self._waiting:
            self._post_preset(float(values["DET:EXPOSURE"]))
        if "DET:ELAPSED" in values:
            elapsed = float(values["DET:ELAPSED"])
            self._post_time(elapsed)
            self.fields["VAL"].post(elapsed)
        for suffix, number in self._channels.items():
            if suffix in values:
                self.fields[f"S{number}"].post(float(values[suffix]))
        # A channel without a value reads nothing; the record has one alarm for all of them.
        if any(math.isnan(self.fields[f"S{number}"].current) for number in self._channels.values()):
            self.set_alarm(AlarmStatus.READ, AlarmSeverity.INVALID_ALARM)
        else:
            self.clear_alarm()
        if "DET:COUNTING" in values:
            if float(values["DET:COUNTING"]):
                self.fields["CNT"].post(1)
                self._clear_counts()
            elif not self._starting:
                self._finish()

    def link_up(self) -> None:
        """Ask how fast simulated time passes; end a count of ours that still goes on."""
        if self._abandoned:
            self._abandoned = False
            self._link.send("COUNTSTOP", lambda _: None)
        self._link.send("TRUTH", self._take_time_scale)

    def _take_time_scale(self, answer: Answer) -> None:
        if isinstance(answer, str):
            self._time_scale = float(json.loads(answer)["time_scale"])

    def _clear_counts(self) -> None:
        self._began = time.monotonic()
        self._post_time(0.0)
        for number in self._channels.values():
            channel = self.fields[f"S{number}"]
            if not math.isnan(channel.current):  # a dead channel stays in alarm
                channel.post(0.0)
        self._schedule_display()

    def _schedule_display(self) -> None:
        self._stop_display()
        rate = min(self.fields["RATE"].current, _RATE_MAX)
        if rate > 0.0:
            loop = asyncio.get_running_loop()
            self._display = loop.call_later(1.0 / rate, self._show_time)

    def _show_time(self) -> None:
        self.touch()
        elapsed = (time.monotonic() - self._began) * self._time_scale
        self._post_time(min(elapsed, self.fields["TP"].current))
        self._schedule_display()

    def _stop_display(self) -> None:
        if self._display is not None:
            self._display.cancel()
            self._display = None

    def _post_time(self, elapsed: float) -> None:
        self.fields["T"].post(elapsed)
        self.fields["S1"].post(float(round(elapsed * _FREQUENCY)))

    def _finish(self, failure: BeamlineError | None = None) -> None:
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None
        self._starting = False
        self._stop_display()
        self.fields["CNT"].post(0)
        waiting, self._waiting = self._waiting, []
        settle(waiting, failure)

    def lose_link(self) -> None:
        """Raise the alarm and end any count: its result is lost."""
        super().lose_link()
        self._abandoned = self._abandoned or bool(self._waiting)
        self._finish(PutRefusedError(f"{self.name} lost its connection to the device server."))
