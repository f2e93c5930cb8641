"""The pixels of a correlation: which there are, and what is averaged with what.

A *static bin* is so narrow that the mean intensity is the same all over it; intensities are
normalised by it. A *dynamic bin* holds the static bins in which the sample moves equally fast. A
*block* is a patch of neighbouring pixels of a dynamic bin, much larger than a speckle, so that
blocks are independent; errors are made of their scatter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import CorrelationError
from beamline.xpcs.adapters import host_array

__all__ = ["Bins", "Cells"]

#: Blocks per dynamic bin: so many, if they hold so many pixels.
_BLOCKS = 64
_LEAST_BLOCKS = 12
_BLOCK_PIXELS = 100


@dataclass(frozen=True, eq=False)
class Cells:
    """What a block and a static bin have in common: all that a result needs are sums over cells.

    Attributes
    ----------
    cell
        Cell of each pixel, int32 (n,), from 0.
    static, block
        Static bin and block of each cell, int32, from 0; numbered over all dynamic bins.
    block_dynamic
        Dynamic bin of each block, int32.
    """

    cell: npt.NDArray[np.int32]
    static: npt.NDArray[np.int32]
    block: npt.NDArray[np.int32]
    block_dynamic: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Bins:
    """Labels of the pixels that take part, in the order of the flattened frame.

    A static bin that reaches into two dynamic bins counts as two.

    Attributes
    ----------
    shape
        (H, W) of a frame.
    pixels
        Flat indices of the pixels that take part, int64 (n,), increasing.
    n_dynamic
        Number of dynamic bins, those without pixels included.
    dynamic
        Dynamic bin of each pixel, int32 (n,), from 0.
    static
        Static bin of each pixel, int32 (n,), from 0; numbered over all dynamic bins.
    static_dynamic
        Dynamic bin of each static bin, int32.
    """

    shape: tuple[int, int]
    pixels: npt.NDArray[np.int64]
    n_dynamic: int
    dynamic: npt.NDArray[np.int32]
    static: npt.NDArray[np.int32]
    static_dynamic: npt.NDArray[np.int32]

    @classmethod
    def from_maps(cls, dynamic_roi_map: npt.ArrayLike, static_roi_map: npt.ArrayLike) -> Bins:
        """Take the maps of a partition.

        Parameters
        ----------
        dynamic_roi_map, static_roi_map
            (H, W) integers: 0 is masked, labels count from 1. A pixel that either map masks is left
            out.

        Raises
        ------
        CorrelationError
            If the maps differ in shape, hold no labels, or mask every pixel.
        """
        dynamic_map = _labels(dynamic_roi_map, "dynamic_roi_map")
        static_map = _labels(static_roi_map, "static_roi_map")
        if dynamic_map.shape != static_map.shape:
            raise CorrelationError(
                f"dynamic_roi_map has shape {dynamic_map.shape}, static_roi_map "
                f"{static_map.shape}: expected maps of the same frame."
            )
        pixels = np.flatnonzero((dynamic_map > 0) & (static_map > 0))
        if not len(pixels):
            raise CorrelationError(
                f"the maps of {dynamic_map.shape[0]} × {dynamic_map.shape[1]} pixels mask every "
                "pixel (0), expected some with a label from 1 in both; check mask and partition."
            )
        dynamic = dynamic_map.ravel()[pixels] - 1
        static_dynamic, static = _pairs(dynamic, static_map.ravel()[pixels])
        return cls(
            shape=(dynamic_map.shape[0], dynamic_map.shape[1]),
            pixels=pixels.astype(np.int64),
            n_dynamic=int(dynamic_map.max()),
            dynamic=dynamic.astype(np.int32),
            static=static,
            static_dynamic=static_dynamic,
        )

    @cached_property
    def cells(self) -> Cells:
        """The pixels cut into blocks, which takes a while and is done when it is needed."""
        dynamic = self.dynamic.astype(np.int64)
        blocks = _blocks(dynamic, self.static, self.pixels, self.shape[1])
        block_dynamic, block = _pairs(dynamic, blocks)
        static, own_block, cell = _crossed(self.static, block)
        return Cells(cell=cell, static=static, block=own_block, block_dynamic=block_dynamic)

    def check_frames(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return frames as (n, H, W).

        Raises
        ------
        CorrelationError
            If the shape is not (n, H, W) or (H, W) of the maps.
        """
        if frames.ndim == 2:
            frames = frames[None]
        if frames.ndim != 3 or frames.shape[1:] != self.shape:
            raise CorrelationError(
                f"frames have shape {frames.shape}, expected (n, {self.shape[0]}, "
                f"{self.shape[1]}) or ({self.shape[0]}, {self.shape[1]}) as the maps have it."
            )
        return frames


def _labels(array: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    labels = host_array(array)
    if labels.ndim != 2 or not labels.size:
        raise CorrelationError(f"{name} has shape {labels.shape}, expected (H, W).")
    if labels.dtype == bool:
        labels = labels.astype(np.int64)
    if not np.issubdtype(labels.dtype, np.integer):
        raise CorrelationError(f"{name} holds {labels.dtype}, expected integer labels.")
    if labels.min() < 0:
        raise CorrelationError(
            f"{name} holds the label {labels.min()}, expected 0 (masked) or labels from 1."
        )
    return labels.astype(np.int64)


def _pairs(
    outer: npt.NDArray[np.int64], inner: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the outer label of each distinct pair of labels, and the pair of each pixel."""
    width = int(inner.max()) + 1
    codes, numbers = _distinct(outer * width + inner)
    return (codes // width).astype(np.int32), numbers


def _distinct(
    codes: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the distinct codes in order, and which of them each one is."""
    if int(codes.max()) > 8 * len(codes):
        distinct, numbers = np.unique(codes, return_inverse=True)
        return distinct, numbers.astype(np.int32)
    # Few enough for a table, which is much faster than to sort them.
    there = np.bincount(codes) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1).astype(np.int32)[codes]


def _crossed(
    static: npt.NDArray[np.int32], block: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    width = int(block.max()) + 1
    codes, cell = _distinct(static.astype(np.int64) * width + block)
    cell_static, cell_block = np.divmod(codes, width)
    return cell_static.astype(np.int32), cell_block.astype(np.int32), cell


def _blocks(
    dynamic: npt.NDArray[np.int64],
    static: npt.NDArray[np.int32],
    pixels: npt.NDArray[np.int64],
    width: int,
) -> npt.NDArray[np.int64]:
    """Cut each dynamic bin into patches of pixels that are close to each other.

    Pixels are sorted along G. M. Morton's curve, on which neighbours stay together. Each static bin
    is cut alike, so that every block has its share of it: neighbouring rings are cut into sectors.
    """
    ss, fs = np.divmod(pixels, width)
    order = np.lexsort((_spread(ss) << 1 | _spread(fs), static))
    sizes = np.bincount(static)
    rank = np.empty(len(pixels), dtype=np.int64)
    rank[order] = np.arange(len(pixels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    per_dynamic = np.clip(np.bincount(dynamic) // _BLOCK_PIXELS, _LEAST_BLOCKS, _BLOCKS)
    return host_array(rank * per_dynamic[dynamic] // sizes[static], dtype=np.int64)


def _spread(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Put a zero bit before each bit of a number below 2³¹."""
    spread = values.astype(np.uint64)
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        spread = (spread | spread << np.uint64(shift)) & np.uint64(mask)
    return spread.astype(np.int64)
