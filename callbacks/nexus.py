"""NeXus files from documents: one valid file per run, on disk while the run goes on.

.. mermaid::

    flowchart LR
        documents --> router[PerRunRouter] --> run["one writer per run"]
        run -- start, descriptors, stop --> tree["RunTree (pure)"] -- nodes --> file
        run -- "rows, in blocks" --> file["NAME.nxs.part"] -- stop --> nxs["NAME.nxs"]

What the files look like is described in ``docs/nexus_format.md``.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from beamline.core.errors import ConfigurationError, StorageError
from beamline.documents.consumers import Consumer, ConsumerError
from beamline.documents.router import PerRunRouter
from callbacks._nexus_run import NexusRun, file_name

__all__ = ["NeXusWriter", "file_name"]


class NeXusWriter:
    """Document consumer that writes every run to a NeXus file of its own.

    Any number of runs may be open at once. A file is named
    ``{scan_id:05d}_{plan_name}_{uid8}.nxs``, with ``.part`` behind it until the stop document. Rows
    go to disk in blocks of 1,024 or after `flush_interval`, whichever is first, so that memory does
    not grow and that a killed process leaves a file that plain h5py opens, with all of them.

    Parameters
    ----------
    directory
        Made if it is missing.
    compression
        gzip level (0 to 9) of numeric columns. Default None: scans are small, and a column that is
        not compressed can be read safely at any moment while it grows. Only full chunks are
        compressed, each once.
    flush_interval
        Seconds until a row is on disk, at most.

    Attributes
    ----------
    directory : Path
        Where the files go.
    files : list[Path]
        Finished files, in the order in which they were finished.

    Raises
    ------
    StorageError
        If the directory can't be made or written to.

    Examples
    --------
    >>> RE.subscribe(NeXusWriter("data/nexus"))
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        compression: int | None = None,
        flush_interval: float = 0.5,
    ) -> None:
        if compression is not None and not (isinstance(compression, int) and 0 <= compression <= 9):
            raise ConfigurationError(
                f"compression must be a gzip level from 0 to 9, or None, found {compression!r}."
            )
        if not flush_interval > 0:
            raise ConfigurationError(
                f"flush_interval must be greater than 0 s, found {flush_interval!r}."
            )
        self.directory = Path(directory).absolute()
        self.files: list[Path] = []
        self._compression = compression
        self._interval = float(flush_interval)
        self._check_directory()
        self._router = PerRunRouter([self._begin])
        self._ticker = _Ticker(self._interval)
        # HDF5 writes what is open when the process ends, and must not find Python gone by then.
        weakref.finalize(self, _close_all, self._ticker)

    def _check_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory):
                pass
        except OSError as error:
            raise StorageError(
                f"cannot write NeXus files to {self.directory}: {error.strerror}; choose another "
                "directory."
            ) from None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of any run.

        Raises
        ------
        StorageError
            If it can't be written: no space, or the run's file exists already. A ``.part`` that
            was begun stays valid.
        MissingError
            If it refers to a descriptor or resource that was never received.
        DocumentError
            If it breaks the rules of event-model.
        """
        try:
            self._router(name, doc)
        except ConsumerError as error:
            # The router names the consumer that failed; here it can only be the run's own.
            raise error.errors[0][1] from error.errors[0][1].__cause__

    def _begin(self, start: Mapping[str, Any]) -> Iterable[Consumer]:
        run = NexusRun(
            start,
            self.directory,
            compression=self._compression,
            flush_interval=self._interval,
            on_finished=self.files.append,
            on_closed=self._ticker.remove,
        )
        self._ticker.add(run)
        return [run]

    def close(self) -> None:
        """Bring the rows of runs that are still open to disk; their files stay ``.part``."""
        _close_all(self._ticker)

    def __enter__(self) -> NeXusWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close_all(ticker: _Ticker) -> None:
    for run in ticker.runs():
        run.close()


class _Ticker:
    """Looks after rows that wait while no document comes, as long as any run is open."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._runs: list[NexusRun] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def runs(self) -> list[NexusRun]:
        """Return the open runs."""
        with self._changed:
            return list(self._runs)

    def add(self, run: NexusRun) -> None:
        """Look after a run."""
        with self._changed:
            self._runs.append(run)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="NeXusWriter flush", daemon=True
                )
                self._thread.start()

    def remove(self, run: NexusRun) -> None:
        """Forget a run."""
        with self._changed:
            if run in self._runs:
                self._runs.remove(run)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(self._interval / 2)
                if not self._runs:
                    self._thread = None
                    return
                runs = list(self._runs)
            for run in runs:
                run.tick()
