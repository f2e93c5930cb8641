"""The speed of a jog: JVEL and JAR instead of VELO and ACCL, for as long as the jog lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ioc.link import Answer, DeviceLink

__all__ = ["JogSpeed"]

_log = logging.getLogger("ioc.motor")


class JogSpeed:
    """Lends an axis another speed, and gives its own back.

    Parameters
    ----------
    name
        Full name of the motor.
    link
        Connection to the device server.

    Attributes
    ----------
    own : dict[str, float]
        VELO and ACCL to give back; empty when nothing is lent.
    """

    def __init__(self, name: str, link: DeviceLink) -> None:
        self.own: dict[str, float] = {}
        self._name = name
        self._link = link

    def lend(
        self, own: dict[str, float], wanted: dict[str, float], then: Callable[[str], None]
    ) -> None:
        """Set VELO and ACCL on the server.

        Parameters
        ----------
        own, wanted
            The axis' own settings, and those of the jog, by field.
        then
            Is called with an empty string, or with why the server refused.
        """
        self.own = dict(own)
        problems: list[str] = []
        left = len(wanted)

        def answered(field: str, answer: Answer) -> None:
            nonlocal left
            left -= 1
            if not isinstance(answer, str):
                problems.append(f"{field} {wanted[field]:g}: {answer}")
            if left == 0:
                then(", ".join(problems))

        for field, value in wanted.items():
            self._send(field, value, answered)

    def give_back(self) -> None:
        """Set the axis' own speed again."""
        own, self.own = self.own, {}

        def answered(field: str, answer: Answer) -> None:
            if not isinstance(answer, str):
                _log.error(
                    "%s.%s was not set back to %g: %s", self._name, field, own[field], answer
                )

        for field, value in own.items():
            self._send(field, value, answered)

    def _send(self, field: str, value: float, answered: Callable[[str, Answer], None]) -> None:
        self._link.send(
            f"PUT:{self._name}.{field}:{value:.17g}", lambda answer: answered(field, answer)
        )
