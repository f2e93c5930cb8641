"""What a motor record knows about its axis: coordinates, limits, settings, readbacks.

Nothing here starts a motion; `ioc.motor` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from beamline.core.pvs import PVSpec
from ioc.channel import Completion, Field, PutRefusedError
from ioc.link import Answer, DeviceLink
from ioc.motor_fields import Coordinates, motor_fields
from ioc.record import Record

__all__ = ["AxisRecord"]

_log = logging.getLogger("ioc.motor")


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
        handlers = {
            name.removeprefix("_put_").upper(): getattr(self, name)
            for name in dir(self)
            if name.startswith("_put_")
        }
        for suffix, (kind, writable, metadata) in motor_fields(spec).items():
            handler = handlers.get(suffix)
            self.add(suffix, kind, put=handler, read_only=not writable, **metadata)
        self._set_dial_limits(spec.low, spec.high)

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
        self._relabel(Coordinates(self._coordinates.offset, -1 if value else 1))
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
        return self._configure("HLM", value)

    def _put_dllm(self, value: float) -> Completion:
        return self._configure("LLM", value)

    def _put_hlm(self, value: float) -> Completion:
        suffix = "HLM" if self._coordinates.direction > 0 else "LLM"
        return self._configure(suffix, self._coordinates.to_dial(value))

    def _put_llm(self, value: float) -> Completion:
        suffix = "LLM" if self._coordinates.direction > 0 else "HLM"
        return self._configure(suffix, self._coordinates.to_dial(value))

    def _configure(self, suffix: str, value: float) -> Completion:
        """Send a setting (limits: dial) to the server, which has the last word on it."""
        name = f"{self.name}.{suffix}"
        if not self._link.connected:
            raise PutRefusedError(
                f"{name} can't be set to {value:g}: no connection to the device server."
            )
        completion: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if isinstance(answer, str):
                self.touch()
                self._settings[suffix] = value
                self._take_settings({suffix: f"{value:.17g}"})
                completion.set_result(None)
            else:
                completion.set_exception(
                    PutRefusedError(
                        f"{name} can't be set to {value:g}: the device server says {answer}."
                    )
                )

        self._link.send(f"PUT:{name}:{value:.17g}", answered)
        return completion

    def _server_settings(self) -> dict[str, float]:
        return {
            "VELO": self._get("VELO"), "ACCL": self._get("ACCL"), "BDST": self._get("BDST"),
            "HLM": self._get("DHLM"), "LLM": self._get("DLLM"),
        }  # fmt: skip

    def _take_settings(self, values: Mapping[str, str]) -> None:
        for suffix in ("VELO", "ACCL", "BDST"):
            if suffix in values:
                self._post(**{suffix: float(values[suffix])})
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
        self._settings = {suffix: present[suffix] for suffix in self._settings}

    def restore(self) -> None:
        """Give settings that clients had made back to a device server that started anew."""
        present = self._server_settings()
        for suffix, value in tuple(self._settings.items()):
            if present[suffix] != value:
                _log.info("restoring %s.%s to %g", self.name, suffix, value)
                completion = self._configure(suffix, value)
                if completion is not None:
                    completion.add_done_callback(lambda done: done.cancelled() or done.exception())


def _set_range(field: Field, low: float, high: float) -> None:
    field.set_properties(
        upper_ctrl_limit=high, lower_ctrl_limit=low, upper_disp_limit=high, lower_disp_limit=low
    )
