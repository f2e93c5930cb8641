"""What a callback server has done, so that nothing is forgotten or done twice.

One JSON object per line in ``callbacks.jsonl``; the last line about a run and a consumer holds. A
line is written after the files are closed: a server that is killed in between finds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from beamline.core.errors import ConfigurationError

__all__ = ["FAILED", "FINISHED", "INTERRUPTED", "ServerEntry", "ServerLedger"]

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
_MARGIN = 86400.0  # seconds by which runs may be recorded out of order


@dataclass(frozen=True)
class ServerEntry:
    """What one consumer did with one run.

    Attributes
    ----------
    run, consumer
        Uid, and name.
    time
        Of the start document, seconds since 1970.
    status
        "finished"; "failed" (the consumer raised; not tried again by itself); "interrupted" (the
        server was stopped in mid-run: it is done again, whole).
    reason
        Why it failed.
    files
        What was written, where the consumer says so.
    settled
        Whether nothing that started earlier was open or missing at that time.
    """

    run: str
    consumer: str
    time: float
    status: str
    reason: str = ""
    files: list[str] = field(default_factory=list)
    settled: bool = False


class ServerLedger:
    """The ledger of one output directory, locked for this process.

    Parameters
    ----------
    directory
        Made if it is missing.
    again
        Forget failures, so that those runs are done again.

    Attributes
    ----------
    since : float or None
        Runs that started earlier need not be asked for; None where nothing was ever received.

    Raises
    ------
    ConfigurationError
        If the directory can't be written to, or another server uses it.
    """

    def __init__(self, directory: Path, *, again: bool = False) -> None:
        self.path = directory / "callbacks.jsonl"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("a+b")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to {directory}: {error.strerror}; choose another with --output-dir."
            ) from None
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise ConfigurationError(
                f"another callback server writes to {directory}: stop that one, or choose another "
                "directory with --output-dir."
            ) from None
        self._again = again
        self._entries: dict[tuple[str, str], ServerEntry] = {}
        self._first: float | None = None
        self._settled = 0.0
        self._read()

    def _read(self) -> None:
        self._stream.seek(0)
        torn = False
        for line in self._stream:
            torn = not line.endswith(b"\n")
            with contextlib.suppress(ValueError, TypeError, KeyError):
                item = json.loads(line)
                if "first" in item:
                    self._first = float(item["first"])
                else:
                    self._keep(ServerEntry(**item))
        if torn:
            # A line that a killed process left unfinished must not swallow the next one.
            self._stream.write(b"\n")
        self._stream.flush()

    def _keep(self, entry: ServerEntry) -> None:
        self._entries[entry.run, entry.consumer] = entry
        if entry.settled and entry.time > self._settled:
            self._settled = entry.time
            # These are not asked for any more, so nobody needs to know what became of them.
            oldest = self._settled - 2 * _MARGIN
            if len(self._entries) > 10_000:
                self._entries = {k: e for k, e in self._entries.items() if e.time >= oldest}

    @property
    def since(self) -> float | None:
        """Time of the earliest start that may be missing here."""
        if self._first is None:
            return None
        return max(self._first, self._settled - _MARGIN)

    def begin(self, since: float | None) -> None:
        """Say, once, which runs this directory is to have: those since a time; None: from now."""
        if self._first is None:
            self._first = time.time() if since is None else since
            self._write({"first": self._first})

    def entry(self, run: str, consumer: str) -> ServerEntry | None:
        """Return what is known, or None."""
        return self._entries.get((run, consumer))

    def done(self, run: str, consumer: str) -> bool:
        """Whether there is nothing left to do for this run."""
        entry = self.entry(run, consumer)
        if entry is None or entry.status == INTERRUPTED:
            return False
        return not (self._again and entry.status == FAILED)

    def add(self, entry: ServerEntry) -> None:
        """Write a line, for certain."""
        self._keep(entry)
        self._write(asdict(entry))

    def _write(self, item: object) -> None:
        self._stream.write(json.dumps(item).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Let another server use the directory."""
        self._stream.close()
