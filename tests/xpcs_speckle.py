"""Speckle whose truth is known: Gaussian fields that forget exponentially, drawn directly."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["partition", "q_of", "speckle"]


def q_of(side: int) -> npt.NDArray[np.float64]:
    """Momentum transfer of each pixel, 1/nm: 0.001 per pixel from a corner."""
    ss, fs = np.indices((side, side))
    return 1e-3 * np.hypot(ss + side / 2, fs + side / 2)


def partition(side: int, n_dynamic: int = 4, per_dynamic: int = 4):
    """Return dynamic and static maps of rings of equal width, and the mean q of dynamic bins."""
    q = q_of(side)
    n_static = n_dynamic * per_dynamic
    edges = np.linspace(q.min(), q.max() * (1 + 1e-12), n_static + 1)
    static = np.digitize(q, edges)
    dynamic = (static - 1) // per_dynamic + 1
    means = [np.sqrt((q[dynamic == d] ** 2).mean()) for d in range(1, n_dynamic + 1)]
    return dynamic, static, np.array(means)


def speckle(
    side: int,
    frames: int,
    mean: float,
    rate: npt.NDArray[np.float64],
    seed: int,
    size: float = 0.0,
) -> Iterator[npt.NDArray[np.uint16]]:
    """Yield frames of Poisson counts.

    Parameters
    ----------
    mean
        Counts per pixel and frame, the same everywhere.
    rate
        (side, side): g2 − 1 decays with exp(−2·rate·frames).
    size
        Speckle size, px: standard deviation of the filter that makes neighbours alike.
    """
    rng = np.random.default_rng(seed)

    def draw():
        field = rng.normal(size=(2, side, side)) * np.sqrt(0.5)
        if size:
            field = ndimage.gaussian_filter(field, (0, size, size), mode="wrap")
            field *= np.sqrt(0.5) / field.std()
        return field

    keep = np.exp(-rate)
    fresh = np.sqrt(1.0 - keep**2)
    field = draw()
    for _ in range(frames):
        yield rng.poisson(mean * (field**2).sum(axis=0)).astype(np.uint16)
        field = keep * field + fresh * draw()
