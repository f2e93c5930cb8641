"""Bringing a run from its journal file into the catalogue.

Imports tiled: only the feeding process and `sync_catalog` get here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bluesky_tiled_plugins import TiledWriter
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer
from event_model import DocumentNames
from tiled.client.container import Container
from zarr.errors import UnstableSpecificationWarning

from beamline.catalog._client import unreachable
from beamline.catalog._columns import Stream, survey
from beamline.catalog._error import UnreachableError
from beamline.catalog._ledger import COMPLETE, FAILED, INCOMPLETE, Entry, Ledger
from beamline.catalog._prepare import Preparer
from beamline.core.errors import BeamlineError, FileFormatError
from beamline.documents._records import JournalReader
from beamline.documents.replay import completed

__all__ = ["Ingester", "Interrupted"]

_log = logging.getLogger(__name__)

#: A batch is written when it holds so many rows, or so many bytes of documents.
_BATCH_ROWS = 10_000
_BATCH_BYTES = 64 * 2**20


class Interrupted(Exception):  # noqa: N818  (not an error: somebody asked to stop)
    """The process was asked to stop in the middle of a run; the run will be done again."""


class _Normalizer(RunNormalizer):
    """The plugin's normalizer, which copies and validates each event only where it must.

    That is for runs with Resource and Datum documents, whose references it resolves; without
    them it would take two thirds of the time of taking a run in.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._resolving = False

    def descriptor(self, doc: Any) -> None:
        for data_key in doc.get("data_keys", {}).values():
            external = data_key.get("external")
            if external is not None and not str(external).startswith("STREAM:"):
                self._resolving = True
        super().descriptor(doc)

    def event(self, doc: Any) -> None:
        if self._resolving:
            super().event(doc)
        else:
            self.dispatcher.process(DocumentNames.event, doc)


class Ingester:
    """Writes runs into an open catalogue.

    Parameters
    ----------
    client
        From `open_catalog`.
    ledger
        Where it is recorded.
    """

    def __init__(self, client: Any, ledger: Ledger) -> None:
        self.client = client
        self.ledger = ledger

    def ingest(self, path: Path, stopped: Callable[[], bool] = lambda: False) -> Entry:
        """Bring one run in, replacing what an earlier attempt left; return what became of it.

        A run that tiled refuses is recorded as failed, with the reason; it doesn't get in the way
        of others.

        Raises
        ------
        Interrupted
            As soon as `stopped` returns true.
        FileFormatError
            If the file is not a journal.
        UnreachableError
            If the server does not answer; the run is not to blame and can be tried again.
        """
        with JournalReader(path) as reader:
            uid = str(reader.start()["uid"])
            finished = reader.stop() is not None
            size = reader.size
            try:
                self._remove(uid)
                measured = _Measured(reader)
                streams = survey(_until(measured, stopped))
                rows = int(_BATCH_BYTES // measured.bytes_per_row)
                self._write(
                    _until(completed(reader), stopped), streams, max(1, min(_BATCH_ROWS, rows))
                )
            except (Interrupted, FileFormatError):
                self._clean_up(uid)
                raise
            except Exception as error:  # noqa: BLE001  (whatever tiled raises, others go on)
                if unreachable(error):
                    said = " ".join(str(error).split())
                    raise UnreachableError(
                        f"the server of the catalogue stopped answering in run {uid}: {said}."
                    ) from None
                _log.exception("run %s was refused", uid)
                said = " ".join(str(error).split())[:300]
                known = isinstance(error, BeamlineError)
                reason = said if known else f"{type(error).__name__}: {said}"
                entry = Entry(uid, FAILED, size, reason)
                self._clean_up(uid)
            else:
                entry = Entry(uid, COMPLETE if finished else INCOMPLETE, size)
        self.ledger.add(entry)
        return entry

    def _write(
        self,
        documents: Iterable[tuple[str, Mapping[str, Any]]],
        streams: Mapping[str, Stream],
        rows: int,
    ) -> None:
        writer = TiledWriter(
            self.client,
            normalizer=_Normalizer,
            batch_size=rows,
            max_array_size=0,  # SQLite's tables take no arrays at all
        )
        prepare = Preparer(streams)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UnstableSpecificationWarning)
            for name, doc in documents:
                writer(name, prepare(name, doc))

    def _remove(self, uid: str) -> None:
        try:
            Container.__getitem__(self.client, uid)
        except KeyError:
            pass
        else:
            # external_only=False: our own tables go as well. Files of detectors are external
            # and never touched.
            self.client.delete_contents(uid, recursive=True, external_only=False)

    def _clean_up(self, uid: str) -> None:
        try:
            self._remove(uid)
        except Exception:  # noqa: BLE001  (the failure before it is the one to tell)
            _log.exception("what was written of run %s could not be removed", uid)


class _Measured:
    """The documents of a reader; afterwards it knows how large their rows are."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self.bytes_per_row = 1.0

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name, doc in self._reader:
            rows = len(doc["seq_num"]) if name == "event_page" else 1
            self.bytes_per_row = max(self.bytes_per_row, self._reader.length / max(rows, 1))
            yield name, doc


def _until(
    documents: Iterable[tuple[str, Mapping[str, Any]]], stopped: Callable[[], bool]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for item in documents:
        if stopped():
            raise Interrupted
        yield item
