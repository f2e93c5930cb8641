"""Which journal files wait to be brought into the catalogue."""

from __future__ import annotations

from pathlib import Path

from beamline.catalog._ledger import COMPLETE, INCOMPLETE, Entry
from beamline.core.errors import FileFormatError
from beamline.documents import Journal
from beamline.documents._records import JournalReader

__all__ = ["RUNNING", "Watch", "state"]

RUNNING = "running"


def state(path: Path) -> tuple[str, int]:
    """Return (complete, incomplete or running; bytes) of a journal file.

    Raises
    ------
    FileFormatError
        If it is not a journal.
    """
    with JournalReader(path) as reader:
        if reader.stop() is not None:
            return COMPLETE, reader.size
        # Asked in this order: a writer that ends between the questions is seen as running.
        running = reader.being_written
        if not running:
            reader.start()
        return (RUNNING if running else INCOMPLETE), reader.size


class Watch:
    """Follows a journal directory without reading what it has seen.

    Parameters
    ----------
    journal
        The directory, which need not exist yet.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._seen_days: dict[Path, int] = {}
        # Files that are not done with, and the size at which they could not be read.
        self._open: dict[Path, int] = {}
        self._settled: set[Path] = set()

    def ready(self, known: dict[str, Entry]) -> list[Path]:
        """Return files of runs that have ended and that `known` does not have, oldest first."""
        for day in self._journal.days():
            changed = day.stat().st_mtime_ns
            if self._seen_days.get(day) == changed:
                continue
            self._seen_days[day] = changed
            for path in self._journal.files(day):
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
            if self._open[path] == path.stat().st_size:
                return False
            status, size = state(path)
        except FileNotFoundError:
            self.done(path)
            return False
        except FileFormatError:
            # Empty for a moment while it is made, or broken: looked at again when it has grown.
            self._open[path] = path.stat().st_size
            return False
        if status == RUNNING:
            return False
        if entry is not None and entry.present and entry.size == size:
            self.done(path)
            return False
        return True
