"""Room on disk: set aside before it is used, and files that are there for good."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from beamline.core.errors import BeamlineError

__all__ = ["DiskFullError", "reserve"]

_libc = ctypes.CDLL(None, use_errno=True)

#: Free disk space that a block leaves, and has for what HDF5 needs beside the rows, bytes.
_RESERVE = 4_000_000


class DiskFullError(BeamlineError, OSError):
    """There is no room for the next events; they are kept and go out when there is."""


def reserve(path: Path, end: int, needed: int, waiting: str) -> None:
    """Have the disk set room aside for what is written to a file next.

    HDF5 does not survive a write that fails: it loses rows without a word.

    Parameters
    ----------
    path
        The file.
    end
        Where it grows, bytes.
    needed
        Bytes; a reserve is added.
    waiting
        What waits for the room, for the message.

    Raises
    ------
    DiskFullError
        If there is none.
    """
    needed += _RESERVE
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskFullError(
            f"{path} needs {needed / 1e6:.0f} MB to grow, found {free / 1e6:.0f} MB free: "
            f"{waiting}."
        )
    handle = os.open(path, os.O_WRONLY)
    try:
        size = os.fstat(handle).st_size
        _allocate(handle, end, needed)
    except OSError as error:
        os.ftruncate(handle, size)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(
                f"{path} needs {needed / 1e6:.0f} MB to grow, and does not get them "
                f"({error.strerror}): {waiting}."
            ) from None
        # Some file systems (NFS 3) can't set room aside.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def _allocate(handle: int, start: int, size: int) -> None:
    """Call the system's ``fallocate``.

    `os.posix_fallocate` writes to every block instead where the file system can't do it, which
    takes longer than the data that follow.
    """
    call = getattr(_libc, "fallocate", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    while call(handle, 0, start, size):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
