"""A journal file whose writer was killed becomes one that ends with a stop document."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from beamline.core.errors import FileFormatError
from beamline.documents._records import JournalReader, footer, record
from beamline.documents.journal import JournalError
from beamline.documents.replay import completed

__all__ = ["CUT_TAIL", "complete_journal"]

#: Appended to the name of a journal, for the unreadable bytes that were at its end.
CUT_TAIL = ".cut"


def complete_journal(path: Path) -> Mapping[str, Any] | None:
    """Append the stop document (`completed`) to a journal file that lacks it.

    Bytes after the last whole record are moved to a file beside it. A process that is killed in
    here leaves a journal that is still cut off, with every document that it had.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict or None
        The stop document that was added; None if there was one, so that a second call changes
        nothing.

    Raises
    ------
    JournalError
        If the run is still being recorded, or the disk is full.
    FileFormatError
        If the file is not a journal, or its documents break the rules of event-model.
    """
    with JournalReader(path) as reader:
        reader.start()
        if reader.stop() is not None:
            return None
    try:
        with path.open("r+b", buffering=0) as stream:
            _lock(stream, path)
            return _append_stop(stream, path)
    except JournalError:
        raise
    except OSError as error:
        raise JournalError(
            f"cannot complete the journal {path}: {error.strerror or error}; make room, or allow "
            "writing, and try again."
        ) from error


def _lock(stream: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"{path} is still being recorded: it is left as it is.") from None
    except OSError:  # a file system without locks
        return


def _append_stop(stream: BinaryIO, path: Path) -> Mapping[str, Any] | None:
    added: Mapping[str, Any] | None = None
    recorded_at: int | None = None
    with JournalReader(path) as reader:
        end = reader.end
        try:
            for name, doc in completed(reader):
                if name == "stop":
                    added = doc
                    # The one that `completed` makes up comes when the reader is through.
                    recorded_at = reader.begin if reader.end > end else None
                end = reader.end
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path} holds documents that break the rules of event-model: {error!r}."
            ) from None
    stream.seek(end)
    tail = stream.read()
    if tail.strip(b"\0"):
        with path.with_name(path.name + CUT_TAIL).open("wb") as beside:
            beside.write(tail)
            beside.flush()
            os.fsync(beside.fileno())
    stream.truncate(end)
    stream.seek(end)
    assert added is not None  # noqa: S101  (`completed` ends with one)
    at = end if recorded_at is None else recorded_at
    data = (b"" if recorded_at is not None else record("stop", added)) + footer(at)
    try:
        while data:
            data = data[stream.write(data) :]
    except OSError:
        stream.truncate(end)
        raise
    os.fsync(stream.fileno())
    return added if recorded_at is None else None
