"""Which runs are in the catalogue: a text file that can be asked without opening the catalogue.

One JSON object per line; the last line about a run holds. It lies beside the databases and goes
with them. A line is written after the run is in, so that a process killed in between does the run
again rather than forget it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Entry", "Ledger", "catalog_lock"]

COMPLETE, INCOMPLETE, FAILED = "complete", "incomplete", "failed"


@dataclass(frozen=True)
class Entry:
    """What happened to one run.

    Attributes
    ----------
    uid
        Of the run.
    status
        "complete", "incomplete" (taken in without a stop document) or "failed".
    size
        Bytes of the journal file that were read.
    reason
        Why it failed.
    """

    uid: str
    status: str
    size: int
    reason: str = ""

    @property
    def present(self) -> bool:
        """Whether the run is in the catalogue."""
        return self.status != FAILED


class Ledger:
    """Reader and writer of the list; `refresh` reads only what was added.

    Parameters
    ----------
    directory
        The catalogue's.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ingested.jsonl"
        self.entries: dict[str, Entry] = {}
        self._position = 0
        self._inode = 0

    def refresh(self) -> dict[str, Entry]:
        """Read lines that were added since, and return all entries by uid."""
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            self.entries, self._position = {}, 0
            return self.entries
        with stream:
            status = os.fstat(stream.fileno())
            if status.st_ino != self._inode or status.st_size < self._position:
                # The catalogue was made anew.
                self.entries, self._position, self._inode = {}, 0, status.st_ino
            stream.seek(self._position)
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it
                self._position += len(line)
                with contextlib.suppress(ValueError, TypeError):
                    entry = Entry(**json.loads(line))
                    self.entries[entry.uid] = entry
        return self.entries

    def add(self, entry: Entry) -> None:
        """Append one line; nothing happens if it says what is known already."""
        if self.refresh().get(entry.uid) == entry:
            return
        # A line that a killed process left unfinished must not swallow this one.
        torn = self.path.exists() and self.path.stat().st_size > self._position
        with self.path.open("ab") as stream:
            stream.write(b"\n" * torn + json.dumps(asdict(entry)).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.refresh()


@contextlib.contextmanager
def catalog_lock(
    directory: Path, name: str = "lock", *, wait: bool = True, shared: bool = False
) -> Iterator[None]:
    """Hold a lock that one process at a time can have, or several that share it.

    Raises
    ------
    BlockingIOError
        If somebody else has it and `wait` is false.
    """
    with (directory / name).open("a") as stream:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(stream, kind | (0 if wait else fcntl.LOCK_NB))
        yield
