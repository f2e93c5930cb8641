"""NeXus files: of runs, on disk while the run goes on, and of scans that are at hand as arrays.

.. mermaid::

    flowchart LR
        documents --> router[PerRunRouter] --> run["one writer per run"]
        run -- start, descriptors, stop --> tree["RunTree (pure)"] -- nodes --> file
        run -- "rows, in blocks" --> file["NAME.nxs.part"] -- stop --> nxs["NAME.nxs"]

A scan that is written by hand becomes documents first (`beamline.nexus.scan`) and takes the same
way. What the files look like is described in ``docs/nexus_format.md``.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beamline.core.closing import Closing
from beamline.core.errors import ConfigurationError, StorageError
from beamline.documents.consumers import Consumer, ConsumerError
from beamline.documents.router import PerRunRouter
from beamline.nexus.scan import ScanArrays, ScanType
from callbacks._nexus_run import FrameMode, NexusRun, file_name
from callbacks._scan_file import Mode, ScanFile

__all__ = ["NeXusWriter", "file_name"]


#: Endings that make a path that of a file and not of a directory.
_FILE_ENDINGS = (".nxs", ".nx", ".h5", ".hdf5", ".hdf", ".nx5")


class NeXusWriter(Closing):
    """Writer of NeXus files: a document consumer, or a file to write scans to by hand.

    Which of the two is decided by the path alone. One that ends in ``.nxs``, ``.nx``, ``.h5``,
    ``.hdf5``, ``.hdf`` or ``.nx5`` is a file, unless there is a directory of that name; any other
    is a directory. A `mode` always means a file.

    *Given a directory*, it is a consumer that writes every run to a file of its own. Any number of
    runs may be open at once. A file is named ``{scan_id:05d}_{plan_name}_{uid8}.nxs``, with
    ``.part`` behind it until the stop document. Rows go to disk in blocks of 1,024 or after
    `flush_interval`, whichever is first, so that memory does not grow and that a killed process
    leaves a file that plain h5py opens, with all of them.

    *Given a file*, scans are written to it with `write_scan`. It is ``NAME.part`` until it is
    closed.

    Parameters
    ----------
    filename
        Directory for the files of runs, or the file to write; made if it is missing.
    mode
        Of a file: "w" (default) replaces one that is there, "w-" refuses to, "a" adds entries to
        it.
    compression
        gzip level (0 to 9) of numeric columns. Default: 1 for a file by hand; none for runs, which
        are small, and where a column that is not compressed can be read safely at any moment while
        it grows. Only full chunks are compressed, each once.
    flush_interval
        Seconds until a row of a run is on disk, at most.
    frames
        "link": frames in other files are linked. "virtual": when a run has ended, a virtual data
        set of the rows that its documents refer to takes the place of the links, if all of its
        sources are there.
    swmr
        Write runs in HDF5's SWMR mode, in which a reader sees new rows through a handle that stays
        open (``h5py.File(…, "r", swmr=True)``, ``dataset.refresh()``). It costs safety: a killed
        file has to be cleared by ``h5clear -s``, and a full disk may spoil it. Not with
        `compression`.

    Attributes
    ----------
    directory : Path
        Where the files go.
    files : list[Path]
        Finished files, in the order in which they were finished.

    Raises
    ------
    StorageError
        If directory or file can't be made or written to.

    Examples
    --------
    >>> RE.subscribe(NeXusWriter("data/nexus"))

    >>> with NeXusWriter("scan_001.nxs") as writer:
    ...     writer.write_scan(data, title="Silicon", scan_type="linear")
    ...     writer.add_metadata("operator", "night shift")
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        mode: Mode | None = None,
        compression: int | None = None,
        *,
        flush_interval: float = 0.5,
        frames: FrameMode = "link",
        swmr: bool = False,
    ) -> None:
        if compression is not None and not (isinstance(compression, int) and 0 <= compression <= 9):
            raise ConfigurationError(
                f"compression must be a gzip level from 0 to 9, or None, found {compression!r}."
            )
        if not flush_interval > 0:
            raise ConfigurationError(
                f"flush_interval must be greater than 0 s, found {flush_interval!r}."
            )
        given = Path(filename).absolute()
        by_hand = mode is not None or (given.suffix.lower() in _FILE_ENDINGS and not given.is_dir())
        self.directory = given.parent if by_hand else given
        self.files: list[Path] = []
        self._scans: ScanFile | None = None
        if by_hand:
            level = 1 if compression is None else compression
            self._scans = ScanFile(given, mode or "w", level)
            return
        self._compression = compression
        if frames not in ("link", "virtual"):
            raise ConfigurationError(f"frames must be 'link' or 'virtual', found {frames!r}.")
        if swmr and compression is not None:
            raise ConfigurationError(
                "swmr and compression exclude each other: chunks that are compressed again and "
                "again make such a file many times too large; leave one of them out."
            )
        self._frames = frames
        self._swmr = swmr
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
        if self._scans is not None:
            raise ConfigurationError(
                f"{self._scans.path} is a file to write scans to by hand; for the documents of "
                "runs give NeXusWriter a directory."
            )
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
            frames=self._frames,
            swmr=self._swmr,
        )
        self._ticker.add(run)
        return [run]

    def write_scan(
        self, scan_data: ScanArrays, title: str | None = None, scan_type: ScanType = "linear"
    ) -> None:
        """Write a scan, by hand, as an entry of its own: ``entry``, ``entry_2``, ….

        Parameters
        ----------
        scan_data
            A ``beamline.daq.ScanData``, or anything with its attributes.
        title
            Default: that of the metadata, or made from type and sample.
        scan_type
            "linear": over the first motor; "mesh": a grid of two; "xafs": a spectrum over the
            energy.

        Raises
        ------
        ConfigurationError
            If this writer was given a directory, or no scan can be made of the data.
        StorageError
            If the disk is full, or the file closed.
        """
        self._file_by_hand("write_scan").write_scan(scan_data, title, scan_type)

    def add_metadata(self, key: str, value: Any) -> None:
        """Add a value, by hand, to the entry of the latest scan (before any: of the first one).

        Parameters
        ----------
        key
            Any text: it becomes a NeXus name, and is kept as ``original_name`` where that differs.
            A field of the scan itself is never replaced.
        value
            A number, text, an array, or a mapping of them, which becomes a group; else JSON.

        Raises
        ------
        ConfigurationError
            If this writer was given a directory, or key or value is nothing.
        """
        self._file_by_hand("add_metadata").add_metadata(key, value)

    def _file_by_hand(self, what: str) -> ScanFile:
        if self._scans is None:
            raise ConfigurationError(
                f"{what} needs a file, but NeXusWriter was given the directory {self.directory}: "
                f"give it the name of a file, which ends in {', '.join(_FILE_ENDINGS)}."
            )
        return self._scans

    def close(self) -> None:
        """Bring everything to disk.

        A file that is written by hand gets its name; the files of runs that are still open stay
        ``.part``.
        """
        if self._scans is None:
            _close_all(self._ticker)
        elif self._scans.path not in self.files:
            self._scans.close()
            self.files.append(self._scans.path)


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
