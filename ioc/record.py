"""What all records share: common fields, alarms, names."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from ioc.channel import ALARM_CHANGED, Alarm, Field, Stamp
from ioc.fields import Double, Enum, Short, String

__all__ = ["ALARM_SEVERITIES", "ALARM_STATES", "NO_LIMITS", "AlarmLimits", "Record"]

ALARM_SEVERITIES = ("NO_ALARM", "MINOR", "MAJOR", "INVALID")
ALARM_STATES = (
    "NO_ALARM", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT",
    "HWLIMIT", "CALC", "SCAN", "LINK", "SOFT",
)  # fmt: skip
_SCAN_STATES = ("Passive", "Event", "I/O Intr")


@dataclass(frozen=True)
class AlarmLimits:
    """Alarm limits of an analog record; NaN disables one."""

    lolo: float = math.nan
    low: float = math.nan
    high: float = math.nan
    hihi: float = math.nan

    def evaluate(self, value: float) -> tuple[AlarmStatus, AlarmSeverity]:
        """Alarm state of a value; limits that are NaN never trigger."""
        if value >= self.hihi:
            return AlarmStatus.HIHI, AlarmSeverity.MAJOR_ALARM
        if value <= self.lolo:
            return AlarmStatus.LOLO, AlarmSeverity.MAJOR_ALARM
        if value >= self.high:
            return AlarmStatus.HIGH, AlarmSeverity.MINOR_ALARM
        if value <= self.low:
            return AlarmStatus.LOW, AlarmSeverity.MINOR_ALARM
        return AlarmStatus.NO_ALARM, AlarmSeverity.NO_ALARM


#: Alarm limits disabled on purpose.
NO_LIMITS = AlarmLimits()


class Record:
    """A record: named fields that share a time stamp and an alarm state.

    Parameters
    ----------
    name
        Full name of the record.
    kind
        Record type (RTYP).
    description
        DESC.
    """

    def __init__(self, name: str, kind: str, description: str) -> None:
        self.name = name
        self.kind = kind
        self.stamp = Stamp()
        self.alarm = Alarm()
        self.fields: dict[str, Field] = {}
        # Until the device server has been heard, a value is worth nothing.
        self.alarm.set(AlarmStatus.UDF, AlarmSeverity.INVALID_ALARM)
        self.add("NAME", String, value=name[:39], read_only=True)
        self.add("RTYP", String, value=kind, read_only=True)
        self.add("DESC", String, value=description[:39])
        self.add("STAT", Enum, value=0, enum_strings=ALARM_STATES, read_only=True)
        self.add("SEVR", Enum, value=0, enum_strings=ALARM_SEVERITIES, read_only=True)
        self.add("SCAN", Enum, value=2, enum_strings=_SCAN_STATES, read_only=True)
        self.add("PROC", Short, value=0)
        self._post_alarm_fields()

    def add(self, suffix: str, kind: type[Field], **kwargs: Any) -> Any:
        """Add a field and return it."""
        field = kind(stamp=self.stamp, alarm=self.alarm, reported_record_type=self.kind, **kwargs)
        field.name = self.name if suffix == "VAL" else f"{self.name}.{suffix}"
        self.fields[suffix] = field
        return field

    def channels(self) -> dict[str, Field]:
        """Every name that clients can connect to."""
        named = {f"{self.name}.{suffix}": field for suffix, field in self.fields.items()}
        if "VAL" in self.fields:
            named[self.name] = self.fields["VAL"]
        return named

    def protect(self) -> None:
        """Deny clients write access to all fields."""
        for field in self.fields.values():
            field.read_only = True

    def touch(self, stamp: float | None = None) -> None:
        """Set the time stamp of what is posted next."""
        self.stamp.time = time.time() if stamp is None else stamp

    def set_alarm(self, status: AlarmStatus, severity: AlarmSeverity) -> None:
        """Change the alarm state and send it to clients."""
        if self.alarm.set(status, severity):
            self._post_alarm_fields()
            for field in self.fields.values():
                field.publish_now(ALARM_CHANGED)

    def clear_alarm(self) -> None:
        """End any alarm."""
        self.set_alarm(AlarmStatus.NO_ALARM, AlarmSeverity.NO_ALARM)

    def lose_link(self) -> None:
        """Mark all values as invalid: the device server can't be reached."""
        self.touch()
        self.set_alarm(AlarmStatus.COMM, AlarmSeverity.INVALID_ALARM)

    def _post_alarm_fields(self) -> None:
        status = int(self.alarm.status)
        self.fields["STAT"].post(status if status < len(ALARM_STATES) else 0)
        self.fields["SEVR"].post(int(self.alarm.severity))

    def add_analog_fields(
        self, units: str, precision: int, low: float, high: float, limits: AlarmLimits
    ) -> dict[str, Any]:
        """Add EGU, PREC, display and alarm limits; return the metadata of the value."""
        self.add("EGU", String, value=units, read_only=True)
        self.add("PREC", Short, value=precision, read_only=True)
        self.add("HOPR", Double, value=high, precision=precision, read_only=True)
        self.add("LOPR", Double, value=low, precision=precision, read_only=True)
        for name, value in (
            ("LOLO", limits.lolo),
            ("LOW", limits.low),
            ("HIGH", limits.high),
            ("HIHI", limits.hihi),
        ):
            self.add(name, Double, value=value, precision=precision, read_only=True)
        for name, limit, severity in (
            ("LLSV", limits.lolo, 2),
            ("LSV", limits.low, 1),
            ("HSV", limits.high, 1),
            ("HHSV", limits.hihi, 2),
        ):
            self.add(
                name,
                Enum,
                value=0 if math.isnan(limit) else severity,
                enum_strings=ALARM_SEVERITIES,
                read_only=True,
            )
        return {
            "units": units,
            "precision": precision,
            "upper_disp_limit": high,
            "lower_disp_limit": low,
            "lower_alarm_limit": limits.lolo,
            "lower_warning_limit": limits.low,
            "upper_warning_limit": limits.high,
            "upper_alarm_limit": limits.hihi,
        }
