"""What a file that was cut off has and the file that takes its place has not."""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np

__all__ = ["missing_from"]

_ROWS = 65536


def missing_from(
    part: str | os.PathLike[str], whole: str | os.PathLike[str], *, replaced: int = 0
) -> list[str]:
    """Return what would be lost if `whole` took the place of `part`.

    Parameters
    ----------
    part
        HDF5 file of a writer that was killed.
    whole
        The file made anew.
    replaced
        So many rows may differ: points that were taken again after `part` had them.

    Returns
    -------
    list[str]
        One sentence per data set that is missing, shorter or different in `whole`; empty if
        nothing would be lost.

    Raises
    ------
    OSError
        If one of them can't be opened.
    """
    problems: list[str] = []
    with h5py.File(part, "r", locking=False) as old, h5py.File(whole, "r", locking=False) as new:

        def look(name: str, node: Any) -> None:
            if not isinstance(node, h5py.Dataset) or node.is_virtual:
                return
            other = new.get(name)
            if not isinstance(other, h5py.Dataset):
                problems.append(f"/{name} is missing.")
            elif problem := _lost(node, other, replaced):
                problems.append(f"/{name} {problem}")

        old.visititems(look)
    return problems


def _lost(old: Any, new: Any, replaced: int) -> str | None:
    if old.ndim == 0 or old.maxshape == old.shape:
        # Written once; what is settled at the end (a grid, a number of rows) may have changed.
        return None
    if new.ndim == 0 or new.shape[0] < old.shape[0]:
        rows = new.shape[0] if new.ndim else 1
        return f"has {rows} rows, the file that was cut off has {old.shape[0]}."
    if old.shape[1:] != new.shape[1:] or old.dtype.kind not in "iufb" or new.dtype != old.dtype:
        return None
    different = 0
    step = max(1, _ROWS // max(1, int(np.prod(old.shape[1:]))))
    for first in range(0, old.shape[0], step):
        rows = slice(first, min(first + step, old.shape[0]))
        a, b = old[rows], new[rows]
        same = a == b
        if a.dtype.kind == "f":
            # A row that was never written, or is derived when all is known.
            same |= np.isnan(a)
        different += int(np.count_nonzero(~same.reshape(len(a), -1).all(axis=1)))
    if different > replaced:
        return f"differs in {different} rows of {old.shape[0]}."
    return None
