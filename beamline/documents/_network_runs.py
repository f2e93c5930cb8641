"""The runs that a publisher has to offer: what is in the journal, and what comes to be there."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from beamline.core.errors import FileFormatError
from beamline.documents._network_tail import JournalTail, summary
from beamline.documents._network_wire import OPEN
from beamline.documents._records import SUFFIX
from beamline.documents._store import Journal, changed_at

__all__ = ["OfferedRuns", "line"]

_log = logging.getLogger(__name__)

_LOOK_ALL = 10.0  # seconds between two looks for new or old days
_RECENT = 60.0  # seconds that a run that has ended is still announced
_RECENT_DAYS = 3


class OfferedRuns:
    """Follows a journal directory, and the files of runs that are open or asked for.

    Parameters
    ----------
    journal
        The directory, which need not exist yet.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tails: dict[str, JournalTail] = {}
        self._seen: dict[Path, tuple[int, frozenset[str]]] = {}
        self._bad: set[Path] = set()
        self._looked_at_all = 0.0
        self._first_look = True
        self._days: list[Path] = []
        self._days_changed = -1

    @property
    def any_open(self) -> bool:
        """Whether a run is being recorded."""
        return any(tail.state == OPEN for tail in self._tails.values())

    def recent(self) -> list[JournalTail]:
        """Return the runs that are open or ended a short time ago."""
        now = time.monotonic()
        return [t for t in self._tails.values() if t.state == OPEN or now - t.ended_at < _RECENT]

    def close(self) -> None:
        """Close all files."""
        for tail in self._tails.values():
            tail.close()

    def look(self) -> bool:
        """Notice new files, and what was added to those that are open; return if any is new."""
        now = time.monotonic()
        days = self._days
        changed = changed_at(self._journal.directory)
        if changed != self._days_changed or now - self._looked_at_all >= _LOOK_ALL:
            self._looked_at_all = now
            self._days_changed = changed
            days = self._journal.days()
            dated = [day for day in days if day.name != "undated"]
            self._days = [*dated[:_RECENT_DAYS], *(day for day in days if day.name == "undated")]
        news = False
        for day in days:
            news |= self._look_at_day(day, recent=day in self._days)
        self._first_look = False
        for tail in self._tails.values():
            tail.grow()
        return news

    def drop(self, followed: Collection[str]) -> None:
        """Close the files of runs that ended a while ago, but of those that are `followed`."""
        now = time.monotonic()
        for uid, tail in list(self._tails.items()):
            if tail.state != OPEN and uid not in followed and now - tail.ended_at > _RECENT:
                tail.close()
                del self._tails[uid]

    def _look_at_day(self, day: Path, *, recent: bool) -> bool:
        changed = changed_at(day)
        before = self._seen.get(day)
        if before is not None and before[0] == changed:
            return False
        names = frozenset(path.name for path in self._journal.files(day))
        if before is not None:
            new = names - before[1]
        else:
            new = names if recent or not self._first_look else frozenset()
        opened = {name for name in new if self._open_new(day / name)}
        # A file without a whole start document yet is looked at again.
        retry = {n for n in new - opened if day / n not in self._bad}
        self._seen[day] = (-2 if retry else changed, names - retry)
        return bool(opened)

    def _open_new(self, path: Path) -> bool:
        try:
            if self._first_look and summary(path)[1] != OPEN:
                return True
            self._tail(path)
        except FileFormatError as error:
            if time.time() - path.stat().st_mtime > 10:
                self._bad.add(path)
                _log.warning("skipped: %s", error)
            return False
        return True

    def _tail(self, path: Path) -> JournalTail:
        uid = Journal.uid_of(path)
        tail = self._tails.get(uid)
        if tail is None:
            tail = self._tails[uid] = JournalTail(path)
            tail.grow()
        return tail

    def since(self, since: float | None) -> Iterator[list[Any]]:
        """Yield the runs that started at a time or later, and those that are open."""
        if since is not None:
            # A day's name is of the zone in which it was recorded.
            earliest = datetime.fromtimestamp(max(0.0, since - 2 * 86400)).astimezone()
            name = earliest.date().isoformat()
            for path in sorted(self._journal.paths()):
                uid = Journal.uid_of(path)
                if path.parent.name < name or uid in self._tails:
                    continue
                try:
                    started, state = summary(path)
                except FileFormatError as error:
                    _log.warning("skipped: %s", error)
                    continue
                if started >= since:
                    yield [uid, started, state, -1]
        for tail in self._tails.values():
            if tail.state == OPEN or since is None or tail.started >= since:
                yield line(tail)

    def find(self, uid: str) -> JournalTail:
        """Return a run of any time.

        Raises
        ------
        FileFormatError
            If there is none, or it can't be read.
        OSError
            If its file can't be opened.
        """
        tail = self._tails.get(uid)
        if tail is not None:
            return tail
        found = list(self._journal.directory.glob(f"*/{quote(uid, safe='')}{SUFFIX}"))
        if not found:
            raise FileFormatError(f"run {uid} is not in {self._journal.directory}.")
        return self._tail(found[0])


def line(tail: JournalTail) -> list[Any]:
    """Return what is announced of a run: uid, start time, state, documents."""
    return [tail.uid, tail.started, tail.state, tail.count]
