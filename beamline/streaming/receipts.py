"""What a file writer is told at the beginning, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from beamline.crystallography.cxi_layout import Compression
from beamline.streaming.batches import Padding
from beamline.streaming.run_metadata import RunMetadata

__all__ = ["CompletedFile", "FileSettings", "Receipt"]


@dataclass(frozen=True)
class FileSettings:
    """Settings of `CXIFileWriter` (`file_writer`), as in `beamline.streaming.config`.

    Attributes
    ----------
    writer
        Identifies this writer in its files.
    metadata
        Of the run management.
    process
        Further scalars below ``/entry_1/process_1``.
    begun
        File to which the name of every file is appended before it is made, and, with a minus, of
        those that were another's; None for none.
    """

    directory: Path
    writer: str
    prefix: str = "peaknet_cxi"
    buffer_size: int = 100
    max_file_seconds: float = 10.0
    compression: Compression = "none"
    directory_per_run: bool = True
    maps: bool = False
    max_num_peak: int = 2048
    padding: Padding = "bottom-right"
    metadata: RunMetadata = field(default_factory=RunMetadata)
    process: Mapping[str, str | int | float] = field(default_factory=dict)
    begun: Path | None = None


@dataclass(frozen=True)
class CompletedFile:
    """A file that has its name.

    Attributes
    ----------
    path
        Of the file.
    run
        Run that its events belong to.
    shape, dtype
        Of its frames: (N, ss, fs).
    rows
        For each batch in the order of the rows: its token, the events in consecutive rows.
    """

    path: Path
    run: str
    shape: tuple[int, int, int]
    dtype: str
    rows: Sequence[tuple[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Receipt:
    """What became of what was handed over so far.

    Attributes
    ----------
    completed
        Files that were completed since the last receipt.
    refused
        Token, event and reason of events that the file can't hold.
    blocked
        Why nothing can be written at present (full disk); empty if all is well.
    """

    completed: Sequence[CompletedFile] = ()
    refused: Sequence[tuple[int, int, str]] = ()
    blocked: str = ""
