"""Frames of several files as one virtual data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from beamline.nexus.tree import Virtual

__all__ = ["fill_value", "virtual_layout"]


def fill_value(dtype: np.dtype[Any]) -> Any:
    """Choose what is read where a source has gone: NaN, or an end of the range of integers."""
    if dtype.kind == "f":
        return np.nan
    information = np.iinfo(dtype)
    return information.max if dtype.kind == "u" else information.min


def virtual_layout(node: Virtual, name_of: Callable[[str], str]) -> tuple[Any, np.dtype[Any]]:
    """Lay out frames of several files, after looking whether they are there.

    Parameters
    ----------
    node
        Files and rows.
    name_of
        Makes the name by which a file is to be found.

    Returns
    -------
    h5py.VirtualLayout
        Of shape (rows, ...).
    dtype
        Of the frames.

    Raises
    ------
    OSError, KeyError, ValueError
        If a file or its data set can't be opened, has too few rows, or differs from the others.
    """
    parts: list[tuple[Any, int, int]] = []
    kinds: set[tuple[np.dtype[Any], tuple[int, ...]]] = set()
    for source in node.sources:
        with h5py.File(source.file, "r", locking=False) as file:
            frames = file[source.dataset]
            rows, shape, dtype = frames.shape[0], frames.shape, frames.dtype
        stop = rows if source.stop is None else source.stop
        if stop > rows:
            raise ValueError(f"{source.file} has {rows} rows where the documents refer to {stop}")
        if dtype.kind not in "iuf":
            raise ValueError(f"{source.file} holds {dtype}, which is no type of frames")
        kinds.add((dtype, shape[1:]))
        parts.append(
            (h5py.VirtualSource(name_of(source.file), source.dataset, shape), source.start, stop)
        )
    if len(kinds) != 1:
        raise ValueError(f"expected frames of one type and shape, found {len(kinds)}")
    ((dtype, frame),) = kinds
    layout = h5py.VirtualLayout((sum(stop - start for _, start, stop in parts), *frame), dtype)
    row = 0
    for frames, start, stop in parts:
        layout[row : row + stop - start] = frames[start:stop]
        row += stop - start
    return layout, dtype
