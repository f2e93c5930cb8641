"""Live views of a run in a terminal."""

from __future__ import annotations

from typing import Any

__all__ = ["RunProgress"]


class RunProgress:
    """Document consumer that shows one progress bar per run, from ``num_points`` of its start."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._descriptors: set[str] = set()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take one document."""
        if name == "start":
            self._begin(doc)
        elif self._bar is None:
            return
        elif name == "descriptor" and doc.get("name") == "primary":
            self._descriptors.add(doc["uid"])
        elif name == "event" and doc["descriptor"] in self._descriptors:
            self._bar.update(self._task, advance=1)
        elif name == "event_page" and doc["descriptor"] in self._descriptors:
            self._bar.update(self._task, advance=len(doc["seq_num"]))
        elif name == "stop":
            self._bar.stop()
            self._bar = None

    def _begin(self, doc: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        console = Console()
        if not console.is_terminal:
            return
        self._descriptors = set()
        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        title = f"scan {doc.get('scan_id', '?')} {doc.get('plan_name', '')}"
        self._task = self._bar.add_task(title, total=doc.get("num_points"))
        self._bar.start()
