"""Finding the runs that were cut off, and completing their files and their journals."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamline.core.disk import written_now
from beamline.core.errors import BeamlineError, FileFormatError, StorageError
from beamline.documents.journal import Journal, RunSummary
from beamline.documents.mending import complete_journal, mend_journal, missing_events
from beamline.documents.replay import completed, replay
from beamline.recovery import _cxi
from beamline.recovery._leftovers import (
    BEFORE,
    PART,
    lost_with,
    set_aside,
    take_back,
)
from beamline.validation.repair import repair_file
from callbacks.nexus import NeXusWriter, file_name

__all__ = ["Recovery", "recover", "unknown_leftovers"]

_SHOWN = 5  # refused documents of a run


@dataclass
class Recovery:
    """What was done for one run.

    Attributes
    ----------
    run
        The run, as it was found.
    files
        Files that were completed.
    journal
        Whether its journal got a stop document.
    lost
        Records of its journal that are lost, in words; it is without them now.
    notes
        What else is worth knowing: documents that were refused, bytes that were cut off.
    problem
        Why it could not be recovered; None if it was.
    """

    run: RunSummary
    files: list[Path] = field(default_factory=list)
    journal: bool = False
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None


def recover(
    data_dir: str | os.PathLike[str],
    runs: Sequence[str | int] = (),
    *,
    missing: bool = False,
    progress: Callable[[Recovery], object] = lambda _: None,
) -> list[Recovery]:
    """Complete the files and the journals of runs.

    Without `runs`, those are completed whose journal has no stop document, though nobody is
    recording them, and those that have left unfinished files; and every journal is read through:
    damaged records are left out of it, and the file as it was is kept beside it. Calling it again
    does nothing, but name journals of which nothing can be read.

    Parameters
    ----------
    data_dir
        Data directory of a session; one may be at work in it.
    runs
        Anything that `Journal.find` takes. These are completed even if nothing but their files is
        missing.
    missing
        Make the files of all runs that have none: after an archive was lost.
    progress
        Called after each run.

    Returns
    -------
    list[Recovery]
        One for every run that needed something, in order of their start.

    Raises
    ------
    MissingError
        If one of `runs` is not in the journal.
    StorageError
        If another recovery is at work there, or nothing can be written there.
    """
    directory = Path(data_dir).resolve()
    journal = Journal(directory / "journal")
    with _alone(directory):
        began = _session_began(directory)
        done = []

        def report(outcome: Recovery) -> None:
            done.append(outcome)
            progress(outcome)

        if runs:
            chosen = {run.uid: run for run in (journal.find(key) for key in runs)}.values()
        else:
            found = journal.runs(skipped=lambda path, why: report(_unreadable(path, why)))
            chosen = {run.uid: run for run in found}.values()
        for run in chosen:
            # The session that is at work completes its own.
            if run.exit_status == "running" or (began is not None and run.time >= began):
                if runs:
                    done.append(Recovery(run, problem="the session that records it is at work."))
                continue
            outcome = _recover(directory, journal, run, asked=bool(runs), missing=missing)
            if outcome.files or outcome.journal or outcome.lost or outcome.problem:
                report(outcome)
        return done


def _recover(
    directory: Path, journal: Journal, run: RunSummary, *, asked: bool, missing: bool
) -> Recovery:
    outcome = Recovery(run)
    try:
        damages = mend_journal(run.path)
        if damages:
            outcome.lost = [f"journal: {damage}." for damage in damages]
            outcome.notes += [f"{said}." for said in missing_events(journal.documents(run))]
        files = _Files(directory, run)
        if files.unfinished or asked or not run.complete or (missing and files.missing):
            files.complete(journal, outcome)
    except BeamlineError as error:
        outcome.problem = str(error)
    except OSError as error:
        outcome.problem = f"{error.strerror or error}: {error.filename or directory}."
    return outcome


def _unreadable(path: Path, reason: FileFormatError) -> Recovery:
    return Recovery(
        RunSummary(
            uid=Journal.uid_of(path),
            scan_id=None,
            plan_name=None,
            sample=None,
            time=path.stat().st_mtime,
            duration=None,
            exit_status="unreadable",
            reason="",
            path=path,
        ),
        problem=str(reason),
    )


def unknown_leftovers(data_dir: str | os.PathLike[str]) -> list[Path]:
    """Return unfinished NeXus files of which the journal has no run, and that nobody writes."""
    directory = Path(data_dir)
    paths = [path for path in (directory / "nexus").glob(f"*{PART}") if not written_now(path)]
    if not paths:
        return []
    known = {uid[:8] for uid in map(Journal.uid_of, Journal(directory / "journal").paths())}
    return sorted(path for path in paths if path.name.removesuffix(f".nxs{PART}")[-8:] not in known)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    try:
        descriptor = os.open(directory / "recover.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot recover runs in {directory}: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StorageError(f"another recovery is at work in {directory}: wait for it.") from None
    finally:
        os.close(descriptor)


def _session_began(directory: Path) -> float | None:
    """Return since when a session is at work there, or None."""
    lock = directory / "session.lock"
    return lock.stat().st_mtime if written_now(lock) else None


class _Files:
    """The files of one run."""

    def __init__(self, directory: Path, run: RunSummary) -> None:
        self._run = run
        self._nexus = directory / "nexus"
        self._cxi = directory / "cxi"
        start = _start(run)
        self._final = self._nexus / file_name(start)
        self._growing = self._final.with_name(self._final.name + PART)
        self._chunks = _cxi.files_of(self._cxi, start)

    @property
    def unfinished(self) -> bool:
        """Whether there are files that were cut off."""
        before = self._growing.with_name(self._growing.name + BEFORE)
        return self._growing.exists() or before.exists() or self._chunks.unfinished

    @property
    def missing(self) -> bool:
        """Whether there is no NeXus file."""
        return not self._final.exists()

    def complete(self, journal: Journal, outcome: Recovery) -> None:
        """Complete the files first, then the journal."""
        self._complete_nexus(journal, outcome)
        self._complete_cxi(journal, outcome)
        if not self._run.complete:
            if self._run.damage and not outcome.lost:
                outcome.notes.append(f"journal: {self._run.damage}.")
            outcome.journal = complete_journal(self._run.path) is not None

    def _documents(self, journal: Journal) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return completed(journal.documents(self._run))

    def _complete_nexus(self, journal: Journal, outcome: Recovery) -> None:
        if written_now(self._growing):
            raise StorageError(f"{self._growing} is being written by another process.")
        before = set_aside(self._growing)
        made = not self._final.exists()
        if made:
            counted = _Retaken(self._documents(journal))
            refused: list[str] = []
            try:
                writer = NeXusWriter(self._nexus)
                replay(counted, [writer], refused=refused.append)
                writer.close()
                lost = lost_with(before, self._final, replaced=counted.retaken) if before else []
            except BaseException:
                take_back(self._growing)
                raise
            outcome.notes += refused[:_SHOWN]
            if len(refused) > _SHOWN:
                outcome.notes.append(f"{len(refused) - _SHOWN} more documents were refused.")
            if lost:
                self._final.unlink()
                take_back(self._growing)
                # What was measured counts for more than that file and journal agree.
                outcome.files.append(repair_file(self._growing)[0])
                outcome.notes.append(
                    f"{self._final.name} was completed from what was in it, because it has what "
                    f"the journal has not: {' '.join(lost[:3])}"
                )
                return
        else:
            self._compare_finished(before)
        if before:
            before.unlink()
        if before or made:
            outcome.files.append(self._final)

    def _compare_finished(self, before: Path | None) -> None:
        try:
            lost = lost_with(before, self._final, replaced=10**9) if before else []
        except StorageError:
            take_back(self._growing)
            raise
        if lost:
            take_back(self._growing)
            raise StorageError(
                f"{self._growing} has what {self._final.name} has not ({' '.join(lost[:3])}): both "
                "are left as they are."
            )

    def _complete_cxi(self, journal: Journal, outcome: Recovery) -> None:
        made = self._chunks.complete(self._documents(journal), outcome.notes.append)
        outcome.files += made


class _Retaken:
    """Documents, counting the events that take the place of earlier ones."""

    def __init__(self, documents: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        self._documents = documents
        self._last: dict[str, int] = {}
        self.retaken = 0

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name, doc in self._documents:
            if name in ("event", "event_page"):
                numbers = [doc["seq_num"]] if name == "event" else doc["seq_num"]
                key = doc["descriptor"]
                last = self._last.get(key, 0)
                self.retaken += sum(1 for number in numbers if number <= last)
                self._last[key] = max([last, *numbers])
            yield name, doc


def _start(run: RunSummary) -> Mapping[str, Any]:
    from beamline.documents._records import JournalReader

    with JournalReader(run.path) as reader:
        return reader.start()
