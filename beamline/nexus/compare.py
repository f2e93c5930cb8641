"""Comparison of two HDF5 files: their groups, data sets, attributes and links, not their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.core.errors import FileFormatError

__all__ = ["compare_files"]


def compare_files(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> list[str]:
    """Compare two files.

    Equal are: the paths of all groups and data sets; types, shapes and values (NaN equals NaN);
    attributes; links into other files, by the file that they lead to, not by how they say it.
    Chunks and compression may differ. Nothing else is left out: a file of a run is made from its
    documents alone, so that the live file and a replayed one must be equal in all of this.

    Parameters
    ----------
    first, second
        Paths.

    Returns
    -------
    list[str]
        One sentence per difference; empty if there is none.

    Raises
    ------
    FileFormatError
        If one of them is not an HDF5 file that can be opened.
    """
    with _open(first) as left, _open(second) as right:
        return list(_compare_groups(left, right, ""))


def _open(path: str | os.PathLike[str]) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"cannot open {path} as an HDF5 file: {error}.") from None


def _compare_groups(left: Any, right: Any, path: str) -> Iterator[str]:
    yield from _compare_attributes(left, right, path or "/")
    for name in sorted({*left, *right}):
        here = f"{path}/{name}"
        if name not in left or name not in right:
            which = "first" if name in left else "second"
            yield f"{here} is only in the {which} file."
            continue
        links = left.get(name, getlink=True), right.get(name, getlink=True)
        if type(links[0]) is not type(links[1]):
            kinds = " and ".join(type(link).__name__ for link in links)
            yield f"{here} is a different kind of link: {kinds}."
        elif isinstance(links[0], h5py.HardLink):
            yield from _compare_nodes(left[name], right[name], here)
        else:
            targets = _target(links[0], left), _target(links[1], right)
            if targets[0] != targets[1]:
                yield f"{here} leads to {targets[0]} and to {targets[1]}."


def _target(link: Any, group: Any) -> str:
    if isinstance(link, h5py.ExternalLink):
        folder = Path(group.file.filename).resolve().parent
        return f"{Path(folder, link.filename).resolve()}:{link.path}"
    return str(link.path)


def _compare_nodes(left: Any, right: Any, path: str) -> Iterator[str]:
    if type(left) is not type(right):
        yield f"{path} is a {type(left).__name__} and a {type(right).__name__}."
    elif isinstance(left, h5py.Group):
        yield from _compare_groups(left, right, path)
    else:
        yield from _compare_attributes(left, right, path)
        if left.shape != right.shape or left.dtype != right.dtype:
            yield (
                f"{path} is {left.dtype} {left.shape} in the first file and {right.dtype} "
                f"{right.shape} in the second."
            )
        else:
            yield from _compare_values(left, right, path)


def _compare_values(left: Any, right: Any, path: str) -> Iterator[str]:
    # Block by block: a stack of frames may be larger than memory.
    step = max(1, left.chunks[0]) * 64 if left.chunks else None
    if left.ndim == 0 or step is None:
        pairs = [(left[()], right[()])]
        blocks: Iterator[tuple[Any, Any]] = iter(pairs)
    else:
        blocks = (
            (left[row : row + step], right[row : row + step])
            for row in range(0, left.shape[0], step)
        )
    different = sum(_count_different(a, b) for a, b in blocks)
    if different:
        yield f"{path} differs in {different} of {left.size} values."


def _compare_attributes(left: Any, right: Any, path: str) -> Iterator[str]:
    for name in sorted({*left.attrs, *right.attrs}):
        if name not in left.attrs or name not in right.attrs:
            which = "first" if name in left.attrs else "second"
            yield f"{path}@{name} is only in the {which} file."
            continue
        a, b = np.asarray(left.attrs[name]), np.asarray(right.attrs[name])
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind or _count_different(a, b):
            yield f"{path}@{name} is {left.attrs[name]!r} and {right.attrs[name]!r}."


def _count_different(a: Any, b: Any) -> int:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "O":
        pairs = zip(a.ravel(), b.ravel(), strict=True)
        return sum(
            not (np.array_equal(x, y, equal_nan=x.dtype.kind == "f"))
            if isinstance(x, np.ndarray)
            else x != y
            for x, y in pairs
        )
    same = a == b
    if a.dtype.kind in "fc":
        same |= np.isnan(a) & np.isnan(b)
    return int(a.size - np.count_nonzero(same))
