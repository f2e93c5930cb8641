"""Ctrl-C for programs: abort the run, so that plans clean up and files are closed.

In an interactive session the RunEngine pauses at Ctrl-C and asks what to do; a program that runs
plans by itself has nobody to ask.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bluesky import RunEngine

__all__ = ["AbortOnInterrupt"]


class AbortOnInterrupt:
    """Context manager for ``RunEngine.context_managers``: SIGINT and SIGTERM abort the run.

    The signal handler only sets a flag; a thread asks the RunEngine, whose call then raises
    ``RunEngineInterrupted`` after the plan has cleaned up.
    """

    def __init__(self, run_engine: RunEngine) -> None:
        self._run_engine = run_engine
        self._asked = threading.Event()
        self._over = False

    def __enter__(self) -> AbortOnInterrupt:
        def ask(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self._asked.set()

        self._before = {
            number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._thread = threading.Thread(target=self._watch, name="abort-on-interrupt", daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        from bluesky.utils import TransitionError

        self._asked.wait()
        if not self._over:
            try:
                self._run_engine.abort(reason="interrupted (Ctrl-C or SIGTERM)")
            except TransitionError:
                # Between two states; the run ends by itself.
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        asked = self._asked.is_set()
        self._asked.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if asked and kind is None:
            # The signal came when the run was over already: what comes next must still stop.
            raise KeyboardInterrupt
