"""Order of the points of a mesh scan: from sequence number to place in the grid and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

__all__ = ["GridOrder", "grid_of", "nominal_positions"]

#: A grid with more points than this is no scan but a slip in the metadata.
_MOST_POINTS = 2**31


@dataclass(frozen=True, slots=True)
class GridOrder:
    """The path of a scan through a rectangular grid, first axis slowest.

    Attributes
    ----------
    shape
        Points along each axis.
    snaking
        For each axis, whether every second pass along it goes backwards.
    """

    shape: tuple[int, ...]
    snaking: tuple[bool, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    def places(self, points: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Flat (C order) places in the grid of points (N,), counted from 0 as they are visited."""
        flat = np.zeros(points.shape, dtype=np.int64)
        for axis, (count, snaking) in enumerate(zip(self.shape, self.snaking, strict=True)):
            repeats = math.prod(self.shape[axis + 1 :])
            step = points // repeats
            index = step % count
            if snaking:
                index = np.where((step // count) % 2 == 1, count - 1 - index, index)
            flat += index * repeats
        return flat


def grid_of(start: Mapping[str, Any], fields: Sequence[str]) -> GridOrder | None:
    """Return the grid that a start document describes, or None if the run is not a mesh.

    Parameters
    ----------
    start
        With ``shape`` and, where the scan is snaked, ``snaking``, as bluesky's ``grid_scan`` has
        them; ``hints.gridding``, if given, must be "rectilinear" (a spiral visits the points of a
        grid in another order).
    fields
        The data key of each dimension.
    """
    hints = start.get("hints")
    gridding = hints.get("gridding", "rectilinear") if isinstance(hints, Mapping) else "rectilinear"
    shape, snaking = start.get("shape"), start.get("snaking")
    if gridding != "rectilinear" or not _is_list(shape) or not 2 <= len(shape) == len(fields):
        return None
    if not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        return None
    if math.prod(shape) > _MOST_POINTS or start.get("num_points", math.prod(shape)) != math.prod(
        shape
    ):
        return None
    if not _is_list(snaking) or len(snaking) != len(shape):
        snaking = [False] * len(shape)
    return GridOrder(tuple(int(n) for n in shape), tuple(bool(s) for s in snaking))


def nominal_positions(start: Mapping[str, Any], order: GridOrder) -> list[npt.NDArray[np.float64]]:
    """Positions (n,) of each axis, from ``plan_args`` for a list scan, else from ``extents``.

    Axes of which nothing is known are numbered from 0.
    """
    lists = _position_lists(start, order)
    extents: Any = start.get("extents")
    positions = []
    for axis, count in enumerate(order.shape):
        try:
            if lists is not None:
                positions.append(lists[axis])
            else:
                low, high = extents[axis]
                positions.append(np.linspace(float(low), float(high), count))
        except (TypeError, ValueError, IndexError, KeyError):
            positions.append(np.arange(count, dtype=np.float64))
    return positions


def _position_lists(
    start: Mapping[str, Any], order: GridOrder
) -> list[npt.NDArray[np.float64]] | None:
    # bluesky's list_grid_scan: args = [motor, [positions], motor, [positions], …].
    plan_args = start.get("plan_args")
    args = plan_args.get("args") if isinstance(plan_args, Mapping) else None
    if not _is_list(args) or len(args) != 2 * len(order.shape):
        return None
    try:
        lists = [np.asarray(item, dtype=np.float64) for item in args[1::2]]
    except (TypeError, ValueError):
        return None
    if any(item.shape != (n,) for item, n in zip(lists, order.shape, strict=True)):
        return None
    return lists


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)
