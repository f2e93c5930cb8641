"""What a check has found, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Report"]


@dataclass
class Report:
    """What was found in one file.

    Attributes
    ----------
    kind
        What the file is: "NeXus", "CXI", "frames", "journal" or "HDF5".
    lines
        (passed, sentence), in the order of the checks.
    """

    kind: str
    lines: list[tuple[bool, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return all(good for good, _ in self.lines)

    def add(self, problems: Iterable[str], otherwise: str) -> None:
        """Add the problems of one check, or what is true if there is none."""
        found = list(problems)
        self.lines += [(False, problem) for problem in found]
        if not found:
            self.lines.append((True, otherwise))
