"""Which events are in files already, so that none is written twice, also after a restart.

A file's events are noted before the file gets its final name. If the process is killed in between,
the final name is not there, and the note does not hold; once it is there, or the note is confirmed,
it holds for ever. One line of JSON per note.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from beamline.core.errors import StorageError

__all__ = ["EventKey", "Ledger"]


class EventKey(NamedTuple):
    """What makes an event the same event.

    Attributes
    ----------
    run
        Uid or number of the run.
    batch
        Name of the batch in the run.
    event
        Index in the batch.
    """

    run: str
    batch: str
    event: int


class Ledger:
    """The list of written events, in memory and in a file.

    Parameters
    ----------
    path
        The file; made if it is not there. File names in it are relative to its directory.

    Raises
    ------
    StorageError
        If it can't be used, or another process uses it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Per run and batch, the written indices as ranges (first, last), sorted: batches are
        # mostly written whole, so that one pair stands for all their events.
        self._ranges: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}
        self._unconfirmed: dict[str, list[EventKey]] = {}
        self._count = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("a+b", buffering=0)
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{self.path} is in use by another writer; end that or choose another directory."
            ) from None
        except OSError as error:
            raise StorageError(
                f"a ledger can't be kept in {self.path}: {error.strerror}; choose another place."
            ) from None
        self._read()

    def __contains__(self, key: EventKey | tuple[str, str, int]) -> bool:
        run, batch, event = key
        return any(first <= event <= last for first, last in self._ranges.get((run, batch), ()))

    def __len__(self) -> int:
        return self._count

    def prepare(self, file: str | os.PathLike[str], events: Iterable[EventKey]) -> None:
        """Note what a file holds, before it gets its final name; on disk when this returns.

        Parameters
        ----------
        file
            Its final name.
        events
            What is in it.

        Raises
        ------
        StorageError
            If it can't be written: then the file must not get its name.
        """
        events = list(events)
        name = os.path.relpath(file, self.path.parent)
        batches = [[run, batch, ranges] for (run, batch), ranges in _grouped(events).items()]
        self._append({"file": name, "batches": batches})
        self._unconfirmed[name] = events

    def confirm(self, file: str | os.PathLike[str]) -> None:
        """Note that a prepared file has its final name: its events are written.

        Raises
        ------
        KeyError
            If it was not prepared.
        """
        name = os.path.relpath(file, self.path.parent)
        events = self._unconfirmed.pop(name)
        self._add(_grouped(events))
        # Without this line the file itself says the same, as long as it stays where it is.
        with contextlib.suppress(StorageError):
            self._append({"confirmed": name})

    def withdraw(self, file: str | os.PathLike[str]) -> None:
        """Forget a prepared file that could not be written; it must not get its name any more."""
        name = os.path.relpath(file, self.path.parent)
        if self._unconfirmed.pop(name, None) is not None:
            # Without this line the file that is not there says the same.
            with contextlib.suppress(StorageError):
                self._append({"withdrawn": name})

    def close(self) -> None:
        """Let others use the file."""
        self._stream.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, batches: Mapping[tuple[str, str], Iterable[tuple[int, int]]]) -> None:
        for key, ranges in batches.items():
            before = self._ranges.get(key, ())
            merged = _merged([*before, *ranges])
            self._ranges[key] = merged
            self._count += _length(merged) - _length(before)

    def _append(self, note: Mapping[str, object]) -> None:
        line = json.dumps(note, separators=(",", ":")).encode() + b"\n"
        before = os.fstat(self._stream.fileno()).st_size
        try:
            written = self._stream.write(line)
            if written != len(line):
                raise OSError(28, os.strerror(28))
            os.fdatasync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(before)
            raise StorageError(
                f"a ledger can't write to {self.path}: {error.strerror}; make room."
            ) from None

    def _read(self) -> None:
        self._stream.seek(0)
        data = self._stream.read()
        whole, _, cut = data.rpartition(b"\n")
        prepared: dict[str, dict[tuple[str, str], list[tuple[int, int]]]] = {}
        for note in _notes(whole, self.path):
            if "confirmed" in note:
                self._add(prepared.pop(str(note["confirmed"]), {}))
            elif "withdrawn" in note:
                prepared.pop(str(note["withdrawn"]), None)
            else:
                prepared[str(note["file"])] = {
                    (run, batch): [(first, last) for first, last in ranges]
                    for run, batch, ranges in note["batches"]
                }
        if cut:
            self._stream.truncate(len(data) - len(cut))
        for name, batches in prepared.items():
            there = (self.path.parent / name).exists()
            if there:
                self._add(batches)
            self._append({"confirmed" if there else "withdrawn": name})


def _notes(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError:
            raise StorageError(
                f"line {number} of {path} is no note of a ledger; what it said is unknown: move "
                "the file away to begin a new one, and its events may be written again."
            ) from None


def _grouped(events: Iterable[EventKey]) -> dict[tuple[str, str], tuple[tuple[int, int], ...]]:
    ordered = sorted(set(events))
    return {
        key: _merged([(event.event, event.event) for event in group])
        for key, group in groupby(ordered, key=lambda event: (event.run, event.batch))
    }


def _merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def _length(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
