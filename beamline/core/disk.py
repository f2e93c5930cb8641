"""Files that others write, and what has reached the disk."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Protocol

__all__ = ["lock", "locked_by_writer", "sync", "written_now"]


class _Open(Protocol):
    def fileno(self) -> int: ...


def lock(file: int | _Open, patience: float = 0.5) -> None:
    """Lock an open file for this process alone, until it is closed.

    Parameters
    ----------
    file
        The open file, or its descriptor.
    patience
        Seconds that another process may still have it. Who only looks whether it is locked
        (`locked_by_writer`) has it for an instant.

    Raises
    ------
    BlockingIOError
        If another process has it.
    OSError
        If the file system has no locks.
    """
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        else:
            return
        time.sleep(0.01)


def locked_by_writer(file: int | _Open) -> bool:
    """Whether a living process has an open file locked for itself, as our writers and HDF5's do.

    A file system without locks can't say: then it is taken for free.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def written_now(path: Path) -> bool:
    """Whether a living process has the exclusive lock on the file of that name, if there is one."""
    try:
        with path.open("rb") as stream:
            return locked_by_writer(stream)
    except OSError:
        return False


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk.

    Raises
    ------
    OSError
        If the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
