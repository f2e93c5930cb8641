"""A map of mineral grains: how thick a sample is, from place to place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FULL", "grain_map"]

#: Value of a pixel where all of the sample's thickness is.
FULL = 255
#: Share of the grains that are holes, and the thinnest of the others.
_HOLES, _THINNEST = 0.3, 0.25


def grain_map(shape: tuple[int, int], grains: int, seed: int) -> npt.NDArray[np.uint16]:
    """Relative thickness of a section through grains: a Voronoi diagram of random sites.

    Parameters
    ----------
    shape
        Rows and columns.
    grains
        Number of grains, holes included.
    seed
        The same seed gives the same map.

    Returns
    -------
    ndarray
        uint16, `shape`, 0 to `FULL`.
    """
    rng = np.random.default_rng(seed)
    sites = rng.random((grains, 2)) * shape
    thickness = np.where(
        rng.random(grains) < _HOLES, 0.0, _THINNEST + (1.0 - _THINNEST) * rng.random(grains)
    )
    thickness[0] = 1.0
    rows, columns = np.indices(shape) + 0.5
    distance = (rows[..., None] - sites[:, 0]) ** 2 + (columns[..., None] - sites[:, 1]) ** 2
    return np.rint(FULL * thickness[distance.argmin(axis=-1)]).astype(np.uint16)
