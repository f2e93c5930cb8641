"""The journal: every document of every run on disk before anybody else sees it.

One file per run, ``<directory>/<YYYY-MM-DD>/<uid>.journal`` (the local date of the start). Files
and catalogue can be rebuilt from it exactly; `Journal` finds runs in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from beamline.core.closing import Closing
from beamline.core.disk import sync
from beamline.core.errors import BeamlineError
from beamline.documents._encoding import pack
from beamline.documents._records import MAGIC, SUFFIX, Damage, footer, read_journal, record
from beamline.documents._store import Journal, RunSummary
from beamline.documents.consumers import ConsumerError
from beamline.documents.router import PerRunRouter

__all__ = ["Damage", "Journal", "JournalError", "JournalWriter", "RunSummary", "read_journal"]

#: Bytes of one run that may wait for a full disk before further documents are refused.
_PATIENCE = 64 * 2**20
_SYNCED = frozenset({"start", "descriptor", "stop"})


class JournalError(BeamlineError, OSError):
    """A document could not be recorded; the run must not go on as if it were."""


class JournalWriter(Closing):
    """Consumer that records the documents of all runs.

    Every document is with the operating system when the call returns, so a process that is killed
    loses nothing; at start, descriptor and stop it is on the disk, so that a machine that loses
    its power loses at most the last events. Nothing is ever buffered here, except what a full disk
    did not take: it is tried again, in order, with the next document.

    Parameters
    ----------
    directory
        Made if it is not there.

    Attributes
    ----------
    last_uid : str or None
        Uid of the run that started last.

    Raises
    ------
    JournalError
        At construction, if files can't be made there. When called, if a document can't be
        recorded (full disk, a value that could not be read back, a uid that was recorded before):
        let it end the run.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._router = PerRunRouter([lambda start: [self._open(start)]])
        self.last_uid: str | None = None
        self._runs: dict[str, _RunFile] = {}
        self._lock = threading.Lock()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory):
                pass
        except OSError as error:
            raise JournalError(
                f"cannot write the journal in {self.directory}: {error.strerror}."
            ) from None

    def _open(self, start: Mapping[str, Any]) -> _RunFile:
        run = self._runs[start["uid"]] = _RunFile(self.directory, start)
        self.last_uid = run.uid
        return run

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Record one document."""
        with self._lock:
            try:
                self._router(name, doc)
            except ConsumerError as error:
                # There is one consumer per run, and its message is the one to show.
                raise error.errors[0][1] from None
            finally:
                if name == "stop" and (run := self._runs.pop(doc["run_start"], None)):
                    run.close()

    def path(self, uid: str) -> Path | None:
        """Return the file of a run that is open at present, or None."""
        run = self._runs.get(uid)
        return run.path if run else None

    def close(self) -> None:
        """Close the files of runs that have not stopped; they stay marked as cut off."""
        with self._lock:
            for run in self._runs.values():
                run.close()
            self._runs.clear()


class _RunFile:
    """Consumer of one run's documents."""

    def __init__(self, directory: Path, start: Mapping[str, Any]) -> None:
        self.uid = str(start["uid"])
        # Foreign uids may hold anything; quoted they can't leave the directory.
        self.path = directory / _day(start) / f"{quote(self.uid, safe='')}{SUFFIX}"
        self._descriptor: int | None = None
        self._pending = bytearray(MAGIC)
        self._length = len(MAGIC)
        self._refused: JournalError | None = None
        self._failing = ""

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if self._refused is not None:
            # Without its beginning, or with a gap, the record would be worth nothing.
            raise self._refused
        try:
            framed = record(name, doc)
        except (TypeError, ValueError) as error:
            refusal = JournalError(
                f"the {name} document of run {self.uid[:8]} cannot be recorded: "
                f"{_culprit(doc) or error}."
            )
            self._refused = refusal if name == "start" else None
            raise refusal from None
        self._pending += framed
        if name == "stop":
            self._pending += footer(self._length)
        self._length += len(framed)
        try:
            if self._descriptor is None:
                self._create()
            self._write(sync=name in _SYNCED)
            self._failing = ""
        except FileExistsError:
            self._refused = JournalError(
                f"run {self.uid} has been recorded before, in {self.path}; it is left as it is."
            )
            raise self._refused from None
        except OSError as error:
            failure = JournalError(
                f"cannot record the {name} document of run {self.uid[:8]} in {self.path}: "
                f"{error.strerror}{self._failing}."
            )
            # The caller may see only the last of several failures: let it tell the first.
            number = f" {doc['seq_num']}" if name == "event" else ""
            self._failing = self._failing or (
                f" (the first that could not be recorded was the {name} document{number})"
            )
            self._refused = failure if len(self._pending) > _PATIENCE else None
            raise failure from error

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._descriptor = os.open(self.path, flags, 0o644)
        # Held until the file is closed, however this process ends: readers see who is alive.
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        for folder in (self.path.parent, self.path.parent.parent):
            with contextlib.suppress(OSError):  # some file systems refuse it for directories
                sync(folder)

    def _write(self, *, sync: bool) -> None:
        assert self._descriptor is not None  # noqa: S101  (for the type checker)
        while self._pending:
            written = os.write(self._descriptor, self._pending)
            del self._pending[:written]
        if sync:
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _day(start: Mapping[str, Any]) -> str:
    try:
        return datetime.fromtimestamp(start["time"], UTC).astimezone().date().isoformat()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "undated"


def _culprit(value: Any, where: str = "") -> str | None:
    """Name the innermost key whose value can't be packed."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        if found := _culprit(item, f"{where}.{key}" if where else str(key)):
            return found
    try:
        pack(value)
    except (TypeError, ValueError) as error:
        return f"{where!r} is {error}" if where else str(error)
    return None
