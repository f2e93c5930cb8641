"""Is a frame file whole? Rows, frame numbers, and chunks that were never written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.validation.findings import Report

__all__ = ["ATTRIBUTES", "check_frames"]

#: What is recorded of every frame, one row each.
ATTRIBUTES = "/entry/instrument/NDAttributes"
_DATA = ("/entry/data/data", "/entry/instrument/detector/data")


def check_frames(path: Path) -> Report:
    """Check a file of the area detector."""
    report = Report("frames")
    with h5py.File(path, "r", locking=False) as file:
        rows = {name: len(column) for name, column in file[ATTRIBUTES].items() if column.ndim}
        number = min(rows.values(), default=0)
        report.add(_incomplete(file), f"complete, with {number} frames")
        report.add(_uneven(file, rows), "every frame has its number, time and energy")
        report.add(_never_written(file), "every row of the frames was written")
    return report


def _incomplete(file: Any) -> Iterator[str]:
    if not int(file.attrs.get("complete", 0)) and "repaired" not in file.attrs:
        yield "the attribute complete is 0: the file is growing, or its writer was killed."


def _uneven(file: Any, rows: dict[str, int]) -> Iterator[str]:
    if len(set(rows.values())) > 1:
        said = ", ".join(f"{name} {number}" for name, number in rows.items())
        yield f"the columns in {ATTRIBUTES} must have as many rows as there are frames: {said}."
    data = _frames(file)
    number = max(rows.values(), default=0)
    if data is not None and data.shape[0] != number:
        yield f"{data.name} has {data.shape[0]} rows, {ATTRIBUTES} has {number}."
    if "NDArrayUniqueId" in rows:
        steps = np.diff(file[f"{ATTRIBUTES}/NDArrayUniqueId"][()])
        if len(steps) and (steps != 1).any():
            first = int(np.flatnonzero(steps != 1)[0])
            yield (
                f"frame numbers must follow each other, {np.count_nonzero(steps != 1)} do not, the "
                f"first after row {first}."
            )


def _never_written(file: Any) -> Iterator[str]:
    data = _frames(file)
    if data is None or data.chunks is None or not data.size:
        return
    expected = int(np.prod([-(-s // c) for s, c in zip(data.shape, data.chunks, strict=True)]))
    found = data.id.get_num_chunks()
    if found < expected:
        yield f"{expected - found} of {expected} chunks of {data.name} were never written."


def _frames(file: Any) -> Any | None:
    for name in _DATA:
        node = file.get(name)
        if isinstance(node, h5py.Dataset) and node.ndim >= 3:
            return node
    return None
