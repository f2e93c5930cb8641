"""Bringing the catalogue up to date at once: ``beamline catalog sync``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from beamline.catalog._client import opened
from beamline.catalog._error import CatalogError
from beamline.catalog._ledger import INCOMPLETE, Entry, Ledger, catalog_lock
from beamline.catalog._location import Location
from beamline.catalog._watch import RUNNING, state
from beamline.core.errors import FileFormatError, MissingError
from beamline.documents import Journal

if TYPE_CHECKING:
    from beamline.catalog._ingest import Ingester

__all__ = ["FEED_LOCK", "SyncResult", "sync_catalog"]

#: Held by a feeding process for as long as it lives.
FEED_LOCK = "feed.lock"


@dataclass
class SyncResult:
    """What `sync_catalog` found and did.

    Attributes
    ----------
    present
        Runs that were in the catalogue already.
    added
        Runs that were brought in, with those that were cut off.
    incomplete
        Uids of runs without a stop document among them.
    running
        Runs that are being recorded now; they are left for later.
    failed
        Uid (or file name) and reason of what could not be brought in.
    """

    present: int = 0
    added: int = 0
    incomplete: list[str] = field(default_factory=list)
    running: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def sync_catalog(
    data_dir: str | os.PathLike[str],
    *,
    uri: str | None = None,
    rebuild: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SyncResult:
    """Bring every recorded run into the catalogue, those of crashed processes included.

    It may be called while sessions run. tiled is imported only if there is something to do.

    Parameters
    ----------
    data_dir
        Its ``journal/`` is read, its ``catalog/`` written.
    uri
        Address of a tiled server to write to instead, as for `open_catalog`.
    rebuild
        Delete the catalogue first and make it anew. On a server, where others may have theirs,
        the runs of this journal are replaced one by one.
    progress
        Called with (runs done, runs to do).

    Raises
    ------
    MissingError
        If there is no journal.
    CatalogError
        If the catalogue can't be opened, or is to be rebuilt while a session feeds it.
    """
    location = Location.of(data_dir, uri)
    root, directory = location.data_dir, location.directory
    if not (root / "journal").is_dir():
        raise MissingError(
            f"there is no journal in {root}: the catalogue is made from {root / 'journal'}."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(f"cannot use the catalogue in {directory}: {error.strerror}.") from None
    if rebuild:
        _delete(directory)
    ledger = Ledger(directory)
    result = SyncResult()
    waiting = _waiting(Journal(root / "journal"), ledger, result)
    if not waiting:
        return result
    from beamline.catalog._ingest import Ingester

    with opened(root, uri) as client:
        ingester = Ingester(client, ledger)
        for done, path in enumerate(waiting):
            if progress is not None:
                progress(done, len(waiting))
            with catalog_lock(directory):
                entry = _once(ingester, path, result)
            if entry is None:
                continue
            if not entry.present:
                result.failed[entry.uid] = entry.reason
                continue
            result.added += 1
            if entry.status == INCOMPLETE:
                result.incomplete.append(entry.uid)
        if progress is not None:
            progress(len(waiting), len(waiting))
    return result


def _waiting(journal: Journal, ledger: Ledger, result: SyncResult) -> list[Path]:
    known = {(entry.uid, entry.size): entry for entry in ledger.refresh().values()}
    waiting = []
    for path in journal.paths():
        try:
            status, size = state(path)
        except FileFormatError as error:
            result.failed[path.name] = str(error)
            continue
        entry = known.get((journal.uid_of(path), size))
        if status == RUNNING:
            result.running += 1
        elif entry is not None and entry.present:
            result.present += 1
        else:
            waiting.append(path)
    return sorted(waiting)


def _once(ingester: Ingester, path: Path, result: SyncResult) -> Entry | None:
    """Ingest unless a feeding process has done it since."""
    status, size = state(path)
    entry = ingester.ledger.refresh().get(Journal.uid_of(path))
    if entry is not None and entry.present and entry.size == size:
        result.present += 1
        return None
    if status == RUNNING:
        result.running += 1
        return None
    return ingester.ingest(path)


def _delete(directory: Path) -> None:
    try:
        with catalog_lock(directory, FEED_LOCK, wait=False), catalog_lock(directory):
            for path in directory.iterdir():
                if path.name in ("lock", FEED_LOCK):
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    except BlockingIOError:
        raise CatalogError(
            f"the catalogue in {directory} is fed by a session at present: close the session, "
            "then rebuild."
        ) from None
