"""A journal file that was cut off or damaged becomes one that can be read from end to end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from beamline.core.disk import lock
from beamline.core.errors import FileFormatError
from beamline.documents._records import MAGIC, Damage, JournalReader, footer, framed, record
from beamline.documents.journal import JournalError
from beamline.documents.replay import completed

__all__ = ["CUT_TAIL", "DAMAGED", "complete_journal", "mend_journal", "missing_events"]

#: Appended to the name of a journal, for the unreadable bytes that were at its end.
CUT_TAIL = ".cut"
#: Appended to the name of a journal, for the file as it was before damaged records were left out.
DAMAGED = ".damaged"


def mend_journal(path: Path) -> list[Damage]:
    """Leave damaged records out of a journal file that has sound ones behind them.

    The file as it was is kept beside it. One that was cut off is still cut off afterwards.

    Parameters
    ----------
    path
        The file. It is changed by nothing but an atomic rename.

    Returns
    -------
    list[Damage]
        What was left out; empty if nothing was, so that a second call changes nothing.

    Raises
    ------
    JournalError
        If the run is still being recorded, or the disk is full.
    FileFormatError
        If the file is not a journal, or its start document is lost.
    """
    with JournalReader(path) as reader:
        reader.start()
        for _ in reader.payloads():
            pass
        lost = [damage for damage in reader.damages if damage.records is not None]
        if not lost:
            return []
        made = path.with_name(path.name + ".mended")
        with _changing(path):
            try:
                _copy_sound(reader, made)
                _keep(path, path.with_name(path.name + DAMAGED))
                made.replace(path)
            finally:
                made.unlink(missing_ok=True)
    return lost


def missing_events(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Say for each stream which events are not there, by their numbers and the stop document."""
    seen: dict[str, set[int]] = {}
    streams: dict[str, str] = {}
    orphans = 0
    announced: Mapping[str, int] = {}
    for name, doc in documents:
        if name == "descriptor":
            streams[doc["uid"]] = doc.get("name", "primary")
            seen.setdefault(streams[doc["uid"]], set())
        elif name in ("event", "event_page"):
            numbers = [doc["seq_num"]] if name == "event" else doc["seq_num"]
            if doc["descriptor"] in streams:
                seen[streams[doc["descriptor"]]].update(numbers)
            else:
                orphans += len(numbers)
        elif name == "stop":
            announced = doc.get("num_events") or {}
    said = [f"{orphans} events belong to a descriptor that is lost"] if orphans else []
    for stream, numbers in seen.items():
        # A stream of frames alone has no events, only their number.
        last = max([announced.get(stream, 0), *numbers]) if numbers else 0
        missing = sorted(set(range(1, last + 1)) - numbers)
        if missing:
            some = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            said.append(
                f"stream {stream!r}: {len(missing)} of {last} events are not in the journal "
                f"({some})"
            )
    return said


def _copy_sound(reader: JournalReader, made: Path) -> None:
    with made.open("wb") as stream:
        stream.write(MAGIC)
        last = stream.tell()
        for payload in reader.payloads():
            last = stream.tell()
            stream.write(framed(payload))
        if reader.stop() is not None:
            stream.write(footer(last))
        stream.flush()
        os.fsync(stream.fileno())


def _keep(path: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    try:
        place.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, place)


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
    with _changing(path) as stream:
        return _append_stop(stream, path)


@contextmanager
def _changing(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("r+b", buffering=0) as stream:
            _lock(stream, path)
            yield stream
    except JournalError:
        raise
    except OSError as error:
        raise JournalError(
            f"cannot complete the journal {path}: {error.strerror or error}; make room, or allow "
            "writing, and try again."
        ) from error


def _lock(stream: BinaryIO, path: Path) -> None:
    try:
        lock(stream)
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
