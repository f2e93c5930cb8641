"""When a motion is over: the rule, apart from records and connections."""

from __future__ import annotations

__all__ = ["MotionTracker"]


class MotionTracker:
    """Follows the moves that were asked for until the last one has ended.

    Answers and reports come in the order in which the device server made them. A report "at rest"
    that precedes the answer to the newest move belongs to an older one and ends nothing.

    Attributes
    ----------
    active : bool
        A move of ours has been asked for and has not ended.
    at_rest : bool
        What the device server said last.
    """

    def __init__(self) -> None:
        self.active = False
        self.at_rest = True
        self._unanswered = 0

    @property
    def awaiting_answer(self) -> bool:
        """Whether a move has been sent that the server has not answered yet."""
        return self._unanswered > 0

    @property
    def finished(self) -> bool:
        """Whether all moves that were asked for have ended."""
        return self.active and self._unanswered == 0 and self.at_rest

    def sent(self) -> None:
        """Note that a move was sent."""
        self.active = True
        self._unanswered += 1

    def answered(self, *, accepted: bool) -> None:
        """Note the answer to the oldest unanswered move."""
        self._unanswered = max(0, self._unanswered - 1)
        if accepted:
            self.at_rest = False

    def reported(self, *, at_rest: bool) -> None:
        """Note a report of the server."""
        self.at_rest = at_rest

    def reset(self) -> None:
        """Forget everything: the motion is over, or the link is lost."""
        self.active = False
        self._unanswered = 0
