"""The grid on which the points of a mesh scan lie, found from the positions alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Mesh", "find_mesh"]

#: Part of a step by which positions of one row may differ.
_TOLERANCE = 0.2


class Mesh(NamedTuple):
    """A rectangular grid in the order in which it was scanned.

    Attributes
    ----------
    order
        Which of the motors is the slow one and which the fast one.
    shape, extents, snaking
        As in a start document, the slow motor first.
    """

    order: tuple[int, int]
    shape: tuple[int, int]
    extents: tuple[tuple[float, float], tuple[float, float]]
    snaking: tuple[bool, bool]


def find_mesh(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Mesh | None:
    """Find the grid of two motors from their positions (N,); None if they lie on none."""
    positions = [np.asarray(p, dtype=np.float64) for p in (first, second)]
    count = positions[0].size
    if count < 4 or not all(np.isfinite(p).all() for p in positions):
        return None
    for order in ((0, 1), (1, 0)):
        slow, fast = positions[order[0]], positions[order[1]]
        for width in range(2, count // 2 + 1):
            if count % width == 0 and (mesh := _grid(slow, fast, width, order)) is not None:
                return mesh
    return None


def _grid(
    slow: npt.NDArray[np.float64],
    fast: npt.NDArray[np.float64],
    width: int,
    order: tuple[int, int],
) -> Mesh | None:
    rows = slow.reshape(-1, width)
    means = rows.mean(axis=1)
    steps = np.abs(np.diff(means))
    if not steps.min() > 0 or np.ptp(rows, axis=1).max() > _TOLERANCE * steps.min():
        return None
    columns = fast.reshape(-1, width)
    step = np.abs(np.diff(columns[0])).min()
    if not step > 0:
        return None
    for snaking in (False, True):
        straight = columns.copy()
        if snaking:
            straight[1::2] = straight[1::2, ::-1]
        if np.ptp(straight, axis=0).max() <= _TOLERANCE * step:
            ends = straight.mean(axis=0)
            extents = (
                (float(means[0]), float(means[-1])), (float(ends[0]), float(ends[-1])),
            )  # fmt: skip
            return Mesh(order, (means.size, width), extents, (False, snaking))
    return None
