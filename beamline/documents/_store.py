"""Finding runs in a journal directory."""

from __future__ import annotations

import difflib
import glob
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from beamline.core.errors import FileFormatError, MissingError
from beamline.documents._records import SUFFIX, Damage, JournalReader, read_journal

__all__ = ["Journal", "RunSummary", "changed_at"]

_log = logging.getLogger(__name__)
_COARSE = 100_000_000  # ns


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows of one run.

    Attributes
    ----------
    uid, scan_id, plan_name, sample
        From the start document; `sample` is its name. None where the run has none.
    time
        Start, seconds since 1970.
    duration
        Seconds from start to stop; None while there is no stop document.
    exit_status
        Of the stop document (success, abort or fail); "running" while the recording process is
        alive, "incomplete" where it ended without a stop document.
    reason
        Why it failed or was aborted.
    num_events
        Events per stream.
    path
        The journal file.
    damage
        What is wrong with the file of a run that is incomplete, if anything; others are not read
        through for it.
    """

    uid: str
    scan_id: int | None
    plan_name: str | None
    sample: str | None
    time: float
    duration: float | None
    exit_status: str
    reason: str
    path: Path
    num_events: Mapping[str, int] = field(default_factory=dict)
    damage: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the stop document is recorded."""
        return self.duration is not None


