"""One run in a callback server: its consumers, what they refuse, and how it ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamline.core.errors import BeamlineError
from beamline.documents.consumers import Consumer, ConsumerError
from beamline.documents.replay import completed
from callbacks._server_consumers import Task
from callbacks._server_ledger import FAILED, FINISHED, INTERRUPTED, ServerEntry, ServerLedger

__all__ = ["STOPPED", "ServedRun"]

_log = logging.getLogger(__name__)

#: ``reason`` of the stop document that files get when the server is stopped in mid-run.
STOPPED = "the callback server was stopped before the run had ended"


@dataclass
class _Served:
    """One task, and what it has of this run."""

    task: Task
    consumers: list[Consumer] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    files_before: int = 0
    refused: int = 0
    reason: str = ""


class ServedRun:
    """Give the documents of one run to every task that has not had them.

    Parameters
    ----------
    start
        The start document; it is given to the consumers here.
    tasks
        Those for which the run is not done.
    ledger
        Takes what became of it.
    on_error
        Called with (task, sentence) at the first document of the run that a task refuses.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        tasks: Sequence[Task],
        ledger: ServerLedger,
        on_error: Callable[[Task, str], None],
    ) -> None:
        self.uid = str(start["uid"])
        moment = start.get("time")
        self.started = float(moment) if isinstance(moment, int | float) else 0.0
        self.documents = 0
        self.errors: dict[str, int] = {}
        self._ledger = ledger
        self._on_error = on_error
        self._start = start
        self._time = self.started
        self._descriptors: dict[str, Mapping[str, Any]] = {}
        self._rows: dict[str, int] = {}
        self._served: list[_Served] = []
        for task in tasks:
            self._begin(task)
        self("start", start)

    def _begin(self, task: Task) -> None:
        served = _Served(task)
        before = self._ledger.entry(self.uid, task.name)
        try:
            if before is None and task.written(self._start):
                _log.info("%s has run %s already", task.name, self.uid[:8])
                self._ledger.add(ServerEntry(self.uid, task.name, self.started, FINISHED))
                return
            left = [Path(file) for file in before.files] if before is not None else []
            served.aside = task.clear(self._start, left)
            served.files_before = len(task.files())
            served.consumers = task.begin(self._start)
        except Exception as error:  # noqa: BLE001  (told to the session)
            self._refuse(served, error)
        self._served.append(served)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Give one document to all; none of them hinders another."""
        self.documents += 1
        with contextlib.suppress(KeyError, TypeError, ValueError):  # the consumers say it better
            self._count(name, doc)
        for served in self._served:
            self._give(served, name, doc)

    def _give(self, served: _Served, name: str, doc: Mapping[str, Any]) -> None:
        for consumer in served.consumers:
            try:
                consumer(name, doc)
            except Exception as error:  # noqa: BLE001  (told to the session)
                self._refuse(served, error)

    def _refuse(self, served: _Served, error: Exception) -> None:
        served.refused += 1
        name = served.task.name
        self.errors[name] = self.errors.get(name, 0) + 1
        if served.refused == 1:
            served.reason = _sentence(error)
            _log.error("%s, run %s: %s", name, self.uid[:8], served.reason, exc_info=error)
            self._on_error(served.task, served.reason)

    def _count(self, name: str, doc: Mapping[str, Any]) -> None:
        """Keep what a stop document is made of, should none come."""
        times: Any = doc.get("time")
        if name == "descriptor":
            self._descriptors[str(doc["uid"])] = {"uid": doc["uid"], "name": doc.get("name")}
        elif name in ("event", "event_page"):
            key = str(doc["descriptor"])
            rows = len(doc["seq_num"]) if name == "event_page" else 1
            self._rows[key] = self._rows.get(key, 0) + rows
        if isinstance(times, int | float):
            self._time = max(self._time, times)
        elif name == "event_page" and len(times):
            self._time = max(self._time, *times)

    def cut_off(self) -> None:
        """End a run whose recording has ended without a stop document."""
        self("stop", self._made_stop())

    def _made_stop(self) -> dict[str, Any]:
        # The same that a replay makes, from as much as matters for it.
        documents: list[tuple[str, Mapping[str, Any]]] = [("start", self._start)]
        documents += [("descriptor", doc) for doc in self._descriptors.values()]
        documents += [
            ("event_page", {"descriptor": key, "seq_num": range(rows), "time": [self._time]})
            for key, rows in self._rows.items()
        ]
        *_, (_, stop) = completed(documents)
        return dict(stop)

    def finish(self, *, settled: bool) -> list[Path]:
        """Write down, after the stop document, what became of the run; return the files."""
        return self._write_down(FINISHED, settled=settled)

    def interrupt(self) -> list[Path]:
        """Close files, labelled, because the server is stopped; the run will be done again."""
        stop = {**self._made_stop(), "reason": STOPPED}
        for served in self._served:
            if served.task.closes_interrupted:
                self._give(served, "stop", stop)
        return self._write_down(INTERRUPTED, settled=False)

    def _write_down(self, status: str, *, settled: bool) -> list[Path]:
        everything = []
        for served in self._served:
            files = served.task.files()[served.files_before :]
            mine = [path for path in files if path.exists()]
            everything += mine
            if served.refused > 1:
                _log.error(
                    "%s refused %d documents of run %s, the first because: %s",
                    served.task.name,
                    served.refused,
                    self.uid[:8],
                    served.reason,
                )
            self._ledger.add(
                ServerEntry(
                    self.uid,
                    served.task.name,
                    self.started,
                    FAILED if served.refused and status == FINISHED else status,
                    served.reason,
                    [str(path) for path in mine],
                    settled,
                )
            )
            if status == FINISHED and not served.refused:
                for path in served.aside:
                    path.unlink(missing_ok=True)
        return everything


def _sentence(error: Exception) -> str:
    if isinstance(error, ConsumerError):
        error = error.errors[0][1]
    said = str(error).rstrip(".") or "no message"
    return f"{said}." if isinstance(error, BeamlineError) else f"{type(error).__name__}: {said}."
