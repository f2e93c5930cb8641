"""Long actions started by a put: their status, and a guard that lets none of them hang.

The completion of a put is not believed: the records are read again after it, and the device judges
what they say (`verify`). And because a completion can also stay away for ever, one thread looks at
what is still pending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ophyd.status import DeviceStatus

from beamline.core.errors import ConnectionLostError
from devices._channel_access import ECA_DISCONN, ECA_NORMAL, Sample, ask, asked, put

__all__ = ["READ_TIMEOUT", "Operation", "StillBusy", "believed"]

#: Seconds that an IOC may take to answer a get.
READ_TIMEOUT = 5.0
_TICK = 0.25
#: How often (s) the IOC is asked about something that is pending.
_LIVENESS_INTERVAL = 1.0
#: How long (s) its answer may take.
_PATIENCE = 5.0
_PATIENCE_AFTER_SILENCE = 0.5


class StillBusy(Exception):  # noqa: N818  (a state, not an error)
    """Raised by `verify` when the put has completed but the action has not."""


def believed(channels: Sequence[Any], samples: Sequence[Sample | None], how: str) -> list[Sample]:
    """Return the samples if all have come.

    Raises
    ------
    ConnectionLostError
        Naming the PVs whose sample is missing, and `how` it came that they are.
    """
    lost = [c.pvname for c, sample in zip(channels, samples, strict=True) if sample is None]
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise ConnectionLostError(f"{shown} cannot be read ({how}): is the IOC running?")
    return [sample for sample in samples if sample is not None]


class Operation(DeviceStatus):
    """Status of an action that a put with completion starts.

    Parameters
    ----------
    device
        The ophyd device that acts.
    what
        The action in words, for messages: ``"the move of BL02:SAMPLE:X to 3 um"``.
    timeout_after
        Seconds after which it has failed, or what tells them then.
    busy
        Asks the IOC whether the action still runs; takes the seconds to wait for the answer and
        raises `ConnectionLostError` without one.
    channels
        What is read, in one round trip, after completion.
    verify
        Judges their values; raises what is wrong, or `StillBusy`.
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
        timeout_after: float | Callable[[], float],
        busy: Callable[[float], bool],
        channels: Sequence[Any],
        verify: Callable[[Operation, list[Sample]], None],
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
        self._channels = channels
        self._verify = verify
        self._refused = False
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

    def prolong(self) -> None:
        """Count the time until it has failed from now on: it makes progress."""
        self._started = time.monotonic()

    def begin(self, signal: Any, value: float) -> Operation:
        """Put `value` to `signal` with completion and guard it until it ends."""
        self._started = self._looked = time.monotonic()
        status = put(signal.put_channel, value, self._put_ended)
        if status != ECA_NORMAL:
            why = "not connected" if status == ECA_DISCONN else _in_words(status)
            raise ConnectionLostError(
                f"{self.what} cannot start: {signal.setpoint_pvname} cannot be written ({why}); "
                "is the IOC running?"
            )
        _GUARD.add(self)
        return self

    def _put_ended(self, status: int) -> None:
        # In a thread of the library, which must not wait.
        self._refused = status not in (ECA_NORMAL, ECA_DISCONN)
        if not self._over:
            ask(self._channels, lambda samples: _JUDGE.add(self, samples))

    def completed(self, **_: Any) -> None:
        """Read the records, check the outcome and finish; not from a thread of the library."""
        if not self._over:
            self.judge(asked(self._channels, READ_TIMEOUT))

    def judge(self, samples: Sequence[Sample | None]) -> None:
        """Check the outcome by what was read, and finish."""
        error: Exception | None = None
        with self._deciding:
            if self._over:
                return
            try:
                self._verify(self, believed(self._channels, samples, "no answer"))
                if self._refused:
                    raise self._error(f"{self.what} was refused by the IOC.")
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

    def end_early(self, *, success: bool) -> bool:
        """Note that somebody asks for the action to end now.

        Parameters
        ----------
        success
            Whether ending early counts as success.

        Returns
        -------
        bool
            False if it has ended already: there is nothing to stop.
        """
        if self.done:
            return False
        self.stop_is_success = success
        self.stopped = True
        return True

    def fail(self, error: Exception) -> None:
        """End the operation with an error, unless it has ended already."""
        if self._claim():
            self.set_exception(error)

    def _claim(self) -> bool:
        """Take the end of the operation upon oneself; False if it has ended already."""
        with self._deciding:
            claimed = not self._over
            self._over = True
        return claimed

    def _lost(self, error: ConnectionLostError) -> ConnectionLostError:
        return ConnectionLostError(f"the connection was lost during {self.what}: {error}")

    def add_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this status, once, when it has ended."""
        # As ophyd, which first inspects whether the callback takes an argument, at the price of
        # starting the whole operation.
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback(self)

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
        given = self._timeout_after
        limit = given() if callable(given) else given
        if now - self._started > limit and self._claim():
            # Claimed before: to be stopped ends the action as well, short of where it should be.
            outcome = "it was stopped"
            try:
                if self._on_timeout is not None:
                    self._on_timeout()
            except Exception as problem:  # noqa: BLE001  (whatever it is, the status must end)
                outcome = f"it could not be stopped ({problem})"
            self.set_exception(
                self._error(f"{self.what} did not end within {limit:.1f} s; {outcome}.")
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


def _in_words(status: int) -> str:
    from epics import ca

    return str(ca.message(status))


class _Judge:
    """One thread that ends operations: their callbacks may wait for the IOC, unlike the library's.

    A device's own thread for each would cost more than the whole operation.
    """

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[tuple[Operation, list[Sample | None]]] = (
            queue.SimpleQueue()
        )
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, operation: Operation, samples: list[Sample | None]) -> None:
        self._arrived.put((operation, samples))
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="operation-judge", daemon=True
                    )
                    self._thread.start()

    def _run(self) -> None:
        while True:
            operation, samples = self._arrived.get()
            operation.judge(samples)


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
            except Exception as error:  # noqa: BLE001  (the others must go on being guarded)
                operation.fail(error)
                over.append(operation)
        return over


_GUARD = _Guard()
_JUDGE = _Judge()
