"""Long actions started by a put: their status, and a guard that lets none of them hang.

pyepics drops the status of a put, and a lost connection completes it like a success. So nothing is
believed when a put completes: the device looks at the records again (`verify`). And because
a completion can also stay away for ever, one thread looks at what is still pending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ophyd.status import DeviceStatus

from beamline.core.errors import ConnectionLostError

__all__ = ["Operation", "StillBusy"]

_TICK = 0.25
#: How often (s) the IOC is asked about something that is pending.
_LIVENESS_INTERVAL = 1.0
#: How long (s) its answer may take.
_PATIENCE = 3.0
_PATIENCE_AFTER_SILENCE = 0.5


class StillBusy(Exception):  # noqa: N818  (a state, not an error)
    """Raised by `verify` when the put has completed but the action has not."""


class Operation(DeviceStatus):
    """Status of an action that a put with completion starts.

    Parameters
    ----------
    device
        The ophyd device that acts.
    what
        The action in words, for messages: ``"the move of BL02:SAMPLE:X to 3 um"``.
    timeout_after
        Seconds after which it has failed.
    busy
        Asks the IOC whether the action still runs; takes the seconds to wait for the answer and
        raises `ConnectionLostError` without one.
    verify
        Looks at the records after completion; raises what is wrong, or `StillBusy`.
    error
        Class of the error when time is up.
    on_timeout
        Called once when time is up, to stop what still moves.
    progress
        Values for progress bars: a callable that takes the watcher; see `watch`.
    settle_time
        Seconds between completion and success.
    """

    def __init__(
        self,
        device: Any,
        what: str,
        *,
        timeout_after: float,
        busy: Callable[[float], bool],
        verify: Callable[[Operation], None],
        error: type[Exception],
        on_timeout: Callable[[], None] | None = None,
        progress: Callable[[Callable[..., None]], Callable[[], None]] | None = None,
        settle_time: float = 0.0,
    ) -> None:
        self.what = what
        #: True once somebody has asked for the action to end early.
        self.stopped = False
        #: Whether ending early counts as success (bluesky's convention for a pause).
        self.stop_is_success = False
        self._timeout_after = timeout_after
        self._busy = busy
        self._verify = verify
        self._error = error
        self._on_timeout = on_timeout
        self._progress = progress
        self._unwatch: list[Callable[[], None]] = []
        self._deciding = threading.Lock()
        self._over = False
        self._idle_seen = False
        self._started = self._looked = time.monotonic()
        # The device decides itself how to stop: after a lost connection there is nothing to stop.
        super().__init__(device, call_stop_on_failure=False, settle_time=settle_time)

    def begin(self, signal: Any, value: Any) -> Operation:
        """Put `value` to `signal` with completion and guard it until it ends."""
        self._started = self._looked = time.monotonic()
        try:
            signal.put(value, use_complete=True, callback=self.completed, force=True)
        except Exception as error:
            raise ConnectionLostError(
                f"{self.what} cannot start: {signal.setpoint_pvname} cannot be written "
                f"({' '.join(str(error).split())}); is the IOC running?"
            ) from error
        _GUARD.add(self)
        return self

    def completed(self, **_: Any) -> None:
        """Check the outcome and finish; called from the threads of Channel Access callbacks."""
        error: Exception | None = None
        with self._deciding:
            if self._over:
                return
            try:
                self._verify(self)
            except StillBusy:
                return
            except ConnectionLostError as lost:
                error = self._lost(lost)
            except Exception as wrong:  # noqa: BLE001  (whatever it is, the status must end)
                error = wrong
            self._over = True
        if error is None:
            self.set_finished()
        else:
            self.set_exception(error)

    def fail(self, error: Exception) -> None:
        """End the operation with an error, unless it has ended already."""
        with self._deciding:
            if self._over:
                return
            self._over = True
        self.set_exception(error)

    def _lost(self, error: ConnectionLostError) -> ConnectionLostError:
        return ConnectionLostError(f"the connection was lost during {self.what}: {error}")

    def watch(self, func: Callable[..., None]) -> None:
        """Report progress to `func` (bluesky's progress bars)."""
        if self._progress is None:
            super().watch(func)
        elif not self.done:
            self._unwatch.append(self._progress(func))

    def _settled(self) -> None:
        while self._unwatch:
            self._unwatch.pop()()
        super()._settled()

    def inspect(self, now: float, patience: float) -> bool:
        """Look whether this operation is lost; True when it needs no further guarding.

        Raises
        ------
        ConnectionLostError
            If the IOC did not answer within `patience` seconds; the operation has failed then.
        """
        if self._over:
            return True
        if now - self._looked < _LIVENESS_INTERVAL:
            return False
        self._looked = now
        try:
            busy = self._busy(patience)
        except ConnectionLostError as error:
            self.fail(self._lost(error))
            raise
        if not busy and self._idle_seen:
            # Twice idle, and no completion: the IOC's answer got lost.
            self.completed()
            return self._over
        self._idle_seen = not busy
        if now - self._started > self._timeout_after:
            if self._on_timeout is not None:
                self._on_timeout()
            self.fail(
                self._error(
                    f"{self.what} did not end within {self._timeout_after:.1f} s; it was stopped."
                )
            )
            return True
        return False

    def __str__(self) -> str:
        # bluesky makes the stop document's reason from this text.
        error = self.exception(timeout=0) if self.done else None
        if error is not None:
            return str(error)
        return f"{type(self).__name__}({self.what}, done={self.done})"

    __repr__ = __str__


class _Guard:
    """One thread that inspects all pending operations; it sleeps while there are none."""

    def __init__(self) -> None:
        self._pending: list[Operation] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, operation: Operation) -> None:
        with self._changed:
            self._pending.append(operation)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="operation-guard", daemon=True
                )
                self._thread.start()
            elif len(self._pending) == 1:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._pending:
                    self._changed.wait()
                pending = list(self._pending)
            over = self._inspect(pending)
            with self._changed:
                self._pending = [o for o in self._pending if o not in over]
            time.sleep(_TICK)

    @staticmethod
    def _inspect(pending: list[Operation]) -> list[Operation]:
        over = []
        patience = _PATIENCE
        for operation in pending:
            try:
                if operation.inspect(time.monotonic(), patience):
                    over.append(operation)
            except ConnectionLostError:
                over.append(operation)
                # An IOC was silent: the others must not wait as long for the same one, in turn.
                patience = _PATIENCE_AFTER_SILENCE
        return over


_GUARD = _Guard()
