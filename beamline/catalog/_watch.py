"""Which journal files wait to be brought into the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from beamline.catalog._ledger import COMPLETE, INCOMPLETE, Entry
from beamline.core.errors import FileFormatError
from beamline.documents import Journal
from beamline.documents._records import JournalReader
from beamline.documents._store import changed_at

__all__ = ["RUNNING", "ChangedDays", "Watch", "state"]

RUNNING = "running"


def state(path: Path) -> tuple[str, int]:
    """Return (complete, incomplete or running; bytes) of a journal file.

    Raises
    ------
    FileFormatError
        If it is not a journal.
    """
    with JournalReader(path) as reader:
        stop, running = reader.outcome()
        if stop is not None:
            return COMPLETE, reader.size
        if not running:
            reader.start()
        return (RUNNING if running else INCOMPLETE), reader.size


class ChangedDays:
    """Remembers which days of a journal have been looked at."""

    def __init__(self) -> None:
        self._seen: dict[Path, int] = {}

    def files(self, days: Iterable[Path]) -> Iterator[Path]:
        """Yield the journal files of those days that have changed since the last look."""
        for day in days:
            changed = changed_at(day)
            if self._seen.get(day) != changed:
                self._seen[day] = changed
                yield from Journal.files(day)


class Watch:
    """Follows a journal directory without reading what it has seen.

    Parameters
    ----------
    journal
        The directory, which need not exist yet.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed = ChangedDays()
        # Files that are not done with, and the size at which they could not be read.
        self._open: dict[Path, int] = {}
        self._settled: set[Path] = set()

    def ready(self, known: dict[str, Entry]) -> list[Path]:
        """Return files of runs that have ended and that `known` does not have, oldest first."""
        for path in self._changed.files(self._journal.days()):
            if path not in self._settled:
                self._open.setdefault(path, -1)
        return [path for path in sorted(self._open) if self._is_ready(path, known)]

    def done(self, path: Path) -> None:
        """Do not offer this file again."""
        self._open.pop(path, None)
        self._settled.add(path)

    def _is_ready(self, path: Path, known: dict[str, Entry]) -> bool:
        entry = known.get(Journal.uid_of(path))
        if entry is not None and entry.status == COMPLETE:
            self.done(path)
            return False
        try:
            # Asked before it is read: what is written meanwhile makes it another file.
            found = path.stat().st_size
            if self._open[path] == found:
                return False
            status, size = state(path)
        except FileNotFoundError:
            self.done(path)
            return False
        except FileFormatError:
            # Empty for a moment while it is made, or broken: looked at again when it has grown.
            self._open[path] = found
            return False
        if status == RUNNING:
            return False
        if entry is not None and entry.present and entry.size == size:
            self.done(path)
            return False
        return True
