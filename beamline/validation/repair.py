"""Repair of files that killed writers have left; the original goes only when that is done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.core.disk import sync, written_now
from beamline.core.errors import FileFormatError, StorageError
from beamline.crystallography.cxi import IN_PROGRESS
from beamline.documents.mending import complete_journal, mend_journal
from beamline.validation.check import kind_of
from beamline.validation.frames import ATTRIBUTES
from beamline.validation.superblock import clear_flags

__all__ = ["REASON", "repair_file"]

REASON = "the process that wrote the file ended before the run had stopped; repaired since"

_TEXT = h5py.string_dtype()
_STREAMS = "entry/bluesky/streams"
_ENDINGS = (".part", IN_PROGRESS)


def repair_file(path: Path) -> tuple[Path, list[str]]:
    """Repair the file of a writer that was killed.

    The marks of a killed writer are cleared, columns that belong together are cut to the rows that
    all of them have, and the file is labelled: ``exit_status`` "fail" and a reason, where there is
    none. ``NAME.part`` and ``NAME.inprogress`` become NAME. A journal loses its damaged records and
    gets its stop document.

    Parameters
    ----------
    path
        The file. It is changed by nothing but an atomic rename.

    Returns
    -------
    tuple of (Path, list[str])
        The repaired file, and what was done; an empty list if there was nothing to do.

    Raises
    ------
    FileFormatError
        If it can't be repaired; it is as it was.
    StorageError
        If a process is writing it, its final name is taken, or there is no space.
    """
    if kind_of(path) == "journal":
        done = [f"damaged records were left out: {damage}" for damage in mend_journal(path)]
        if complete_journal(path) is not None:
            done.append("a stop document was added")
        return path, done
    place = path
    for ending in _ENDINGS:
        place = place.with_name(place.name.removesuffix(ending))
    if place != path and place.exists():
        raise StorageError(f"{path} cannot become {place}: there is such a file; move it away.")
    if written_now(path):
        raise StorageError(f"{path} is being written: it is left as it is.")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".repair-") as folder:
            copy = Path(folder) / place.name
            shutil.copyfile(path, copy)
            shutil.copymode(path, copy)
            done = _repair(copy, path)
            if place != path:
                done.append(f"renamed to {place.name}")
            if not done:
                return path, done
            sync(copy)
            copy.replace(place)
            sync(place.parent)
    except (FileFormatError, StorageError):
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        raise FileFormatError(
            f"{path} cannot be repaired ({said}): it is as it was; 'beamline recover' or 'beamline "
            "replay' make it again from the journal."
        ) from error
    if place != path:
        path.unlink()
    return place, done


def _repair(copy: Path, original: Path) -> list[str]:
    done = ["the marks of the killed writer were cleared"] if clear_flags(copy) else []
    moment = datetime.fromtimestamp(original.stat().st_mtime, tz=UTC).isoformat()
    # The versions that the writers use: anybody can read them.
    with h5py.File(copy, "r+", libver=("earliest", "v110"), locking=False) as file:
        if "cxi_version" in file:
            done += _repair_cxi(file, moment)
        elif ATTRIBUTES in file and "complete" in file.attrs:
            done += _repair_frames(file)
        else:
            done += _repair_nexus(file, moment)
    with h5py.File(copy, "r", locking=False) as file:
        file.visititems(lambda _name, _node: None)
    return done


def _repair_nexus(file: Any, moment: str) -> list[str]:
    done: list[str] = []
    while cut := [line for columns in _together(file) for line in _cut(columns)]:
        # A column may belong to several: what one has cut may be too long in another.
        done += cut
    for entry in file.values():
        if not isinstance(entry, h5py.Group) or entry.attrs.get("NX_class") != "NXentry":
            continue
        # Files of other programs may know nothing of these: then they are not unfinished.
        if "start_time" in entry and "end_time" not in entry:
            for name, text in (("end_time", moment), ("exit_status", "fail"), ("reason", REASON)):
                if name not in entry:
                    entry.create_dataset(name, data=text, dtype=_TEXT)
            done.append(f"{entry.name} was labelled as failed")
    return done


def _together(file: Any) -> Iterator[list[Any]]:
    """Yield columns that must be of one length: a stream's, a plot's, and a log's."""
    for stream in file.get(_STREAMS, {}).values():
        yield _growing_below(stream)
    groups: list[Any] = []
    file.visititems(lambda _, node: groups.append(node) if isinstance(node, h5py.Group) else None)
    for group in groups:
        kind = group.attrs.get("NX_class", "")
        names: list[str] = []
        if kind == "NXlog":
            names = ["time", "value", "raw_value"]
        elif kind == "NXdata" and "signal" in group.attrs:
            names = [
                group.attrs["signal"],
                *np.atleast_1d(group.attrs.get("axes", [])),
                *np.atleast_1d(group.attrs.get("auxiliary_signals", [])),
            ]
        # Frames lie in other files, whose rows are not ours to cut.
        links = [group.get(name, getlink=True) for name in names if name in group]
        kept = [name for name in names if name in group]
        columns = [
            group[name]
            for name, link in zip(kept, links, strict=True)
            if isinstance(link, h5py.HardLink)
        ]
        growing = [
            column
            for column in columns
            if isinstance(column, h5py.Dataset) and column.ndim and column.maxshape[0] is None
        ]
        if len(growing) > 1:
            yield growing


def _growing_below(group: Any) -> list[Any]:
    growing: list[Any] = []
    group.visititems(
        lambda _, node: (
            growing.append(node)
            if isinstance(node, h5py.Dataset) and node.ndim and node.maxshape[0] is None
            else None
        )
    )
    return growing


def _repair_cxi(file: Any, moment: str) -> list[str]:
    done = _cut(_growing_below(file))
    entry = file["entry_1"]
    status = entry.get("exit_status")
    if status is None or status.asstr()[()] == "running":
        for name, text in (("end_time", moment), ("exit_status", "fail"), ("reason", REASON)):
            if name in entry:
                del entry[name]
            entry.create_dataset(name, data=text, dtype=_TEXT)
        done.append("labelled as failed")
    return done


def _repair_frames(file: Any) -> list[str]:
    columns = [column for column in file[ATTRIBUTES].values() if column.ndim]
    data = file.get("entry/data/data")
    frames = [data] if isinstance(data, h5py.Dataset) and data.ndim >= 3 else []
    done = _cut([*columns, *frames])
    if not int(file.attrs["complete"]) and "repaired" not in file.attrs:
        file.attrs["repaired"] = REASON
        done.append("labelled as repaired")
    return done


def _cut(columns: list[Any]) -> list[str]:
    """Cut columns to the rows that all of them have."""
    lengths = [len(column) for column in columns]
    if not lengths or min(lengths) == max(lengths):
        return []
    rows = min(lengths)
    for column in columns:
        column.resize(rows, axis=0)
    longest = columns[lengths.index(max(lengths))].name
    return [f"{longest} and others were cut to the {rows} rows that all have"]
