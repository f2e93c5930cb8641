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

__all__ = ["AbortOnInterrupt", "Interrupts"]


class Interrupts:
    """SIGINT and SIGTERM as a wish that is granted at the next safe point.

    An exception that a signal handler raises strikes anywhere: in a callback that swallows it, or
    in the middle of a connection that then takes seconds to undo. Here the first signal only sets
    a flag and `check` raises; a second one raises at once, for a program that hangs.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupts:
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _ask(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody has asked for an end."""
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class AbortOnInterrupt:
    """Context manager for ``RunEngine.context_managers``: SIGINT and SIGTERM abort the run.

    The signal handler only sets a flag; a thread asks the RunEngine, whose call then raises
    ``RunEngineInterrupted`` after the plan has cleaned up.
    """

    def __init__(self, run_engine: RunEngine) -> None:
        self._run_engine = run_engine
        self._asked = threading.Event()
        self._over = False
        self._aborted = False

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
                self._aborted = True
            except TransitionError:
                # The run has just ended by itself.
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
        self._thread.join(timeout=5.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if asked and kind is None and not self._aborted:
            # The signal came when the run was over already: what comes next must still stop.
            raise KeyboardInterrupt