class Journal:
    """The runs recorded below a directory; nothing is opened until it is asked for.

    Parameters
    ----------
    directory
        The one given to `JournalWriter`. One that is not there holds no runs.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def runs(
        self,
        limit: int | None = None,
        *,
        skipped: Callable[[Path, FileFormatError], object] | None = None,
    ) -> list[RunSummary]:
        """Return the runs in order of their start, the latest last.

        Parameters
        ----------
        limit
            Return only so many of the latest.
        skipped
            Called with every file of which nothing can be read. By default there is a warning in
            the log that names it.
        """
        found: list[RunSummary] = []
        for day in self.days():
            enough = limit is not None and len(found) >= limit
            found += self._summaries(day, skipped)
            if enough:
                # One day more than needed: the clock's zone may have changed between two days.
                break
        found.sort(key=lambda run: run.time)
        return found if limit is None else found[len(found) - min(limit, len(found)) :]

    def find(self, key: str | int) -> RunSummary:
        """Find one run.

        Parameters
        ----------
        key
            A uid or the beginning of one; a scan_id (the latest run that has it); or a negative
            index, -1 for the latest run. Numbers may be given as text.

        Raises
        ------
        MissingError
            If there is none, or several match; the message says what there is.
        FileFormatError
            If the file of that run is damaged from its beginning.
        """
        text = str(key).strip()
        try:
            number = int(text)
        except ValueError:
            return self._by_uid(text)
        if number < 0:
            runs = self.runs(limit=-number)
            if len(runs) < -number:
                raise MissingError(f"no run {number} in {self.directory}: {self._inventory(runs)}.")
            return runs[0]
        return self._by_scan_id(number, text)

    def documents(
        self, run: RunSummary | str | int, *, damaged: Callable[[Damage], object] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents of a run (a summary, or anything that `find` takes), exactly.

        `damaged` is for `read_journal`.
        """
        summary = run if isinstance(run, RunSummary) else self.find(run)
        return read_journal(summary.path, damaged=damaged)

    def paths(self) -> Iterator[Path]:
        """Yield all journal files, latest day first."""
        for day in self.days():
            yield from self.files(day)

    def days(self) -> list[Path]:
        """Return the folders of the days, the latest first."""
        try:
            return sorted((p for p in self.directory.iterdir() if p.is_dir()), reverse=True)
        except OSError:
            return []

    @staticmethod
    def files(day: Path) -> list[Path]:
        """Return the journal files of one day."""
        try:
            return sorted(p for p in day.iterdir() if p.name.endswith(SUFFIX))
        except OSError:
            return []

    @staticmethod
    def uid_of(path: Path) -> str:
        """Return the uid of the run that a file of this name holds."""
        return unquote(path.name.removesuffix(SUFFIX))

    def _summaries(
        self, day: Path, skipped: Callable[[Path, FileFormatError], object] | None = None
    ) -> list[RunSummary]:
        found = []
        for path in self.files(day):
            try:
                found.append(summarize(path))
            except FileFormatError as error:
                if skipped is None:
                    _log.warning("skipped: %s", error)
                else:
                    skipped(path, error)
        return found

    def _by_uid(self, prefix: str) -> RunSummary:
        pattern = f"{glob.escape(quote(prefix, safe=''))}*{SUFFIX}"
        matches = sorted(self.directory.glob(f"*/{pattern}")) if prefix else []
        if len(matches) == 1:
            return summarize(matches[0])
        if matches:
            some = ", ".join(self.uid_of(path) for path in matches[:3])
            raise MissingError(
                f"{len(matches)} runs begin with {prefix!r} in {self.directory} ({some}"
                f"{', …' if len(matches) > 3 else ''}): give more characters."
            )
        uids = [self.uid_of(path) for path in self.paths()]
        near = difflib.get_close_matches(prefix, [uid[: len(prefix)] for uid in uids], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"{self._inventory(self.runs(limit=1))}."
        raise MissingError(f"no run {prefix!r} in {self.directory}: {hint}")

    def _by_scan_id(self, number: int, text: str) -> RunSummary:
        for day in self.days():
            matches = [run for run in self._summaries(day) if run.scan_id == number]
            if matches:
                return max(matches, key=lambda run: run.time)
        runs = self.runs()
        # A short number is meant as a scan_id, though some uid will begin with it.
        if len(text) >= 6 and any(run.uid.startswith(text) for run in runs):
            return self._by_uid(text)
        near = sorted(
            {run.scan_id for run in runs if run.scan_id is not None},
            key=lambda scan_id: abs(scan_id - number),
        )[:2]
        nearest = " and ".join(str(scan_id) for scan_id in sorted(near))
        hint = f"the nearest are {nearest}; " if near else ""
        raise MissingError(
            f"no run with scan_id {number} in {self.directory}: {hint}{self._inventory(runs)}."
        )

    def _inventory(self, runs: list[RunSummary]) -> str:
        count = sum(1 for _ in self.paths())
        if not self.directory.is_dir():
            return "there is no such directory"
        if not runs:
            return "it holds no runs"
        last = runs[-1]
        many = "1 run" if count == 1 else f"{count} runs"
        return f"it holds {many}, the latest is scan_id {last.scan_id}, uid {last.uid[:8]}"


def summarize(path: Path) -> RunSummary:
    """Read a journal file's ends; a file without stop document is read through.

    Raises
    ------
    FileFormatError
        If it is not a journal, or holds no start document.
    """
    with JournalReader(path) as reader:
        start = reader.start()
        stop, alive = reader.outcome()
        try:
            return _summary(reader, start, stop, alive=alive)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(
                f"{path} holds documents that break the rules of event-model: {error!r}."
            ) from None


def _summary(
    reader: JournalReader,
    start: Mapping[str, Any],
    stop: Mapping[str, Any] | None,
    *,
    alive: bool,
) -> RunSummary:
    begun = _seconds(start.get("time"), 0.0)
    damage = duration = None
    if stop is None:
        num_events = count_events(reader)
        status = "running" if alive else "incomplete"
        damage = None if alive else reader.damage
    else:
        num_events = stop.get("num_events") or {}
        status = str(stop.get("exit_status", "success"))
        duration = _seconds(stop.get("time"), begun) - begun
    sample = start.get("sample")
    if isinstance(sample, Mapping):
        sample = sample.get("name")
    scan_id = start.get("scan_id")
    return RunSummary(
        uid=str(start["uid"]),
        scan_id=int(scan_id) if isinstance(scan_id, int) else None,
        plan_name=_text(start.get("plan_name")),
        sample=_text(sample),
        time=begun,
        duration=duration,
        exit_status=status,
        reason=str((stop or {}).get("reason") or ""),
        num_events=dict(num_events),
        path=reader.path,
        damage=damage,
    )


def count_events(documents: JournalReader) -> dict[str, int]:
    """Count the events of each stream, rows of pages included."""
    streams: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, doc in documents:
        if name == "descriptor":
            streams[doc["uid"]] = doc.get("name", "primary")
            counts.setdefault(streams[doc["uid"]], 0)
        elif name in ("event", "event_page") and doc["descriptor"] in streams:
            rows = 1 if name == "event" else len(doc["seq_num"])
            counts[streams[doc["descriptor"]]] += rows
    return counts


def _seconds(value: object, otherwise: float) -> float:
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else otherwise  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def changed_at(folder: Path) -> int:
    """Return when a folder was changed, ns; never twice the same if it was just now.

    Its time is too coarse to show another change that follows at once.
    """
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return -1
    now = time.time_ns()
    return changed if now - changed > _COARSE else now
