"""Where a session records: journal, writers, catalogue and metadata below one directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from beamline.core.config import Writer
from beamline.core.disk import lock
from beamline.core.errors import ConfigurationError
from beamline.core.metadata import PersistentMetadata

if TYPE_CHECKING:
    from beamline.documents import Consumer

__all__ = ["DataStore"]

_log = logging.getLogger(__name__)


class DataStore:
    """Everything that is recorded below one directory.

    Parameters
    ----------
    directory
        Made if it is missing. Below it: ``journal/``, ``nexus/``, ``cxi/``, ``xpcs/``, ``frames/``,
        ``catalog/``, ``logs/`` and ``metadata.json``.
    writers
        What is written beside the journal: "nexus", "cxi" and "xpcs" files, and "catalog", which
        is the process that feeds the catalogue from the journal.
    catalog_uri
        Address of a tiled server that holds the catalogue, instead of ``catalog/``.

    Attributes
    ----------
    consumers
        The document consumers of `writers`, in the order in which they are served, the journal
        first.
    journal, nexus, cxi, xpcs
        Those that there can be.
    metadata : PersistentMetadata
        For the RunEngine's ``md``.

    Raises
    ------
    ConfigurationError
        If the directory can't be written to, or another session uses it.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        writers: Collection[Writer] = ("nexus", "cxi", "xpcs", "catalog"),
        catalog_uri: str | None = None,
    ) -> None:
        from beamline.documents.journal import JournalWriter
        from callbacks.cxi import CXIWriter
        from callbacks.nexus import NeXusWriter
        from callbacks.xpcs import XPCSWriter

        self.directory = Path(directory).resolve()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot make the data directory {self.directory}: {error.strerror}; choose "
                "another with --data-dir or BEAMLINE_DATA_DIR."
            ) from None
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"the data directory {self.directory} is not writable: choose another with "
                "--data-dir or BEAMLINE_DATA_DIR."
            )
        self._lock = _lock(self.directory)
        self.metadata = PersistentMetadata(self.directory / "metadata.json")
        self.journal = JournalWriter(self.directory / "journal")
        self.nexus = NeXusWriter(self.directory / "nexus")
        self.cxi = CXIWriter(self.directory / "cxi")
        self.xpcs = XPCSWriter(self.directory / "xpcs")
        files: dict[str, Consumer] = {"nexus": self.nexus, "cxi": self.cxi, "xpcs": self.xpcs}
        chosen = [consumer for name, consumer in files.items() if name in writers]
        self.consumers: list[Consumer] = [self.journal, *chosen]
        self.frames = self.directory / "frames"
        self._feed: Any = None
        self._catalog: Any = None
        self._catalog_uri = catalog_uri
        if "catalog" in writers:
            from beamline.catalog import CatalogFeed

            self._feed = CatalogFeed(self.directory, catalog_uri)
            self._feed.start()

    @property
    def catalog(self) -> Any:
        """The databroker catalogue of these runs; opened (a few seconds) at first use.

        Every run that has ended is in it: what the feeding process has not brought in is waited
        for.
        """
        from beamline.catalog import CatalogError, open_catalog

        if self._feed is not None:
            try:
                self._feed.wait()
            except CatalogError as error:
                _log.warning("the catalogue is not complete: %s", error)
        else:
            _log.warning(
                "this session feeds no catalogue (setting writers): 'beamline catalog sync' brings "
                "its runs in."
            )
        if self._catalog is None:
            self._catalog = open_catalog(self.directory, uri=self._catalog_uri)
        return self._catalog

    def wait_for_catalog(self, uid: str, timeout: float = 60.0) -> None:
        """Wait until the run `uid` is in the catalogue; a scan itself never waits for it."""
        if self._feed is not None:
            self._feed.wait(uid, timeout)

    def close(self) -> None:
        """Stop the feeding process and close all files.

        Runs that are not in the catalogue yet follow at the next start.
        """
        if self._feed is not None:
            self._feed.stop()
            self._feed = None
        # A run that is still open, because its plan is paused, stays marked as cut off.
        for consumer in (self.xpcs, self.cxi, self.nexus, self.journal):
            consumer.close()
        self._lock.close()


def _lock(directory: Path) -> IO[str]:
    """Take the directory for this session; two would give the same scan number twice."""
    stream = (directory / "session.lock").open("a+", encoding="utf-8")
    try:
        lock(stream)
    except OSError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        stream.close()
        raise ConfigurationError(
            f"the data directory {directory} is in use by another session (process {holder}): "
            "close that one, or choose another with --data-dir or BEAMLINE_DATA_DIR."
        ) from None
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream
