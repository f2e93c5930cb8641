"""Scans go first: the feeding process gives up its share of the processor while one is recorded."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from beamline.catalog._watch import RUNNING, ChangedDays, state
from beamline.core.errors import FileFormatError
from beamline.documents import Journal

__all__ = ["Recording", "give_way"]

_POLL = 0.1  # seconds
_NICE = 10
_AUTOGROUP = Path("/proc/self/autogroup")
_YIELDING, _NORMAL = 19, 0


class Recording:
    """Knows whether a run is being recorded, without looking twice at those that have ended.

    Parameters
    ----------
    journal
        The directory, which need not exist yet.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed = ChangedDays()
        self._ended: set[Path] = set()
        self._open: set[Path] = set()

    def now(self) -> bool:
        """Whether some process is writing a run at present."""
        # The clock's zone may have changed between two days; earlier ones are over.
        self._open |= set(self._changed.files(self._journal.days()[:2])) - self._ended
        for path in sorted(self._open, reverse=True):
            try:
                if state(path)[0] == RUNNING:
                    return True
            except FileNotFoundError:
                pass
            except FileFormatError:
                continue  # perhaps its writer has just made it
            self._open.discard(path)
            self._ended.add(path)
        return False


def give_way(journal: Journal, stopping: threading.Event) -> None:
    """Run at low priority from now on, at the lowest while a run is being recorded.

    Niceness is for good where one is not root. But Linux, where it shares the processor between
    sessions first (sched_autogroup), heeds the niceness of a whole session instead, which can be
    lowered and raised; the feeding process has a session of its own.
    """
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    if _AUTOGROUP.exists():
        arguments = (Recording(journal), stopping)
        threading.Thread(target=_follow, args=arguments, name="priority", daemon=True).start()


def _follow(recording: Recording, stopping: threading.Event) -> None:
    given = _NORMAL
    while not stopping.wait(_POLL):
        wanted = _YIELDING if recording.now() else _NORMAL
        if wanted != given:
            with contextlib.suppress(OSError):  # the kernel allows ten changes a second to all
                _AUTOGROUP.write_text(f"{wanted}\n", encoding="ascii")
                given = wanted
