"""The motor record, acting: what ``motorRecord`` of EPICS does, on an axis of the device server.

User coordinates, soft limits, tweaks, jogs, STOP and SPMG live here; the server knows dial
positions. Where the record's documentation leaves room, this was chosen:

- A put is answered when DMOV is back at 1, also a put made, or overtaken, while SPMG is Stop or
  Pause: as in motorRecord DMOV then stays 0 until Go or Move; the log says so.
- A value that cannot be a position (NaN, infinity; or any, where SET and FOFF = Frozen ask for what
  the axes can't do) is refused like one beyond the limits: DMOV blinks, LVIO is 1. The put fails.
- HOMF and HOMR move to dial 0, or to the limit next to it: the axes have no home switch.
- A move that nobody stopped and that ends farther from its target than RDBD sets MISS and, beyond
  what motorRecord does, raises the alarm STATE, MAJOR until the readback is right or moves again.
- FOFF = Frozen with SET = Set would load a position into the controller, which the axes can't.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Mapping

from caproto import AlarmSeverity, AlarmStatus

from beamline.core.errors import BeamlineError, ConnectionLostError
from beamline.core.pvs import PVSpec
from ioc.axis_record import AxisRecord
from ioc.channel import Completion, PutRefusedError, settle
from ioc.link import Answer, DeviceLink
from ioc.motion import MotionTracker
from ioc.motor_fields import PAUSED_STATES, Coordinates

__all__ = ["Motor"]

_log = logging.getLogger("ioc.motor")

#: Bits of MSTA that this record sets or looks at.
_STALLED, _PROBLEM, _COMMUNICATION_ERROR = 1 << 6, 1 << 9, 1 << 12
#: Without news of a moving motor for this long, the server is asked (s).
_SILENCE = 1.0
#: What the server takes for ACCL (s).
_ACCL = (0.001, 100.0)
_BUTTONS = ("JOGF", "JOGR", "HOMF", "HOMR")


class Motor(AxisRecord):
    """A motor record.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    spec
        Row of the PV table.
    link
        Connection to the device server.
    """

    def __init__(self, prefix: str, spec: PVSpec, link: DeviceLink) -> None:
        super().__init__(prefix, spec, link)
        self._tracker = MotionTracker()
        self._waiting: list[asyncio.Future[None]] = []
        self._setpoint = 0.0
        self._resync = True  # take the target from the server at the next update
        self._stopping = False
        self._held = False  # a target is set that SPMG does not let the motor go to
        self._fault = False  # the server refused to move
        self._astray = False  # the last move ended outside of the retry deadband
        self._last_news = 0.0
        for suffix in ("VAL", "DVAL", "RVAL", "RLV"):
            self.fields[suffix].on_unusable = self._refuse_target

    # ---- moving

    @property
    def _paused(self) -> bool:
        return self.fields["SPMG"].state in PAUSED_STATES  # type: ignore[attr-defined]

    def _go(self, dial: float) -> Completion:
        """Move to a dial position, if everything allows it."""
        self.touch()
        self._post(DMOV=0)
        if not self._link.connected:
            self._post(MISS=1)
            self.fields["VAL"].post(self._get("VAL"), force=True)
            self._end_motion()
            raise PutRefusedError(
                f"{self.name} can't move to {self._coordinates.to_user(dial):g} {self.spec.units}: "
                "no connection to the device server."
            )
        if self._beyond_limits(dial):
            user = self._coordinates.to_user(dial)
            _log.warning(
                "%s: %g %s is beyond the limits %g to %g",
                self.name, user, self.spec.units, self._get("LLM"), self._get("HLM"),
            )  # fmt: skip
            self._stay()
            return self._completion()
        self._post(LVIO=0, MISS=0, TDIR=int(dial >= self._get("DRBV")))
        self._post(CDIR=self._get("TDIR"))
        self._post_target(dial)
        self._held = self._paused
        if self._held:
            _log.warning(
                "%s waits at %g %s with DMOV = 0 to go to %g: SPMG is %s, put Go to it to move.",
                self.name, self._get("RBV"), self.spec.units, self._get("VAL"),
                self.fields["SPMG"].state,  # type: ignore[attr-defined]
            )  # fmt: skip
            return self._completion()
        return self._send_move(dial)

    def _stay(self) -> None:
        """Show that a target was refused; a motion that is under way goes on."""
        self._post(DMOV=0, LVIO=1)
        self.fields["VAL"].post(self._get("VAL"), force=True)
        if not self._tracker.active and not self._held:
            self._end_motion()

    def _refuse_target(self) -> None:
        """Blink DMOV for a put to VAL, DVAL or RLV that is no number: clients wait for it."""
        self.touch()
        self._stay()

    def _send_move(self, dial: float) -> Completion:
        self._stopping = self._fault = self._held = self._astray = False
        self._last_news = time.monotonic()
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        self._tracker.sent()
        self._link.send(
            f"MOVE:{self.name}:{dial:.17g}", functools.partial(self._answered, completion, dial)
        )
        return completion

    def _beyond_limits(self, dial: float) -> bool:
        low, high = self._get("DLLM"), self._get("DHLM")
        return not low <= dial <= high and not low == high == 0.0

    def _completion(self) -> Completion:
        """Return what a put waits for: nothing at rest, else the end of the motion."""
        if self._get("DMOV"):
            return None
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(completion)
        return completion

    def _answered(self, completion: asyncio.Future[None], dial: float, answer: Answer) -> None:
        if isinstance(answer, ConnectionLostError):
            if self._tracker.active:
                self.lose_link()
            return
        self._tracker.answered(accepted=isinstance(answer, str))
        refusal = None
        if not isinstance(answer, str):
            _log.warning(
                "%s: the device server refused to move to %g %s (dial): %s",
                self.name, dial, self.spec.units, answer,
            )  # fmt: skip
            self.touch()
            limit = str(answer) == "INVALID_VALUE"
            # A motor that flies is as sound as one that is out of limits.
            self._fault = not limit and str(answer) != "BUSY"
            self._post(MISS=1, LVIO=int(limit))
            self._evaluate_alarm()
            self._post_target(self._setpoint)
            self._waiting.remove(completion)
            refusal = PutRefusedError(
                f"{self.name} can't move to {self._coordinates.to_user(dial):g} "
                f"{self.spec.units}: the device server says {answer}."
            )
        self._finish_if_done()
        if refusal is not None and not completion.done():
            completion.set_exception(refusal)
            completion.exception()

    def _finish_if_done(self) -> None:
        if not self._tracker.finished:
            return
        self._tracker.reset()
        if self._held and not self._stopping and self._get("DVAL") != self._get("DRBV"):
            return
        if self._stopping or any(self._get(button) for button in _BUTTONS):
            self._post_target(self._get("DRBV"))
        elif not self._on_target():
            self._astray = True
            self._post(MISS=1)
            self._evaluate_alarm()
        self._end_motion()

    def _on_target(self) -> bool:
        return bool(abs(self._get("DVAL") - self._get("DRBV")) <= self._get("RDBD"))

    def _end_motion(self, failure: BeamlineError | None = None) -> None:
        """Declare the motor at rest and answer everybody who waits for it."""
        self._stopping = self._held = False
        self._jog_speed.give_back()
        self._post(MOVN=0, MIP=0, **dict.fromkeys(_BUTTONS, 0))
        home = min(max(0.0, self._get("DLLM")), self._get("DHLM"))
        self._post(ATHM=int(abs(self._get("DRBV") - home) <= self._get("RDBD")))
        if self.fields["SPMG"].state == "Move":  # type: ignore[attr-defined]
            self._post(SPMG=1, LSPG=1)
        self._post(DMOV=1)
        waiting, self._waiting = self._waiting, []
        settle(waiting, failure)

    def _halt(self) -> None:
        """Stop and forget the target."""
        if self._tracker.active or not self._tracker.at_rest:
            self._stopping = True
            self._link.send(f"MSTOP:{self.name}", lambda _: None)
        elif self._held:
            self._post_target(self._get("DRBV"))
            self._end_motion()

    # ---- puts to fields; the method's name says which

    def _put_val(self, value: float) -> Completion:
        if self._get("SET") == 1:
            return self._redefine(value)
        self._leave_jog()
        return self._go(self._coordinates.to_dial(value))

    def _put_dval(self, value: float) -> Completion:
        if self._get("SET") == 1:
            return self._redefine(None)
        self._leave_jog()
        return self._go(value)

    def _put_rval(self, value: int) -> Completion:
        return self._put_dval(value * self._get("MRES"))

    def _put_rlv(self, value: float) -> Completion:
        completion = self._put_val(self._get("VAL") + value)
        self._post(LRLV=value)
        self.fields["RLV"].post(0.0, force=True)
        return completion

    def _put_twf(self, value: int) -> Completion:
        return self._put_val(self._get("VAL") + self._get("TWV")) if value else None

    def _put_twr(self, value: int) -> Completion:
        return self._put_val(self._get("VAL") - self._get("TWV")) if value else None

    def _put_jogf(self, value: int) -> Completion:
        return self._jog("JOGF", value, self._coordinates.direction)

    def _put_jogr(self, value: int) -> Completion:
        return self._jog("JOGR", value, -self._coordinates.direction)

    def _jog(self, button: str, value: int, dial_direction: int) -> Completion:
        if not value:
            if self._get(button):
                self._post(**{button: 0})
                self._halt()
            return None
        limit = "DHLM" if dial_direction > 0 else "DLLM"
        own = {field: self._get(field) for field in ("VELO", "ACCL")}
        own |= self._jog_speed.own  # a jog from the other button
        wanted = dict(own)
        if self._get("JVEL") and self._get("JAR"):
            seconds = min(max(self._get("JVEL") / self._get("JAR"), _ACCL[0]), _ACCL[1])
            wanted = {"VELO": self._get("JVEL"), "ACCL": seconds}
        self._post(**dict.fromkeys(("JOGF", "JOGR"), 0) | {button: 1})
        if wanted == own or not self._link.connected:
            self._go(self._get(limit))
            return None

        def go(problem: str) -> None:
            if problem:
                _log.warning("%s can't jog with JVEL and JAR: %s", self.name, problem)
                self._post(MISS=1)
            if problem or not self._get(button):
                self._leave_jog()
            else:
                self._go(self._get(limit))

        # After a loss of the link, too, the server is given the axis' own speed again.
        self._settings = own | self._settings
        self._jog_speed.lend(own, wanted, go)
        return None

    def _leave_jog(self) -> None:
        """Go on at the axis' own speed, whatever comes next."""
        self._post(JOGF=0, JOGR=0)
        self._jog_speed.give_back()

    def _put_homf(self, value: int) -> Completion:
        return self._home("HOMF") if value else None

    def _put_homr(self, value: int) -> Completion:
        return self._home("HOMR") if value else None

    def _home(self, button: str) -> Completion:
        self._leave_jog()
        self._post(**{button: 1})
        return self._go(min(max(0.0, self._get("DLLM")), self._get("DHLM")))

    def _put_stop(self, value: int) -> Completion:
        if not value:
            return None
        self._halt()
        self.fields["STOP"].post(0, force=True)
        return self._completion()

    def _put_spmg(self, value: int) -> Completion:
        self.touch()
        self._post(SPMG=value, LSPG=value)
        if not self._paused:
            if self._held and self._link.connected:
                self._send_move(self._get("DVAL"))
        elif self.fields["SPMG"].state == "Stop":  # type: ignore[attr-defined]
            self._halt()
        elif self._tracker.active:
            self._held = True
            self._link.send(f"MSTOP:{self.name}", lambda _: None)
        return None

    def _put_sync(self, value: int) -> Completion:
        if value and self._get("DMOV"):
            self._post_target(self._get("DRBV"))
        return None

    def _redefine(self, user: float | None) -> Completion:
        """SET mode: give the present position a new name; DMOV blinks, nothing moves."""
        if self._get("FOFF") == 1 or user is None:
            self.touch()
            self._stay()
            raise PutRefusedError(
                f"{self.name} can't load a position into its controller: set FOFF to Variable "
                "and put the user position to VAL."
            )
        self._post(DMOV=0)
        direction = self._coordinates.direction
        self._relabel(Coordinates(user - direction * self._get("DVAL"), direction))
        if not self._tracker.active and not self._held:
            self._end_motion()
        return None

    # ---- news from the server

    def mirror(self, values: Mapping[str, str], stamp: float) -> None:
        """Take new values from the device server, by suffix ("" is the setpoint)."""
        self.touch(stamp)
        self._last_news = time.monotonic()
        self._take_settings(values)
        if "" in values:
            self._setpoint = float(values[""])
        if "DMOV" in values:
            self._tracker.reported(at_rest=float(values["DMOV"]) != 0.0)
        ours = self._tracker.active or self._held
        if self._resync or ("" in values and not ours):
            self._resync = False
            self._post_target(self._setpoint)
        if "MSTA" in values:
            self._post(MSTA=int(float(values["MSTA"])))
            self._fault = self._fault and bool(self._get("MSTA") & (_STALLED | _PROBLEM))
        if "RBV" in values:
            self._post_readback(float(values["RBV"]))
            self._astray = self._astray and not self._on_target()
        self._take_switches(values)
        self._evaluate_alarm()
        self._post(MOVN=int(not self._tracker.at_rest))
        if not ours:
            self._post(DMOV=int(self._tracker.at_rest))
        self._finish_if_done()

    def _evaluate_alarm(self) -> None:
        status = self._get("MSTA")
        limit_severity = AlarmSeverity(self._get("HLSV"))
        if self._get("HLS") and limit_severity:
            self.set_alarm(AlarmStatus.HIGH, limit_severity)
        elif self._get("LLS") and limit_severity:
            self.set_alarm(AlarmStatus.LOW, limit_severity)
        elif self._fault or self._astray or status & (_STALLED | _PROBLEM):
            self.set_alarm(AlarmStatus.STATE, AlarmSeverity.MAJOR_ALARM)
        else:
            self.clear_alarm()

    def lose_link(self) -> None:
        """Raise the alarm and end any motion: nobody knows where the motor is."""
        super().lose_link()
        self._resync = True
        self._post(MSTA=self._get("MSTA") | _COMMUNICATION_ERROR)
        if not self._get("DMOV"):
            self._post(MISS=1)
        # A forced readback carries the alarm to clients that judge a move by it.
        self.fields["RBV"].post(self._get("RBV"), force=True)
        self._tracker.reset()
        self._end_motion(PutRefusedError(f"{self.name} lost its connection to the device server."))

    def check(self) -> None:
        """Ask the server when a motion has not been heard of for a while."""
        silent = time.monotonic() - self._last_news > _SILENCE
        if self._tracker.active and not self._tracker.awaiting_answer and silent:
            self._last_news = time.monotonic()
            self._link.send(f"MGET:{self.name},{self.name}.RBV,{self.name}.DMOV", self._polled)

    def _polled(self, answer: Answer) -> None:
        if isinstance(answer, str):
            self.mirror(dict(zip(("", "RBV", "DMOV"), answer.split(","), strict=True)), time.time())
