"""The unfinished file of a run makes room for one made from the journal, or takes its place back.

While a file is being made, what was there before is ``NAME.before``. It goes when the new file
holds all of it, and comes back when it doesn't.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from beamline.core.errors import StorageError
from beamline.nexus.contained import missing_from
from beamline.validation.superblock import clear_flags, flags

__all__ = ["BEFORE", "PART", "lost_with", "set_aside", "take_back"]

PART = ".part"
BEFORE = ".before"


def set_aside(growing: Path) -> Path | None:
    """Rename an unfinished file; return its new path, or None if there is none.

    A recovery that was cut off has left both: then the older one is what counts.
    """
    before = growing.with_name(growing.name + BEFORE)
    if before.exists():
        growing.unlink(missing_ok=True)
    elif growing.exists():
        growing.replace(before)
    else:
        return None
    return before


def take_back(growing: Path) -> None:
    """Undo `set_aside`."""
    before = growing.with_name(growing.name + BEFORE)
    if before.exists():
        before.replace(growing)
    else:
        growing.unlink(missing_ok=True)


def lost_with(before: Path, made: Path, *, replaced: int = 0) -> list[str]:
    """Return what an unfinished file has and the one made anew has not.

    An unfinished file that can't be read has nothing that could be lost.

    Raises
    ------
    StorageError
        If the file made anew can't be read.
    """
    try:
        with _readable(before) as readable:
            if not _opens(readable):
                return []
            return missing_from(readable, made, replaced=replaced)
    except (OSError, RuntimeError, KeyError) as error:
        raise StorageError(
            f"{made} cannot be compared with {before}, which was cut off ({error}): both are left."
        ) from error


def _opens(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False) as file:
            file.visititems(lambda _name, _node: None)
    except (OSError, RuntimeError, KeyError):
        return False
    return True


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Give a path under which a file of a killed writer can be opened."""
    if not flags(path):
        yield path
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".clear-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        clear_flags(copy)
        yield copy
