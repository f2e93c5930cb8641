"""The feeding process, seen from the session that starts it."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType

from beamline.catalog._error import CatalogError
from beamline.catalog._ledger import Entry, Ledger
from beamline.catalog._location import Location
from beamline.catalog._watch import RUNNING, state
from beamline.core.errors import FileFormatError, ProcessError
from beamline.core.processes import Child
from beamline.documents import Journal

__all__ = ["CatalogFeed"]

_log = logging.getLogger(__name__)

_RESTARTS = 3


class CatalogFeed:
    """A process that brings every run into the catalogue soon after its stop document.

    It follows the journal directory, at low priority, and is connected to the caller by nothing
    but files: it can be late, be killed or be absent, and catches up when it runs again. What an
    earlier process left without a stop document is brought in when it starts.

    Parameters
    ----------
    data_dir
        Its ``journal/`` is read, its ``catalog/`` written, ``logs/catalog.log`` has its messages.
    uri
        Address of a tiled server to write to instead, as for `open_catalog`. While it does not
        answer, runs wait in the journal.

    Raises
    ------
    CatalogError
        If `uri` is no address of a server, or carries a secret.
    """

    def __init__(self, data_dir: str | os.PathLike[str], uri: str | None = None) -> None:
        self.location = Location.of(data_dir, uri)
        self.data_dir = self.location.data_dir
        self.log = self.data_dir / "logs" / "catalog.log"
        self._child: Child | None = None
        self._ledger = Ledger(self.location.directory)
        self._told: set[str] = set()

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        """Its process id, or None."""
        return self._child.pid if self._child is not None and self._child.running else None

    def start(self) -> CatalogFeed:
        """Start the process, if it does not run; returns before it has imported tiled.

        Raises
        ------
        ProcessError
            If it does not start.
        """
        if not self.running:
            self.stop()
            argv = [sys.executable, "-m", "beamline.catalog", str(self.data_dir)]
            if self.location.uri is not None:
                argv += ["--uri", self.location.uri]
            self._child = Child("the catalogue feed", [*argv, "--exit-with-parent"], log=self.log)
        return self

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the process; a run that it is busy with will be brought in again next time."""
        if self._child is not None:
            self._child.stop(timeout)
            self._child = None

    def wait(self, uid: str | None = None, timeout: float = 60.0) -> None:
        """Wait until a run is in the catalogue.

        A feeding process that was started and has died is started again, a few times.

        Parameters
        ----------
        uid
            The run's full uid; None waits for every run whose stop document is recorded. Those
            that are refused hold up none of the others, and are named by one call only.
        timeout
            Seconds.

        Raises
        ------
        CatalogError
            If that run was refused (with None: one was refused that no call has named yet), or is
            not in by then.
        """
        deadline = time.monotonic() + timeout
        asked = {uid} if uid is not None else self._stopped() - self._told
        wanted = asked
        restarts = 0
        while True:
            entries = self._ledger.refresh()
            wanted = {u for u in wanted if u not in entries}
            if not wanted:
                self._tell_refused([entries[u] for u in sorted(asked) if not entries[u].present])
                return
            if time.monotonic() > deadline:
                state_of = "runs" if self.running else "does not run"
                raise CatalogError(
                    f"run {min(wanted)} was not in the catalogue after {timeout:g} s; the feeding "
                    f"process {state_of} (log: {self.log})."
                )
            if self._child is not None and not self._child.running:
                restarts += 1
                if restarts > _RESTARTS:
                    raise CatalogError(
                        f"the feeding process ends each time it is started: {self._last_words()}"
                    )
                _log.warning("the catalogue feed has ended, it is started again: see %s", self.log)
                try:
                    self.start()
                except ProcessError as error:
                    raise CatalogError(str(error)) from None
            time.sleep(0.05)

    def _tell_refused(self, refused: list[Entry]) -> None:
        if not refused:
            return
        self._told.update(entry.uid for entry in refused)
        first, more = refused[0], len(refused) - 1
        others = f", nor could {more} more" if more else ""
        raise CatalogError(
            f"run {first.uid} could not be brought into the catalogue: {first.reason}{others} "
            f"(log: {self.log})."
        )

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"see {self.log}."

    def _stopped(self) -> set[str]:
        journal = Journal(self.data_dir / "journal")
        known = self._ledger.refresh()
        waiting = set()
        for path in journal.paths():
            uid = journal.uid_of(path)
            if uid in known and known[uid].present:
                continue
            try:
                if state(path)[0] != RUNNING:
                    waiting.add(uid)
            except FileFormatError:
                continue
        return waiting

    def __enter__(self) -> CatalogFeed:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
