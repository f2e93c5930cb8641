"""How the IOC is doing: the records of devIocStats under their own names, and a few more."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from caproto import AlarmSeverity, AlarmStatus

from ioc.channel import Completion, Field
from ioc.fields import Double, Enum, String
from ioc.record import NO_LIMITS, AlarmLimits, Record

__all__ = ["ACCESS_STATES", "Health", "Neighbours", "Traffic"]

ACCESS_STATES = ("Running", "Maintenance", "Test", "OFFLINE")
_ACCESS_SEVERITIES = (0, 1, 1, 2)
_OFFLINE = ACCESS_STATES.index("OFFLINE")
#: Occupied: another IOC takes the frames.
_WRITER_STATES = ("Disconnected", "Ready", "Writing", "Failed", "Occupied")
_AUTOSAVE_STATES = ("Off", "Saved", "Failed")
_PERIOD = 1.0
_CLOCK = "%m/%d/%Y %H:%M:%S"
_MEBIBYTE = 1 << 20


class Traffic(Protocol):
    """What the Channel Access server counts."""

    coalesced: int
    denied: int
    refused: int

    def clients(self) -> int:
        """Count the connections that are open."""

    def connections(self) -> int:
        """Count the channels that are open."""

    def queue_depth(self) -> int:
        """Count the updates that wait for the client that has most of them waiting."""

    def set_online(self, online: bool) -> None:
        """Let the allowed hosts write, or nobody."""


class Neighbours(Protocol):
    """What is known about the processes next to the IOC."""

    def link_health(self) -> tuple[bool, int, float]:
        """Whether the device server is connected, how often anew, and its round trip (s)."""

    def writer_health(self) -> tuple[str, int]:
        """State of the frame writer, and how often it was started again."""


class _Shown(Record):
    """A record that shows one value."""

    limits = NO_LIMITS

    def show(self, value: Any, severity: AlarmSeverity) -> None:
        """Give a new value; of a number, the alarm limits decide the severity."""
        field = self.fields["VAL"]
        alarm = (AlarmStatus.STATE if severity else AlarmStatus.NO_ALARM, severity)
        if isinstance(field, Double):
            value = float(value)
            alarm = self.limits.evaluate(value)
        changed = value != field.current
        self.touch()
        # Stored first: the monitor that tells of an alarm carries the value that caused it.
        field.post(value, monitor=False)
        self.set_alarm(*alarm)
        if changed:
            field.post(value, force=True)


class Health:
    """The records ``IOC:…``.

    What does not change by itself is valid after the first `update`.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    neighbours
        Is asked once a second.
    engineer, location
        Whom to call, and where the IOC runs.
    """

    def __init__(
        self, prefix: str, neighbours: Neighbours, *, engineer: str = "", location: str = ""
    ) -> None:
        self._prefix = f"{prefix}IOC:"
        self._neighbours = neighbours
        self._traffic: Traffic | None = None
        self._started = time.time()
        self._cpu = (time.monotonic(), time.process_time())
        self._beats = 0
        self.records: dict[str, _Shown] = {}
        self._text("ENGINEER", "Whom to call", engineer)
        self._text("LOCATION", "Where the IOC runs", location)
        self._text("HOSTNAME", "Host name", socket.gethostname())
        self._text("KERNEL_VERS", "Kernel version", f"{platform.system()} {platform.release()}")
        self._text("STARTTOD", "Time and date of startup", _clock(self._started))
        self._text("TOD", "Current time and date", _clock(self._started))
        self._text("UPTIME", "Elapsed time since start", _elapsed(0.0))
        self._number("HEARTBEAT", "1 Hz counter since startup", kind="calcout")
        self._number("START_CNT", "Starts that the autosave file saw")
        self._number("PROCESS_ID", "Process ID")
        self._number("CPU_CNT", "Number of CPUs")
        self._number("RECORD_CNT", "Number of records")
        self._number("CA_CLNT_CNT", "Number of CA clients", high=100, hihi=175, top=200)
        self._number("CA_CONN_CNT", "Number of CA connections", high=40e3, hihi=45e3, top=50e3)
        self._number("CAQ_DEPTH", "Longest queue of updates to a client", high=2048, top=4096)
        self._number("CAQ_COALESCED", "Updates a newer one replaced in a queue")
        self._number("CA_PUT_REFUSED", "Puts refused for their value or state")
        self._number("CA_PUT_DENIED", "Puts denied for lack of access")
        self._number("FD_CNT", "Allocated file descriptors")
        self._number("FD_MAX", "Max file descriptors")
        self._number("FD_FREE", "Available FDs", low=20, lolo=5)
        self._number("IOC_CPU_LOAD", "IOC CPU load", "%", precision=1, high=70, hihi=80, top=100)
        self._number("MEM_USED", "Resident memory", "byte", high=_MEBIBYTE << 10,
                     hihi=_MEBIBYTE << 11)  # fmt: skip
        self._states("LINK_STATE", "Device server", ("Disconnected", "Connected"))
        self._number("LINK_RECONNECTS", "Times the device server came back")
        self._number(
            "LINK_LATENCY", "Round trip to the device server", "ms", precision=3, high=50, hihi=500
        )
        self._states("WRITER_STATE", "Frame writer", _WRITER_STATES)
        self._number("WRITER_RESTARTS", "Times the frame writer was restarted")
        self._states("AUTOSAVE_STATE", "Autosave file", _AUTOSAVE_STATES)
        self._text("AUTOSAVE_TOD", "When the autosave file was written", "")
        self._states("ACCESS", "IOC access mode", ACCESS_STATES, put=self._put_access)
        self.field("ACCESS").always_writable = True

    # ---- making records

    def _add(self, name: str, kind: str, description: str) -> _Shown:
        record = self.records[name] = _Shown(self._prefix + name, kind, description)
        return record

    def _text(self, name: str, description: str, value: str) -> None:
        self._add(name, "stringin", description).add(
            "VAL", String, value=value[:39], read_only=True
        )

    def _number(
        self,
        name: str,
        description: str,
        units: str = "",
        *,
        kind: str = "ai",
        precision: int = 0,
        top: float = 0.0,
        **limits: float,
    ) -> None:
        record = self._add(name, kind, description)
        alarms = AlarmLimits(**limits)
        metadata = record.add_analog_fields(units, precision, 0.0, top, alarms)
        record.limits = alarms
        record.add("VAL", Double, value=0.0, read_only=True, **metadata)

    def _states(
        self,
        name: str,
        description: str,
        states: tuple[str, ...],
        put: Callable[[int], Completion] | None = None,
    ) -> None:
        kind = ("bi" if len(states) == 2 else "mbbi") if put is None else "mbbo"
        self._add(name, kind, description).add(
            "VAL", Enum, value=0, enum_strings=states, put=put, read_only=put is None
        )

    def field(self, name: str) -> Field:
        """Value of a record by its name without the prefix."""
        return self.records[name].fields["VAL"]

    # ---- values

    def serve(self, traffic: Traffic) -> None:
        """Give the server whose clients and queues are shown."""
        self._traffic = traffic
        traffic.set_online(self.field("ACCESS").current != _OFFLINE)

    async def run(self) -> None:
        """Bring all records up to date once a second, until cancelled."""
        due = time.monotonic()
        if self.records["AUTOSAVE_STATE"].alarm.status == AlarmStatus.UDF:
            self.show_autosave("Off", 0.0)
        while True:
            self.update()
            due = max(due + _PERIOD, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def update(self) -> None:
        """Bring all records up to date."""
        now = time.time()
        for name in ("ENGINEER", "LOCATION", "HOSTNAME", "KERNEL_VERS", "STARTTOD"):
            self._set(name, self.field(name).current)
        self._set("TOD", _clock(now))
        self._set("UPTIME", _elapsed(now - self._started))
        self._beats = self._beats % (2**31 - 1) + 1
        self._set("HEARTBEAT", self._beats)
        for name in ("START_CNT", "RECORD_CNT"):
            self._set(name, self.field(name).current)
        self._set("PROCESS_ID", os.getpid())
        self._set("CPU_CNT", os.cpu_count() or 1)
        self._update_process()
        self._update_neighbours()
        if self._traffic is not None:
            self._set("CA_CLNT_CNT", self._traffic.clients())
            self._set("CA_CONN_CNT", self._traffic.connections())
            self._set("CAQ_DEPTH", self._traffic.queue_depth())
            self._set("CAQ_COALESCED", self._traffic.coalesced)
            self._set("CA_PUT_REFUSED", self._traffic.refused)
            self._set("CA_PUT_DENIED", self._traffic.denied)
        mode = self.field("ACCESS").current
        self._set("ACCESS", mode, _ACCESS_SEVERITIES[mode])

    def _update_process(self) -> None:
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._set("FD_CNT", descriptors)
        self._set("FD_MAX", limit)
        self._set("FD_FREE", limit - descriptors)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._set("MEM_USED", pages * resource.getpagesize())
        now = time.monotonic(), time.process_time()
        elapsed = now[0] - self._cpu[0]
        load = self.field("IOC_CPU_LOAD").current
        if elapsed > 0.1 * _PERIOD:
            load = 100.0 * (now[1] - self._cpu[1]) / elapsed
            self._cpu = now
        self._set("IOC_CPU_LOAD", load)

    def _update_neighbours(self) -> None:
        connected, reconnects, latency = self._neighbours.link_health()
        self._set("LINK_STATE", int(connected), 0 if connected else 2)
        self._set("LINK_RECONNECTS", reconnects)
        self._set("LINK_LATENCY", 1e3 * latency)
        state, restarts = self._neighbours.writer_health()
        failed = state in ("Disconnected", "Failed", "Occupied")
        self._set("WRITER_STATE", _WRITER_STATES.index(state), 2 if failed else 0)
        self._set("WRITER_RESTARTS", restarts)

    def show_autosave(self, state: str, saved: float) -> None:
        """Show whether settings could be saved, and when they were (s since 1970; 0: never)."""
        self._set("AUTOSAVE_STATE", _AUTOSAVE_STATES.index(state), 2 * (state == "Failed"))
        self._set("AUTOSAVE_TOD", _clock(saved) if saved else "")

    def neighbours_changed(self) -> None:
        """Show at once that the device server came or went."""
        self._update_neighbours()

    def _put_access(self, mode: int) -> Completion:
        self._set("ACCESS", mode, _ACCESS_SEVERITIES[mode])
        if self._traffic is not None:
            self._traffic.set_online(mode != _OFFLINE)
        return None

    def _set(self, name: str, value: Any, severity: int = 0) -> None:
        self.records[name].show(value, AlarmSeverity(severity))


def _clock(when: float) -> str:
    return time.strftime(_CLOCK, time.localtime(when))


def _elapsed(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{days} day{'s' * (days != 1)}, {clock}" if days else clock
