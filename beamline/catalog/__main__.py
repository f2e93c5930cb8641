"""``python -m beamline.catalog DATA_DIR``: the process behind `CatalogFeed`.

It prints READY before anything heavy is imported, so that nobody waits for it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamline.catalog._error import UnreachableError
from beamline.catalog._ledger import COMPLETE, Ledger, catalog_lock
from beamline.catalog._location import Location
from beamline.catalog._priority import give_way
from beamline.catalog._sync import FEED_LOCK
from beamline.catalog._watch import Watch
from beamline.core.errors import BeamlineError, FileFormatError
from beamline.documents import Journal

if TYPE_CHECKING:
    from beamline.catalog._ingest import Ingester

_log = logging.getLogger("beamline.catalog")

_POLL = 0.25  # seconds between two looks at the journal
_RETRY = 20.0  # seconds before a run that was refused is tried again
_ATTEMPTS = 3
_RECONNECT = 5.0  # seconds before a server that does not answer is asked again


@dataclass
class _Attempts:
    count: int = 0
    not_before: float = 0.0


def main() -> int:
    """Follow the journal until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog="beamline.catalog", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--uri")
    parser.add_argument("--exit-with-parent", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    stopping = threading.Event()
    importing = threading.Event()
    importing.set()
    if options.exit_with_parent:
        threading.Thread(target=_follow_parent, args=(stopping, importing), daemon=True).start()
    try:
        location = Location.of(options.data_dir, options.uri)
        location.directory.mkdir(parents=True, exist_ok=True)
        give_way(Journal(location.data_dir / "journal"), stopping)
        print(f"READY pid={os.getpid()}", flush=True)  # noqa: T201  (the handshake)
        return _feed(location, stopping, importing)
    except (BeamlineError, OSError) as error:
        _log.error("%s", error)
        return 1


def _follow_parent(stopping: threading.Event, importing: threading.Event) -> None:
    # Not sys.stdin: its lock, held by this thread, would hinder the interpreter's end.
    while os.read(0, 1024):
        pass
    stopping.set()
    if importing.is_set():
        # Nothing is open yet, and leaving while tiled starts its threads would end in a traceback.
        os._exit(0)


def _opened_at_last(location: Location) -> Any:
    """Open the catalogue, as soon as its server answers."""
    from beamline.catalog._client import open_catalog

    while True:
        try:
            return open_catalog(location.data_dir, uri=location.uri)
        except UnreachableError as error:
            _log.warning("%s It is tried again.", error)
            time.sleep(_RECONNECT)


def _feed(location: Location, stopping: threading.Event, importing: threading.Event) -> int:
    # Two sessions may share a data directory: both feed, and take turns at each run.
    with catalog_lock(location.directory, FEED_LOCK, shared=True):
        client = _opened_at_last(location)
        with contextlib.closing(client.context):
            importing.clear()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stopping.set())
            _follow(client, location, stopping)
    _log.info("stopped")
    return 0


def _follow(client: Any, location: Location, stopping: threading.Event) -> None:
    from beamline.catalog._ingest import Ingester, Interrupted

    journal = Journal(location.data_dir / "journal")
    ledger = Ledger(location.directory)
    watch = Watch(journal)
    ingester = Ingester(client, ledger)
    attempts: dict[Path, _Attempts] = {}
    _log.info("following %s, the catalogue is %s", journal.directory, location)
    while not stopping.is_set():
        for path in watch.ready(ledger.refresh()):
            try:
                with catalog_lock(location.directory):
                    _take(ingester, path, watch, attempts, stopping)
            except Interrupted:
                _log.info("stopped in the middle of %s: it will be done again", path.name)
                break
            except UnreachableError as error:
                _log.warning("%s It is tried again.", error)
                stopping.wait(_RECONNECT)
                break
            except FileFormatError as error:
                _log.warning("%s", error)
                watch.done(path)
            if stopping.is_set():
                break
        stopping.wait(_POLL)


def _take(
    ingester: Ingester,
    path: Path,
    watch: Watch,
    attempts: dict[Path, _Attempts],
    stopping: threading.Event,
) -> None:
    """Bring one run in, unless another process has; one that is refused gets a few more tries."""
    entry = ingester.ledger.refresh().get(Journal.uid_of(path))
    if entry is not None and entry.status == COMPLETE:
        watch.done(path)
        return
    tried = attempts.setdefault(path, _Attempts())
    if time.monotonic() < tried.not_before:
        return
    begun = time.monotonic()
    entry = ingester.ingest(path, stopping.is_set)
    if entry.present:
        _log.info("run %s is in (%s, %.2f s)", entry.uid, entry.status, time.monotonic() - begun)
        watch.done(path)
        return
    tried.count += 1
    tried.not_before = time.monotonic() + _RETRY
    if tried.count >= _ATTEMPTS:
        _log.error("run %s is given up until the next start: %s", entry.uid, entry.reason)
        watch.done(path)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Everything is closed. Taking down the interpreter with all that tiled has imported needs
    # another second, for which the session that stops us would wait.
    os._exit(status)
