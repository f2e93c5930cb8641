"""Fewer rows for callbacks that people look at, such as tables and plots."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ThinnedPages"]

_ROWS_AT_ONCE = 50
_ROWS_PER_SECOND = 20.0


class ThinnedPages:
    """Hands documents on to a callback, and of long event pages some rows only.

    A fly scan takes thousands of points per second; bluesky's table would print each. Fifty rows
    pass at once and twenty per second after them, at least the last of each page. How many were
    left out is said when the run stops. Single events all pass.

    Parameters
    ----------
    callback
        Takes ``(name, doc)``, such as bluesky's ``BestEffortCallback``.
    say
        Prints a line; it is given one at the end of a run of which rows were left out.
    clock
        Gives the time (s).
    """

    def __init__(
        self,
        callback: Callable[[str, Any], Any],
        *,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._callback = callback
        self._say = say
        self._clock = clock
        self._begin()

    def __call__(self, name: str, doc: Any) -> None:
        """Take a document."""
        if name == "start":
            self._begin()
        if name == "event_page":
            doc = self._thinned(doc)
        self._callback(name, doc)
        if name == "stop" and self._shown < self._rows:
            self._say(
                f"{self._shown} of {self._rows} rows were shown; the files have all of them.\n"
            )

    def _begin(self) -> None:
        self._rows = self._shown = 0
        self._allowance = float(_ROWS_AT_ONCE)
        self._moment = self._clock()

    def _thinned(self, page: Mapping[str, Any]) -> Mapping[str, Any]:
        rows = len(page["seq_num"])
        before, self._moment = self._moment, self._clock()
        gained = (self._moment - before) * _ROWS_PER_SECOND
        self._allowance = min(self._allowance + gained, float(_ROWS_AT_ONCE))
        shown = min(rows, max(1, int(self._allowance)))
        self._allowance -= shown
        self._rows += rows
        self._shown += shown
        if shown == rows:
            return page
        chosen = [rows * (number + 1) // shown - 1 for number in range(shown)]

        def pick(values: Any) -> Any:
            if isinstance(values, Mapping):
                return {key: pick(column) for key, column in values.items()}
            return [values[index] for index in chosen]

        columns = ("uid", "seq_num", "time", "data", "timestamps", "filled")
        return {key: pick(value) if key in columns else value for key, value in page.items()}
