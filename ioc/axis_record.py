"""What a motor record knows about its axis: coordinates, limits, settings, readbacks.

Nothing here starts a motion; `ioc.motor` does.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import Any

from beamline.core.pvs import PVSpec
from ioc.channel import Completion, Field, PutRefusedError
from ioc.jog import JogSpeed
from ioc.link import Answer, DeviceLink
from ioc.motor_fields import Coordinates, motor_fields
from ioc.record import Record

__all__ = ["AxisRecord"]

_log = logging.getLogger("ioc.motor")

#: Settings that the server keeps: its name of each → the field.
_KEPT = {"VELO": "VELO", "ACCL": "ACCL", "BDST": "BDST", "HLM": "DHLM", "LLM": "DLLM"}


class AxisRecord(Record):
    """The fields of a motor record in user, dial and raw coordinates.

    A method ``_put_xyz`` of this class or a subclass handles puts to the field ``XYZ``.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    spec
        Row of the PV table.
    link
        Connection to the device server, which knows dial positions and has the last word on
        velocity, acceleration, backlash and limits.
    """

    def __init__(self, prefix: str, spec: PVSpec, link: DeviceLink) -> None:
        super().__init__(prefix + spec.suffix, "motor", spec.description)
        self.spec = spec
        self._link = link
        self._coordinates = Coordinates()
        self._settings: dict[str, float] = {}
        self._restoring: set[str] = set()
        self._jog_speed = JogSpeed(self.name, link)
        handlers = {
            name.removeprefix("_put_").upper(): getattr(self, name)
            for name in dir(self)
            if name.startswith("_put_")
        }
        for suffix, (kind, writable, metadata) in motor_fields(spec).items():
            handler = handlers.get(suffix)
            self.add(suffix, kind, put=handler, read_only=not writable, **metadata)
        for suffix in _KEPT:
            self.fields[_KEPT[suffix]].claim = functools.partial(self._claim, suffix)
        self._set_dial_limits(spec.low, spec.high)

    def _claim(self, suffix: str) -> None:
        self._settings[suffix] = self._get(_KEPT[suffix])

    def _get(self, suffix: str) -> Any:
        return self.fields[suffix].current

    def _post(self, **values: Any) -> None:
        for suffix, value in values.items():
            self.fields[suffix].post(value)

    def _steps(self, dial: float) -> int:
        steps = round(dial / self._get("MRES"))
        return max(-(2**31), min(2**31 - 1, steps))

    def _post_target(self, dial: float) -> None:
        user = self._coordinates.to_user(dial)
        self._post(
            VAL=user, DVAL=dial, RVAL=self._steps(dial), LVAL=user, LDVL=dial,
            DIFF=dial - self._get("DRBV"), RDIF=self._steps(dial - self._get("DRBV")),
        )  # fmt: skip

    def _post_readback(self, dial: float) -> None:
        self._post(
            DRBV=dial, RRBV=self._steps(dial), RMP=self._steps(dial), REP=self._steps(dial),
            DIFF=self._get("DVAL") - dial, RDIF=self._steps(self._get("DVAL") - dial),
            RBV=self._coordinates.to_user(dial),
        )  # fmt: skip

    # ---- coordinates

    def _put_off(self, value: float) -> Completion:
        self._relabel(Coordinates(value, self._coordinates.direction))
        return None

    def _put_dir(self, value: int) -> Completion:
        direction, offset = -1 if value else 1, self._coordinates.offset
        if direction != self._coordinates.direction and not self._get("FOFF"):
            # As in motorRecord: an offset that is not frozen follows, and VAL stays.
            offset = self._get("VAL") - direction * self._get("DVAL")
        self._relabel(Coordinates(offset, direction))
        return None

    def _relabel(self, coordinates: Coordinates) -> None:
        self.touch()
        self._coordinates = coordinates
        self._post(OFF=coordinates.offset, DIR=int(coordinates.direction < 0))
        self._post_readback(self._get("DRBV"))
        self._post_target(self._get("DVAL"))
        # Limits last: ophyd reads them anew when they change, and a monitor of VAL that it
        # handles after that would bring back the old ones.
        self._set_dial_limits(self._get("DLLM"), self._get("DHLM"))

    def _put_sset(self, _: int) -> Completion:
        self._post(SET=1)
        return None

    def _put_suse(self, _: int) -> Completion:
        self._post(SET=0)
        return None

    def _put_vof(self, _: int) -> Completion:
        self._post(FOFF=0)
        return None

    def _put_fof(self, _: int) -> Completion:
        self._post(FOFF=1)
        return None

    # ---- settings that the server keeps

    def _put_velo(self, value: float) -> Completion:
        return self._configure("VELO", value)

    def _put_accl(self, value: float) -> Completion:
        return self._configure("ACCL", value)

    def _put_bdst(self, value: float) -> Completion:
        return self._configure("BDST", value)

    def _put_dhlm(self, value: float) -> Completion:
        return self._configure("HLM", value, put="DHLM")

    def _put_dllm(self, value: float) -> Completion:
        return self._configure("LLM", value, put="DLLM")

    def _put_hlm(self, value: float) -> Completion:
        suffix = "HLM" if self._coordinates.direction > 0 else "LLM"
        return self._configure(suffix, self._coordinates.to_dial(value), put="HLM")

    def _put_llm(self, value: float) -> Completion:
        suffix = "LLM" if self._coordinates.direction > 0 else "HLM"
        return self._configure(suffix, self._coordinates.to_dial(value), put="LLM")

    def _put_jvel(self, value: float) -> Completion:
        if not 0.0 <= value <= (self._get("VMAX") or value):
            raise PutRefusedError(
                f"{self._refused('JVEL', value)}: expected {self._allowed('JVEL')}."
            )
        self._post(JVEL=value or self._get("VELO"))
        return None

    def _put_jar(self, value: float) -> Completion:
        if value < 0.0:
            raise PutRefusedError(
                f"{self._refused('JAR', value)}: expected {self._allowed('JAR')}."
            )
        self._post(JAR=value or self._own_acceleration())
        return None

    def _own_acceleration(self) -> float:
        return float(self._get("VELO") / self._get("ACCL")) if self._get("ACCL") else 0.0

    def _refused(self, suffix: str, value: float) -> str:
        units = self.fields[suffix].metadata()["units"]
        return f"{self.name}.{suffix} can't be set to {value:g} {units}"

    def _allowed(self, suffix: str) -> str:
        """Say what a setting may be, in the units and coordinates of its field."""
        low, high = self.spec.low, self.spec.high
        user = self._coordinates.limits_to_user(low, high)
        ranges: dict[str, tuple[float, float]] = {
            "ACCL": (0.001, 100.0),
            "BDST": (-0.005 * (high - low), 0.005 * (high - low)),
            "DHLM": (self._get("DLLM"), high),
            "DLLM": (low, self._get("DHLM")),
            "HLM": (self._get("LLM"), user[1]),
            "LLM": (user[0], self._get("HLM")),
        }
        if suffix in ranges:
            return "{:g} to {:g}".format(*ranges[suffix])
        if suffix == "JAR":
            return "0 (VELO / ACCL) or more"
        least = "0 (that is VELO)" if suffix == "JVEL" else "more than 0"
        return f"{least} up to {self._get('VMAX'):g} (VMAX)"

    def _configure(self, suffix: str, value: float, put: str = "") -> Completion:
        """Send a setting to the server, which has the last word on it.

        Parameters
        ----------
        suffix
            The server's name of it.
        value
            New value; a limit is in dial coordinates.
        put
            The field that a client put, if it has another name.
        """
        name, field = f"{self.name}.{suffix}", put or suffix
        user = self._coordinates.to_user(value) if field in ("HLM", "LLM") else value
        if not self._link.connected:
            raise PutRefusedError(
                f"{self._refused(field, user)}: no connection to the device server."
            )
        if suffix in self._jog_speed.own:  # it is in force when the jog has ended
            self._jog_speed.own[suffix] = self._settings[suffix] = value
            self._post(**{suffix: value})
            return None
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if isinstance(answer, str):
                self.touch()
                self._settings[suffix] = value
                self._take_settings({suffix: f"{value:.17g}"})
                completion.set_result(None)
                return
            reason = f"the device server says {answer}"
            if str(answer) == "INVALID_VALUE":
                reason = f"expected {self._allowed(field)}"
            completion.set_exception(PutRefusedError(f"{self._refused(field, user)}: {reason}."))

        self._link.send(f"PUT:{name}:{value:.17g}", answered)
        return completion

    def _server_settings(self) -> dict[str, float]:
        return {suffix: self._get(field) for suffix, field in _KEPT.items()}

    def _take_settings(self, values: Mapping[str, str]) -> None:
        for suffix in ("VELO", "ACCL", "BDST", "VMAX"):
            if suffix in values and suffix not in self._jog_speed.own:
                self._post(**{suffix: float(values[suffix])})
        if "VMAX" in values:
            for suffix in ("VELO", "JVEL"):
                _set_range(self.fields[suffix], 0.0, self._get("VMAX"))
        if not self._get("JVEL"):
            self._post(JVEL=self._get("VELO"))
        if not self._get("JAR"):
            self._post(JAR=self._own_acceleration())
        if "HLM" in values or "LLM" in values:
            self._set_dial_limits(
                float(values.get("LLM", self._get("DLLM"))),
                float(values.get("HLM", self._get("DHLM"))),
            )

    def _set_dial_limits(self, low: float, high: float) -> None:
        user_low, user_high = self._coordinates.limits_to_user(low, high)
        for suffix in ("VAL", "RBV", "HLM", "LLM"):
            _set_range(self.fields[suffix], user_low, user_high)
        for suffix in ("DVAL", "DRBV", "DHLM", "DLLM"):
            _set_range(self.fields[suffix], low, high)
        self._post(DLLM=low, DHLM=high, LLM=user_low, HLM=user_high)

    def _take_switches(self, values: Mapping[str, str]) -> None:
        for suffix, raw in (("HLS", "RHLS"), ("LLS", "RLLS")):
            if suffix in values:
                self._post(**{raw: int(float(values[suffix]))})
        high, low = self._get("RHLS"), self._get("RLLS")
        if self._coordinates.direction < 0:
            high, low = low, high
        self._post(HLS=high, LLS=low)

    def lose_link(self) -> None:
        """Mark all values as invalid; remember the settings that clients had made."""
        super().lose_link()
        present = self._server_settings()
        for suffix in self._settings.keys() - self._restoring:
            self._settings[suffix] = present[suffix]

    def restore(self) -> None:
        """Give settings that clients had made back to a device server that started anew."""
        present = self._server_settings()
        for suffix, value in tuple(self._settings.items()):
            if present[suffix] != value:
                _log.info("restoring %s.%s to %g", self.name, suffix, value)
                completion = self._configure(suffix, value)
                if completion is not None:
                    self._restoring.add(suffix)
                    completion.add_done_callback(functools.partial(self._restored, suffix))

    def _restored(self, suffix: str, completion: asyncio.Future[None]) -> None:
        self._restoring.discard(suffix)
        if not completion.cancelled() and (failure := completion.exception()) is not None:
            _log.warning("a setting was not restored: %s", failure)


def _set_range(field: Field, low: float, high: float) -> None:
    field.set_properties(
        upper_ctrl_limit=high, lower_ctrl_limit=low, upper_disp_limit=high, lower_disp_limit=low
    )
