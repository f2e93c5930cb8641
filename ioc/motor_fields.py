"""The fields of a motor record, and the arithmetic between its coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beamline.core.pvs import PVSpec
from ioc.channel import Field
from ioc.fields import Double, Enum, Long, Short, String
from ioc.record import ALARM_SEVERITIES

__all__ = ["PAUSED_STATES", "SPMG_STATES", "Coordinates", "motor_fields"]

SPMG_STATES = ("Stop", "Pause", "Move", "Go")
PAUSED_STATES = ("Stop", "Pause")
_STEPS_PER_REVOLUTION = 200


@dataclass(frozen=True)
class Coordinates:
    """Relation between user and dial coordinates: ``user = direction · dial + offset``.

    Attributes
    ----------
    offset
        OFF, in user units.
    direction
        +1 or −1 (DIR).
    """

    offset: float = 0.0
    direction: int = 1

    def to_user(self, dial: float) -> float:
        """User position of a dial position."""
        # Without an offset nothing is added: a value survives the way through the record exactly.
        user = dial if self.direction > 0 else -dial
        return user + self.offset if self.offset else user

    def to_dial(self, user: float) -> float:
        """Dial position of a user position."""
        dial = user - self.offset if self.offset else user
        return dial if self.direction > 0 else -dial

    def limits_to_user(self, low: float, high: float) -> tuple[float, float]:
        """User limits ``(low, high)`` of dial limits."""
        ends = self.to_user(low), self.to_user(high)
        return min(ends), max(ends)


def motor_fields(spec: PVSpec) -> dict[str, tuple[type[Field], bool, dict[str, Any]]]:
    """All fields by name: type, whether clients may write, initial value and metadata."""
    digits = spec.precision
    step = 10.0**-digits
    length: dict[str, Any] = {"precision": digits, "units": spec.units}
    speed: dict[str, Any] = {"precision": digits, "units": f"{spec.units}/s"[:7]}
    seconds: dict[str, Any] = {"precision": 3, "units": "s"}
    yes_no = ("No", "Yes")
    fields: dict[str, tuple[type[Field], bool, dict[str, Any]]] = {}

    def numbers(names: str, writable: bool, value: float, metadata: dict[str, Any]) -> None:
        for name in names.split():
            fields[name] = (Double, writable, {"value": value, **metadata})

    def integers(names: str, writable: bool, kind: type[Field], value: int = 0) -> None:
        for name in names.split():
            fields[name] = (kind, writable, {"value": value})

    def states(name: str, writable: bool, value: int, choices: tuple[str, ...]) -> None:
        fields[name] = (Enum, writable, {"value": value, "enum_strings": choices})

    numbers("VAL DVAL RLV TWV OFF", True, 0.0, length)
    numbers("RBV DRBV DIFF LVAL LDVL LRLV", False, 0.0, length)
    numbers("HLM LLM DHLM DLLM BDST", True, 0.0, length)
    numbers("VELO JVEL", True, 0.0, speed)
    numbers("VBAS BVEL HVEL", False, 0.0, speed)
    numbers("VMAX", False, 0.0, speed)
    numbers("JAR", True, 0.0, {"precision": digits, "units": f"{spec.units}/s/s"[:7]})
    numbers("ACCL", True, 0.0, seconds)
    numbers("BACC DLY", False, 0.0, seconds)
    numbers("MRES ERES RRES RDBD", False, step, length)
    numbers("UREV", False, step * _STEPS_PER_REVOLUTION, length)
    numbers("FRAC", False, 1.0, {"precision": 2})
    numbers("MDEL ADEL", False, 0.0, length)
    integers("RVAL", True, Long)
    integers("RRBV RMP REP RDIF MSTA LRVL", False, Long)
    integers("SREV", False, Long, _STEPS_PER_REVOLUTION)
    integers("DMOV", False, Short, 1)
    integers("MOVN HLS LLS RHLS RLLS LVIO MISS ATHM RCNT RTRY CDIR MIP CARD PP", False, Short)
    integers("TDIR", False, Short, 1)
    integers("STOP HOMF HOMR JOGF JOGR TWF TWR SYNC SSET SUSE VOF FOF STUP", True, Short)
    states("DIR", True, 0, ("Pos", "Neg"))
    states("SET", True, 0, ("Use", "Set"))
    states("FOFF", True, 0, ("Variable", "Frozen"))
    states("SPMG", True, 3, SPMG_STATES)
    states("LSPG", False, 3, SPMG_STATES)
    states("CNEN", True, 1, ("Disable", "Enable"))
    states("HLSV", True, 2, ALARM_SEVERITIES)
    states("UEIP", False, 1, yes_no)
    states("NTM", False, 1, ("NO", "YES"))
    states("RMOD", False, 0, ("Default", "Arithmetic", "Geometric", "In-Position"))
    fields["EGU"] = (String, False, {"value": spec.units})
    fields["OUT"] = (String, False, {"value": f"@beamline-sim({spec.suffix})"})
    fields["DTYP"] = (String, False, {"value": "beamline-sim"})
    fields["PREC"] = (Short, False, {"value": digits})
    fields["TWV"][2]["value"] = 10.0 * step
    return fields
