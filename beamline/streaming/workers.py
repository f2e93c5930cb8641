"""How many tasks at once: as many as give the highest throughput that was measured."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["WorkerCount"]

#: A number of workers is judged after so many tasks for each, and so many seconds.
_TASKS, _SECONDS = 4, 0.5
#: Gain in throughput that a further worker must bring, and the loss that one fewer may cost.
_WORTH = 0.05
#: Judgements between two trials of another number; doubled up to the last while nothing changes.
_REST, _LONGEST_REST = 8, 64


@dataclass
class WorkerCount:
    """The number of workers, by hill climbing.

    It begins with the most. While there is more to do than workers, throughput is measured; now and
    then a neighbouring number (half, double, one more, one fewer) is tried for one judgement, and
    kept if it is better, or equally good and smaller.

    Attributes
    ----------
    most
        Never more.
    adaptive
        Whether to change the number at all.
    """

    most: int
    adaptive: bool = True
    current: int = field(init=False)
    _rate: float = field(init=False, default=0.0)
    _tried: int | None = field(init=False, default=None)
    _before: int = field(init=False, default=0)
    _since: float | None = field(init=False, default=None)
    _done: float = field(init=False, default=0.0)
    _tasks: int = field(init=False, default=0)
    _rest: int = field(init=False, default=1)
    _pause: int = field(init=False, default=_REST)
    _turn: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.current = self.most

    def finished(self, events: int) -> None:
        """Note that a task has finished."""
        self._done += events
        self._tasks += 1

    def update(self, now: float, *, saturated: bool) -> int:
        """Return the number of workers from now on.

        Parameters
        ----------
        now
            Seconds, monotonic.
        saturated
            Whether every worker was busy and more was waiting.
        """
        if not self.adaptive or self.most == 1:
            return self.current
        if not saturated or self._since is None:
            # What limits an idle pool is not the number of workers: nothing can be learned.
            self._begin(now)
            return self.current
        seconds = now - self._since
        if seconds < _SECONDS or self._tasks < _TASKS * self.current:
            return self.current
        self._judge(self._done / seconds)
        self._begin(now)
        return self.current

    def _begin(self, now: float) -> None:
        self._since, self._done, self._tasks = now, 0.0, 0

    def _judge(self, rate: float) -> None:
        if self._tried is None:
            changed = self._rate > 0.0 and abs(rate - self._rate) > 0.2 * self._rate
            self._rate = rate if changed or self._rate == 0.0 else 0.7 * self._rate + 0.3 * rate
            if changed:
                self._pause = _REST
                self._rest = min(self._rest, 1)
            self._rest -= 1
            if self._rest <= 0:
                self._try()
            return
        fewer = self._tried < self._before
        better = rate > self._rate * ((1.0 - _WORTH / 2) if fewer else (1.0 + _WORTH))
        if better:
            self._rate, self._pause, self._rest = rate, _REST, 1
        else:
            self.current = self._before
            self._pause = min(2 * self._pause, _LONGEST_REST)
            self._rest = self._pause if self._turn == 0 else 1
        self._tried = None

    def _try(self) -> None:
        options = (2 * self.current, self.current // 2, self.current + 1, self.current - 1)
        for _ in options:
            wanted = max(1, min(options[self._turn], self.most))
            self._turn = (self._turn + 1) % len(options)
            if wanted != self.current:
                self._tried, self._before, self.current = wanted, self.current, wanted
                return
        self._rest = self._pause
