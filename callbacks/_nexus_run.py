"""The NeXus file of one run, written while the run is going on."""

from __future__ import annotations

import logging
import numbers
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from beamline.core.errors import MissingError, StorageError
from beamline.documents.consumers import DocumentError
from beamline.nexus.run import RunTree
from beamline.nexus.techniques import TechniquesTree
from beamline.nexus.tree import Tree
from callbacks._hdf5 import NexusFile
from callbacks._nexus_rows import EventKeys, StreamRows
from callbacks._swmr import SwmrNexusFile

__all__ = ["FrameMode", "NexusRun", "file_name"]

_log = logging.getLogger(__name__)
Document = Mapping[str, Any]
FrameMode = Literal["link", "virtual"]


def file_name(start: Document) -> str:
    """Name of a run's file, made from its start document alone."""
    number = start.get("scan_id")
    scan = int(number) if isinstance(number, numbers.Integral) else 0
    plan = re.sub(r"[^A-Za-z0-9_-]", "_", str(start.get("plan_name") or "run"))[:80]
    return f"{scan:05d}_{plan}_{str(start['uid'])[:8]}.nxs"


class NexusRun:
    """Document consumer for one run.

    Parameters
    ----------
    start
        The start document.
    directory
        Where the file goes.
    compression
        gzip level, or None.
    flush_interval
        Rows are on disk after so many seconds at most.
    on_finished
        Called with the path of the finished file.
    on_closed
        Called when the run needs nothing any more.
    name
        Of the file; `file_name` by default.
    make_tree
        Makes what says which nodes the documents become.
    frames
        "link" or "virtual": how frames in other files are referred to when the run has ended.
    swmr
        Write in HDF5's SWMR mode.

    Raises
    ------
    StorageError
        If the file can't be made.
    """

    def __init__(
        self,
        start: Document,
        directory: Path,
        *,
        compression: int | None,
        flush_interval: float,
        on_finished: Callable[[Path], None] = lambda _: None,
        on_closed: Callable[[NexusRun], None] = lambda _: None,
        name: str | None = None,
        make_tree: Callable[..., RunTree | TechniquesTree] = RunTree,
        frames: FrameMode = "link",
        swmr: bool = False,
    ) -> None:
        self.uid = str(start["uid"])
        self.path = directory / (name or file_name(start))
        self._interval = flush_interval
        self._on_finished = on_finished
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._began = float(start["time"])
        self._tree = make_tree(start, file_name=self.path.name, virtual=frames == "virtual")
        self._streams: dict[str, StreamRows] = {}
        self._by_descriptor: dict[str, tuple[StreamRows, EventKeys]] = {}
        self._resources_seen: set[tuple[str, str]] = set()
        self._failure: StorageError | None = None
        self._refused = 0
        self._open = True
        self._flushed = time.monotonic()
        self._file = self._make_file(compression, swmr=swmr)
        self._handlers: dict[str, Callable[[Document], None]] = {
            "start": self._start,
            "descriptor": self._descriptor,
            "event": self._event,
            "event_page": self._event_page,
            "resource": self._resource,
            "stream_resource": self._stream_resource,
            "stream_datum": self._tree.frames.datum,
            "stop": self._stop,
        }

    def _make_file(self, compression: int | None, *, swmr: bool) -> NexusFile:
        if self.path.exists():
            raise StorageError(
                f"the file of run {self.uid[:8]} exists already, {self.path}: write it to another "
                "directory, or move the old one away."
            )
        try:
            if swmr:
                return SwmrNexusFile(self.path)
            return NexusFile(self.path, compression=compression)
        except BlockingIOError:
            raise StorageError(
                f"{self.path}.part is being written by another process: run {self.uid[:8]} needs "
                "another directory."
            ) from None
        except OSError as error:
            raise self._storage_error(error) from error

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document.

        Raises
        ------
        StorageError
            If it can't be written; ``.part`` is valid then and holds what was written before.
        MissingError
            For an event of an unknown descriptor.
        DocumentError
            For an event without one of its data keys.
        """
        handler = self._handlers.get(name)
        if handler is None:
            return
        with self._lock:
            if self._open:
                handler(doc)

    def tick(self) -> None:
        """Bring rows to disk that have waited for long enough (from another thread)."""
        with self._lock:
            if not self._open or self._failure is not None:
                return
            now = time.monotonic()
            waits = [rows.since for rows in self._streams.values() if rows.since is not None]
            if waits and now - min(waits) >= self._interval:
                try:
                    self._flush()
                except StorageError as error:
                    # The next document raises it: an exception here would be seen by nobody.
                    _log.error("%s", error)

    def close(self) -> None:
        """Bring everything to disk and let go of the file, which stays ``.part``."""
        with self._lock:
            if not self._open:
                return
            try:
                if self._failure is None:
                    self._flush()
            finally:
                self._leave()

    def _start(self, doc: Document) -> None:
        del doc
        self._add(self._tree.start())
        self._commit()

    def _descriptor(self, doc: Document) -> None:
        name = str(doc.get("name", "primary"))
        rows = self._streams.get(name)
        if rows is not None:
            # Events that wait know nothing of the data keys that this descriptor may add.
            self._write_rows()
        tree = self._tree.descriptor(doc)
        if rows is None:
            stream, expected = self._tree.streams[name], self._tree.expected_rows(name)
            rows = self._streams[name] = StreamRows(stream, self._file, self._began, expected)
        keys = self._tree.streams[name].keys
        required = EventKeys(key for key in doc["data_keys"] if keys[key].external != "stream")
        self._by_descriptor[doc["uid"]] = rows, required
        self._add(tree)
        self._commit()

    def _event(self, doc: Document) -> None:
        rows, keys = self._rows_of("event", doc)
        if self._failure is not None:
            self._refuse(1)
        try:
            enough = rows.take(doc, keys)
        except KeyError:
            if keys.names.issubset(doc["data"]) and keys.names.issubset(doc["timestamps"]):
                raise
            raise self._incomplete(rows, keys, doc, f"event {doc['seq_num']}") from None
        if enough or time.monotonic() - self._flushed >= self._interval:
            self._flush()

    def _event_page(self, doc: Document) -> None:
        count = len(doc["seq_num"])
        if not count:
            return
        rows, keys = self._rows_of("event_page", doc)
        for part in (doc["data"], doc["timestamps"]):
            if any(key not in part or len(part[key]) != count for key in keys.names):
                which = f"events {doc['seq_num'][0]} to {doc['seq_num'][-1]}"
                raise self._incomplete(rows, keys, doc, which)
        if self._failure is not None:
            self._refuse(count)
        if rows.take_page(doc, keys) or time.monotonic() - self._flushed >= self._interval:
            self._flush()

    def _rows_of(self, name: str, doc: Document) -> tuple[StreamRows, EventKeys]:
        """Find the stream of events and the data keys that they must have."""
        found = self._by_descriptor.get(doc["descriptor"])
        if found is None:
            raise MissingError(
                f"run {self.uid[:8]}: an {name} refers to descriptor {doc['descriptor']}, which "
                "was never received; it is not in the file."
            )
        if found[0].datum_keys:
            self._link_classic_frames(found[0], doc)
        return found

    def _incomplete(
        self, rows: StreamRows, keys: EventKeys, doc: Document, which: str
    ) -> DocumentError:
        missing = sorted(
            k for k in keys.names if k not in doc["data"] or k not in doc["timestamps"]
        )
        what = "data keys with another number of values than there are events"
        if missing:
            what = f"no value or no time stamp for data key {missing[0]!r}"
        return DocumentError(
            f"run {self.uid[:8]}: {which} of stream {rows.stream.name!r}: {what}; not in the file."
        )

    def _link_classic_frames(self, rows: StreamRows, doc: Document) -> None:
        for key in rows.datum_keys:
            values = doc["data"].get(key)
            for value in values if isinstance(values, list | tuple) else [values]:
                resource = value.rpartition("/")[0] if isinstance(value, str) else ""
                if resource and (key, resource) not in self._resources_seen:
                    self._resources_seen.add((key, resource))
                    self._add(self._tree.refer(key, resource))

    def _resource(self, doc: Document) -> None:
        self._add(self._tree.resource("resource", doc))

    def _stream_resource(self, doc: Document) -> None:
        self._add(self._tree.resource("stream_resource", doc))

    def _stop(self, doc: Document) -> None:
        try:
            if self._refused:
                self._refuse(0)
            self._write_rows()
            for stream in self._streams.values():
                stream.close()
            rows = {name: stream.rows for name, stream in self._streams.items()}
            self._compare(rows, doc.get("num_events") or {})
            self._add(self._tree.stop(doc, rows))
            self._commit()
            for file in self._tree.frames.files:
                if not os.path.exists(file):  # noqa: PTH110  (a path from a document)
                    _log.warning("run %s: the frame file %s is not there.", self.uid, file)
            try:
                self._file.finish()
            except OSError as error:
                raise self._storage_error(error) from error
        finally:
            self._leave()
        self._on_finished(self.path)

    def _compare(self, rows: Mapping[str, int], announced: Mapping[str, int]) -> None:
        for name, number in announced.items():
            stream = self._streams.get(name)
            if stream is not None and stream.has_events and rows[name] != number:
                _log.warning(
                    "run %s: stream %r has %d events here, the stop document says %d.",
                    self.uid, name, rows[name], number,
                )  # fmt: skip

    def _add(self, tree: Tree) -> None:
        if not tree:
            return
        columns = self._file.add(tree, self._tree.expected_rows)
        for rows in self._streams.values():
            rows.extend(tree, columns)

    def _write_rows(self) -> None:
        try:
            for rows in self._streams.values():
                rows.write()
        except OSError as error:
            # In the middle of a block: not all of its columns have it.
            self._refused += 1
            raise self._fail(error) from error

    def _flush(self) -> None:
        self._write_rows()
        self._commit()

    def _commit(self) -> None:
        try:
            self._file.commit()
        except OSError as error:
            raise self._fail(error) from error
        self._failure = None
        self._flushed = time.monotonic()

    def _refuse(self, count: int) -> None:
        """Take no more rows after a failure, so that memory does not grow."""
        self._refused += count
        assert self._failure is not None  # noqa: S101  (the caller has looked)
        raise self._failure

    def _fail(self, error: OSError) -> StorageError:
        self._failure = self._storage_error(error)
        return self._failure

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write the NeXus file of run {self.uid[:8]}, {self.path}.part: "
            f"{error.strerror or error}; what was written before is in it and valid, and the "
            "journal, where one is kept, has the whole run."
        )

    def _leave(self) -> None:
        self._open = False
        self._file.abandon()
        self._on_closed(self)
