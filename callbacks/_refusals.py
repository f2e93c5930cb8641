"""Events that are not stored: listed for the file, and each reason once in the log."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from beamline.core.errors import BeamlineError

__all__ = ["Refusals"]

_log = logging.getLogger(__name__)

#: Events that a file lists as lost; all of them are counted.
_LOST_KEPT = 10_000


@dataclass
class _Reason:
    first: str
    count: int = 0


class Refusals:
    """The events of one run that are not stored.

    Parameters
    ----------
    uid
        Of the run.

    Attributes
    ----------
    lost : list[tuple[int, str]]
        Number and reason of the first of them; whoever writes a file takes them out.
    """

    def __init__(self, uid: str) -> None:
        self.lost: list[tuple[int, str]] = []
        self._uid = uid
        self._reasons: dict[str, _Reason] = {}

    def add(self, seq_num: int, error: BeamlineError) -> None:
        """Take note of an event; the log has it if the reason is new."""
        if len(self.lost) < _LOST_KEPT:
            self.lost.append((seq_num, str(error)))
        # Messages about one thing differ by numbers only: of the event, of the row.
        reason = self._reasons.setdefault(re.sub(r"\d+", "#", str(error)), _Reason(str(error)))
        reason.count += 1
        level = logging.ERROR if reason.count == 1 else logging.DEBUG
        _log.log(level, "run %s: %s", self._uid[:8], error)

    def summarize(self) -> None:
        """Log how many events each reason has befallen, if more than one."""
        for reason in self._reasons.values():
            if reason.count > 1:
                _log.error(
                    "run %s: %d events are not stored for the reason of the first: %s",
                    self._uid[:8],
                    reason.count,
                    reason.first,
                )
