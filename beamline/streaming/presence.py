"""Processes that another process of the same machine can tell dead, at once and for sure."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Process", "is_gone", "this_process"]


class Process(NamedTuple):
    """One process, for as long as the machine is up.

    Attributes
    ----------
    machine
        This start of this machine and its namespace of process numbers; empty if unknown.
    pid
        Process number.
    started
        When it started, in ticks of the machine: process numbers come again.
    """

    machine: str
    pid: int
    started: int


@functools.cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start(pid: int) -> int | None:
    """Return when a process started; None if there is no such process or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name of the program is in parentheses and may contain anything.
    words = text[text.rindex(")") + 2 :].split()
    return None if words[0] in "ZX" else int(words[19])


def this_process() -> Process:
    """Return what identifies this process."""
    return Process(_machine(), os.getpid(), _start(os.getpid()) or 0)


def is_gone(process: Process) -> bool:
    """Return whether a process has ended; False if it ran elsewhere and nobody can tell."""
    return bool(
        process.machine and process.machine == _machine() and _start(process.pid) != process.started
    )
