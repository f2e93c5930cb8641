"""Does frame follow frame? What the detector's numbers and time stamps say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from callbacks._frame_blocks import FrameBlock

__all__ = ["Continuity", "Gap", "Restart"]

#: A pause is a restart if it lasts so many frames, and so many seconds.
_PAUSE_FRAMES, _PAUSE_SECONDS = 10.0, 0.02


@dataclass(frozen=True)
class Gap:
    """Frames are missing here.

    Attributes
    ----------
    number
        How many.
    reason
        Why; empty where the detector's own numbers say so.
    """

    number: int
    reason: str = ""


@dataclass(frozen=True)
class Restart:
    """The frames from here on were taken in another acquisition."""

    reason: str


class Continuity:
    """Follow the frames of one series.

    A number that jumps ahead is a gap. One that does not go on (the detector was started again),
    or a long pause between two numbers that do, is a restart. Frames without numbers and stamps
    are taken to be all there.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._time: float | None = None
        self._period: float | None = None

    def lose(self, number: int) -> None:
        """Say that `number` frames were not to be had."""
        if self._number is not None:
            self._number += number
        # How long that was in time is not known.
        self._time = None

    def parts(self, block: FrameBlock) -> Iterator[FrameBlock | Gap | Restart]:
        """Split a block where frames lack or the detector began anew."""
        numbers, times = block.numbers, block.times
        steps = np.ones(len(block), np.int64)
        if numbers is not None:
            before = numbers[0] - 1 if self._number is None else self._number
            steps = np.diff(numbers, prepend=before)
            self._number = int(numbers[-1])
        pauses = np.zeros(len(block))
        if times is not None:
            before_time = times[0] if self._time is None else self._time
            pauses = np.diff(times, prepend=before_time)
            if self._period is None and len(block) > 2:
                self._period = float(np.median(pauses[1:]))
            self._time = float(times[-1])
        # A missing frame is a pause as well.
        paused = pauses / np.maximum(steps, 1)
        shortest = max(_PAUSE_FRAMES * (self._period or np.inf), _PAUSE_SECONDS)
        begun = (steps < 1) | (paused > shortest)
        done = 0
        for place in np.flatnonzero(begun | (steps != 1)).tolist():
            if place > done:
                yield block.part(done, place)
                done = place
            if not begun[place]:
                yield Gap(int(steps[place]) - 1)
            elif steps[place] < 1:
                assert numbers is not None  # noqa: S101  (else all steps are 1)
                yield Restart(f"frame numbers go on with {int(numbers[place])}")
            else:
                yield Restart(f"the detector paused for {pauses[place]:.3g} s")
        yield block.part(done, len(block)) if done else block
