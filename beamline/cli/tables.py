"""Tables of the commands that show runs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

__all__ = ["console", "table"]


def table(*headings: str) -> Table:
    """Make a table without lines."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, no_wrap=heading in ("uid", "started"))
    return made


def console() -> Console:
    """Return the console; a pipe has no width to fit into: nothing is cut off there."""
    made = Console()
    return made if made.is_terminal else Console(width=1000, soft_wrap=True)
