"""What has been written: a ledger of events on disk, so that none is written twice.

Files say themselves what is in them. A file that no ledger knows, because its writer was killed
between giving it its name and noting it, is read and noted when the next writer starts.

One ledger file per writer, ``<directory>/ledger/<writer>.jsonl``, locked while its writer lives:
several writers can share a directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.core.errors import StorageError
from beamline.crystallography.cxi import IN_PROGRESS
from beamline.crystallography.cxi_layout import RESULT
from beamline.streaming.batches import EventKey

__all__ = ["FoundFile", "WrittenLedger"]

#: Items whose events are remembered; what comes twice comes within seconds.
_REMEMBERED = 200_000
#: Number in its item and time stamp of an event: sets of tuples would take three times the memory.
_EVENT = struct.Struct("<qq")


@dataclass(frozen=True)
class FoundFile:
    """A complete file that no ledger knew.

    Attributes
    ----------
    path
        Of the file.
    keys
        Its events, row by row.
    n_peaks, photon_energies
        Of them.
    shape, dtype
        Of its frames.
    """

    path: Path
    keys: list[EventKey]
    n_peaks: list[int]
    photon_energies: list[float]
    shape: tuple[int, int, int]
    dtype: str


class WrittenLedger:
    """Events that are done: on disk, no hits, or refused.

    Parameters
    ----------
    directory
        Where the files go.

    Attributes
    ----------
    writer : str
        Identifies this writer; it belongs into its files.
    begun : Path
        Where the writer has to note the names of its files before it makes them.
    found : list[FoundFile]
        Files of writers that were killed before they could note them; they are noted now.
    abandoned : list[Path]
        Files in progress of writers that were killed: nothing in them was acknowledged.

    Raises
    ------
    StorageError
        If the directory can't be written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.writer = uuid.uuid4().hex
        self._events: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._files: set[str] = set()
        self.begun = directory / "ledger" / f"{self.writer}.files"
        folder = self.begun.parent
        path = folder / f"{self.writer}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write the ledger in {folder}: {error.strerror}.") from None
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        dead = {self.writer}
        for other in sorted(folder.glob("*.jsonl"), key=lambda p: p.stat().st_mtime):
            if other != path:
                self._read(other)
                if _is_free(other):
                    dead.add(other.stem)
        self.found, self.abandoned = self._look(dead)

    def __contains__(self, key: EventKey) -> bool:
        run, batch, index, moment = key
        return (index, moment) in _EVENT.iter_unpack(self._events.get((run, batch), b""))

    def record(self, keys: Iterable[EventKey], file: Path | None = None) -> None:
        """Note events as done, on disk when this returns.

        Raises
        ------
        OSError
            If they can't be noted; nothing is noted then.
        """
        batches: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for run, batch, index, moment in keys:
            batches[run, batch].append((index, moment))
        name = None if file is None else self._name(file)
        line = json.dumps({"file": name, "events": [[*k, v] for k, v in batches.items()]})
        # A line that a full disk cut off would spoil the next one.
        self._stream.write(f"\n{line}\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._remember(batches.items(), name)

    def orphans(self) -> tuple[list[FoundFile], list[Path]]:
        """Find what a writer that died under this ledger left behind.

        Returns
        -------
        found
            Files that it completed without having reported them; they are noted now.
        growing
            Files that it had in progress.
        """
        return self._look({self.writer})

    def close(self) -> None:
        """Give up the lock."""
        self._stream.close()

    def _name(self, file: Path) -> str:
        return os.path.relpath(file, self._directory)

    def _remember(
        self,
        batches: Iterable[tuple[tuple[str, str], Iterable[tuple[int, int]]]],
        file: str | None,
    ) -> None:
        for (run, batch), events in batches:
            key = sys.intern(run), batch
            packed = b"".join(_EVENT.pack(*event) for event in events)
            self._events[key] = self._events.get(key, b"") + packed
            self._events.move_to_end(key)
            if len(self._events) > _REMEMBERED:
                self._events.popitem(last=False)
        if file is not None:
            self._files.add(file)

    def _read(self, path: Path) -> None:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    content = json.loads(line)
                    batches = [
                        ((str(run), str(batch)), [(int(i), int(t)) for i, t in events])
                        for run, batch, events in content["events"]
                    ]
                    self._remember(batches, content.get("file"))
                except (ValueError, KeyError, TypeError, struct.error):
                    continue  # empty, or cut off by a kill: its events come again

    def _look(self, writers: set[str]) -> tuple[list[FoundFile], list[Path]]:
        complete, growing = [], []
        for writer in sorted(writers):
            for path in _begun_by(self.begun.with_name(f"{writer}.files")):
                part = path.with_name(path.name + IN_PROGRESS)
                if part.exists():
                    growing.append(part)
                elif path.exists() and self._name(path) not in self._files:
                    found = _read_file(path)
                    self.record(found.keys, path)
                    complete.append(found)
        return complete, growing


def _is_free(path: Path) -> bool:
    """Whether the writer of a ledger has ended."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _begun_by(path: Path) -> list[Path]:
    """Return the names of files that a writer began and that were not another's."""
    names: dict[str, None] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("-"):
                names.pop(line[1:], None)
            else:
                names[line] = None
    return [Path(name) for name in names]


def _read_file(path: Path) -> FoundFile:
    with h5py.File(path, "r", locking=False) as file:
        data = file["/entry_1/data_1/data"]
        names = [
            [str(text) for text in file[f"/entry_1/{name}"].asstr()[()]]
            for name in ("run_uid", "batch_id")
        ]
        seconds = file["/LCLS/machineTime"][()].astype(np.int64)
        moments = seconds * 1_000_000_000 + file["/LCLS/machineTimeNanoSeconds"][()]
        rows: Iterator[Any] = zip(
            *names, file["/entry_1/event_id"][()].tolist(), moments.tolist(), strict=True
        )
        return FoundFile(
            path,
            list(rows),
            file[f"{RESULT}/nPeaks"][()].tolist(),
            file["/LCLS/photon_energy_eV"][()].tolist(),
            tuple(data.shape),
            data.dtype.str,
        )
