"""What is done with events whose fate is final: noted in the ledger, told in documents, counted."""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beamline.crystallography.geometry import Detector
from beamline.documents.consumers import Consumer
from beamline.documents.journal import JournalWriter
from beamline.streaming.batches import BatchHeader, EventKey, ProcessedBatch, ProcessedEvent
from beamline.streaming.config import WriterConfig
from beamline.streaming.health import WriterCounts
from beamline.streaming.in_flight import Block
from beamline.streaming.receipts import CompletedFile, FileSettings
from beamline.streaming.run_metadata import RunMetadata
from beamline.streaming.source import Q2Source
from beamline.streaming.written import FoundFile, WrittenLedger

__all__ = ["Finisher"]

_log = logging.getLogger(__name__)

#: Reasons that are in the log in full, each once.
_REASONS = 1000


@dataclass(frozen=True)
class _File:
    """A complete file that is not told yet, and its events row by row."""

    path: Path
    run: str
    shape: tuple[int, int, int]
    dtype: str
    rows: Sequence[tuple[EventKey, ProcessedEvent, Block]]
    noted: bool = False


class Finisher:
    """Keep ledger, documents and counts in step with what is on disk.

    Parameters
    ----------
    settings
        All of them.
    directory
        Where files, journal and ledger go.
    detector
        Geometry.
    counts
        Kept up to date.
    consumers
        Of the documents, after the journal.

    Attributes
    ----------
    file_settings : FileSettings
        For the writer actor.
    """

    def __init__(
        self,
        settings: WriterConfig,
        directory: Path,
        detector: Detector,
        counts: WriterCounts,
        consumers: Iterable[Consumer],
    ) -> None:
        metadata = RunMetadata.from_file(settings.output.run_metadata_file)
        self._counts = counts
        self._ledger = WrittenLedger(directory)
        self._journal = JournalWriter(directory / "journal")
        self._source = Q2Source(
            [self._journal, *consumers],
            settings.model_dump(mode="json"),
            detector,
            metadata,
            directory / "metadata.json",
        )
        self.file_settings = _file_settings(settings, directory, self._ledger, metadata)
        self._in_flight: dict[EventKey, Block] = {}
        self._files: deque[_File] = deque()
        self._final: deque[Block] = deque()
        self._acknowledge: list[Any] = []
        self._reasons: Counter[str] = Counter()
        for found in self._ledger.found:
            self._tell_found(found)

    def discard_abandoned(self, *, comes_again: bool) -> None:
        """Do away with what killed writers left in progress, if the queue brings it again."""
        for path in self._ledger.abandoned:
            if comes_again:
                _log.info("%s is removed: its events come again", path.name)
                path.unlink(missing_ok=True)
            else:
                _log.warning(
                    "%s was left by a writer that was killed, and its queue does not bring its "
                    "events again: 'beamline validate --repair' completes it",
                    path,
                )
        self._ledger.abandoned.clear()

    # ---- events on their way

    def judge(self, block: Block) -> bool:
        """Sort the events of a block that was searched; False if it has to wait for another one.

        Its hits are in ``block.unwritten`` then.
        """
        batch = block.batch
        assert batch is not None  # noqa: S101  (the caller sees to it)
        keys = [batch.key(event) for event in batch.events]
        if any(self._in_flight.get(key, block) is not block for key in keys):
            return False
        block.judged = True
        events = []
        seen: set[EventKey] = set()
        for key, event in zip(keys, batch.events, strict=True):
            again = key in self._ledger or key in seen
            seen.add(key)
            events.append(replace(event, verdict="duplicate", peaks=None) if again else event)
        block.batch = replace(batch, events=events)
        for key, event in zip(keys, events, strict=True):
            self._count(event)
            if event.verdict == "hit":
                block.unwritten[event.index] = event
            if event.verdict != "duplicate":
                self._in_flight[key] = block
        if not block.unwritten:
            self._finish(block)
        return True

    def forget(self, blocks: Iterable[Block]) -> None:
        """Let events of blocks that will not be written come again.

        Those that are in a complete file, or final, land when the ledger knows them.
        """
        for block in blocks:
            for event in block.batch.events if block.batch is not None else ():
                if event.index in block.unwritten or (event.verdict != "hit" and not block.final):
                    self._land(block, event)

    def _land(self, block: Block, event: ProcessedEvent) -> None:
        """Let an event that comes again be judged: the ledger knows it, or it was given up."""
        assert block.batch is not None  # noqa: S101  (it was judged)
        key = block.batch.key(event)
        if self._in_flight.get(key) is block:
            del self._in_flight[key]

    def refuse_hit(self, block: Block, index: int, reason: str) -> None:
        """Note that the file can't hold an event."""
        event = block.unwritten.pop(index, None)
        if event is None or block.batch is None:
            return
        told = replace(event, verdict="refused", reason=reason, peaks=None)
        self._counts.hits -= 1
        self._count(told)
        events = [told if e.index == index else e for e in block.batch.events]
        block.batch = replace(block.batch, events=events)
        if not block.unwritten:
            self._finish(block)

    def refuse_item(self, lease: Any, reason: str) -> None:
        """Note that an item can't be used at all."""
        self._counts.refused += 1
        self._log_reason(reason)
        batch = str(getattr(lease.item, "batch_id", ""))
        event = ProcessedEvent(0, "refused", reason)
        self._source.events(ProcessedBatch(BatchHeader("", batch, {}), [event]))
        self._acknowledge.append(lease)

    def lose(self, block: Block, reason: str) -> None:
        """Note that the events of a block can't be had or treated any more."""
        self.forget([block])
        header = block.item.header
        sentence = f"{block.name} are lost: {reason.rstrip('.')}."
        if block.batch is None:
            first = block.span[0] if block.span is not None else 0
            events: list[ProcessedEvent] = [
                ProcessedEvent(first + i, "lost", sentence) for i in range(block.n_events)
            ]
        else:
            self._counts.hits -= len(block.unwritten)
            self._counts.frames -= len(block.unwritten)
            events = [
                replace(e, verdict="lost", reason=sentence, peaks=None)
                if e.index in block.unwritten
                else e
                for e in block.batch.events
            ]
        lost = [event for event in events if event.verdict == "lost"]
        for event in lost:
            self._count(event)
        block.unwritten.clear()
        block.batch = ProcessedBatch(header, events)
        self._finish(block)

    # ---- files

    def completed(self, made: CompletedFile, blocks: Mapping[int, Block]) -> None:
        """Take note of a complete file."""
        rows = []
        for token, indices in made.rows:
            block = blocks[token]
            for index in indices:
                event = block.unwritten[index]
                assert block.batch is not None  # noqa: S101  (it was searched)
                rows.append((block.batch.key(event), event, block))
        self._add_file(_File(made.path, made.run, made.shape, made.dtype, rows))

    def adopt(self, blocks: Mapping[int, Block]) -> None:
        """Take note of files that a writer completed and could not report before it died.

        What it left in progress is removed: its events are handed over again.
        """
        found_files, growing = self._ledger.orphans()
        for found in found_files:
            rows = []
            for key in found.keys:
                block = self._in_flight.get(key)
                if block is not None and block.token in blocks and key[2] in block.unwritten:
                    rows.append((key, block.unwritten[key[2]], block))
            run = found.keys[0][0] if found.keys else ""
            self._add_file(_File(found.path, run, found.shape, found.dtype, rows, noted=True))
        for path in growing:
            path.unlink(missing_ok=True)

    def flush(self) -> list[Any]:
        """Note and tell what is final; return the leases of items that are done with.

        What can't be noted (full disk) is tried again the next time.
        """
        try:
            while self._files:
                self._tell_file(self._files[0])
                self._files.popleft()
            self._tell_blocks()
        except OSError as error:
            self._counts.failed(f"the ledger can't be written: {error}.")
        self._counts.document_errors = self._source.errors
        done, self._acknowledge = self._acknowledge, []
        return done

    def finish(self, reason: str) -> None:
        """Stop the runs."""
        self._source.finish("success", reason)
        for sentence, number in self._reasons.items():
            if number > 1:
                _log.error("%d times: %s", number, sentence)

    def close(self) -> None:
        """Close ledger and journal."""
        self._journal.close()
        self._ledger.close()

    def _add_file(self, file: _File) -> None:
        for _, event, block in file.rows:
            block.unwritten.pop(event.index, None)
        self._files.append(file)

    def _tell_file(self, file: _File) -> None:
        if not file.noted:
            self._ledger.record([key for key, _, _ in file.rows], file.path)
        for _, event, block in file.rows:
            self._land(block, event)
        rows = [_row(key[1], event) for key, event, _ in file.rows]
        self._source.file(file.path, file.run, file.shape, file.dtype, rows)
        self._counts.written += len(rows)
        self._counts.files += 1
        for block in dict.fromkeys(block for _, _, block in file.rows):
            if not block.unwritten and not block.final:
                self._finish(block)

    def _finish(self, block: Block) -> None:
        block.final = True
        self._final.append(block)

    def _tell_blocks(self) -> None:
        told = [block for block in self._final if block.batch is not None]
        keys = [
            block.batch.key(event)
            for block in told
            if block.batch is not None
            for event in block.batch.events
            if event.verdict in ("not_hit", "refused")
        ]
        if keys:
            self._ledger.record(keys)
        self._final.clear()
        for block in told:
            assert block.batch is not None  # noqa: S101
            new = [event for event in block.batch.events if event.verdict != "duplicate"]
            for event in new:
                self._land(block, event)
            if new:
                self._source.events(replace(block.batch, events=new))
            if not block.told:
                block.told = True
                block.item.untold -= 1
                if not block.item.untold:
                    self._acknowledge.append(block.item.lease)

    def _tell_found(self, found: FoundFile) -> None:
        """Tell of a file that a writer completed before it was killed."""
        _log.info("%s was completed by a writer that was killed: it is taken over", found.path)
        if not found.keys:
            return
        events = [
            ProcessedEvent(key[2], "hit", n_peaks=peaks, photon_energy_eV=energy, time_ns=key[3])
            for key, peaks, energy in zip(
                found.keys, found.n_peaks, found.photon_energies, strict=True
            )
        ]
        run = found.keys[0][0]
        for key, event in zip(found.keys, events, strict=True):
            self._source.events(ProcessedBatch(BatchHeader(run, key[1], {}), [event]))
        rows = [_row(key[1], event) for key, event in zip(found.keys, events, strict=True)]
        self._source.file(found.path, run, found.shape, found.dtype, rows)

    def _count(self, event: ProcessedEvent) -> None:
        counts = self._counts
        if event.verdict == "duplicate":
            counts.duplicates += 1
            return
        if event.verdict in ("refused", "lost"):
            setattr(counts, event.verdict, getattr(counts, event.verdict) + 1)
            self._log_reason(event.reason)
            return
        counts.frames += 1
        counts.truncated += event.truncated > 0
        if event.verdict == "hit":
            counts.hits += 1
        else:
            counts.filtered += 1

    def _log_reason(self, reason: str) -> None:
        self._counts.failed(reason)
        # Messages about one thing differ by numbers only: of the event, of the batch.
        kind = re.sub(r"batch \S+", "batch #", re.sub(r"\d+", "#", reason))
        if kind not in self._reasons and len(self._reasons) >= _REASONS:
            return
        self._reasons[kind] += 1
        _log.log(logging.ERROR if self._reasons[kind] == 1 else logging.DEBUG, "%s", reason)


def _row(batch: str, event: ProcessedEvent) -> dict[str, Any]:
    return {
        "time": event.time_ns * 1e-9,
        "n_peaks": event.n_peaks,
        "photon_energy": event.photon_energy_eV,
        "event_id": event.index,
        "batch_id": batch,
    }


def _file_settings(
    settings: WriterConfig, directory: Path, ledger: WrittenLedger, metadata: RunMetadata
) -> FileSettings:
    output, peaks = settings.output, settings.peak_finding
    return FileSettings(
        directory=directory,
        writer=ledger.writer,
        begun=ledger.begun,
        prefix=output.file_prefix,
        buffer_size=output.buffer_size,
        max_file_seconds=output.max_file_seconds,
        compression=output.compression,
        maps=output.maps,
        directory_per_run=output.directory_per_run,
        max_num_peak=peaks.max_num_peak,
        padding=peaks.padding,
        metadata=metadata,
        process={
            "min_num_peak": peaks.min_num_peak,
            "connectivity": peaks.connectivity,
            "min_pixels": peaks.min_pixels,
            "padding": peaks.padding,
        },
    )
