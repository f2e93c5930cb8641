"""What `beamline.crystallography.event_peaks` does without a compiler: SciPy's graphs.

SciPy is imported where it is used: every process of cxi-writer starts half a second earlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CLIP", "HALF_WINDOW", "Components", "Frame", "find_components"]

#: Half the side of the square around a peak that holds its background, px.
HALF_WINDOW = 7
#: Pixels so many standard deviations above the mean of the background don't belong to it.
CLIP = 5.0

#: Rows and columns of the panel within the logits: top, bottom, left, right.
Frame = tuple[int, int, int, int]


@dataclass(frozen=True)
class Components:
    """The components of an event, in any order; arrays of shape (n,).

    Attributes
    ----------
    panel, n_pixels
        int64.
    at_edge
        Whether the brightest pixel is at the edge of the panel or beside a bad pixel.
    sums
        float64 (n, 7): sums of weight * fs, weight * ss, of the weights, net total; maximum;
        variance of the background times the number of pixels (NaN without background); sum of
        probabilities. Of components that are too small only `n_pixels` counts.
    in_padding, masked_pixels
        As in `EventPeaks`.
    nan, first_nan
        Pixels whose logits are NaN, and the flat index (panel, ss, fs) of the first.
    """

    panel: npt.NDArray[np.int64]
    n_pixels: npt.NDArray[np.int64]
    at_edge: npt.NDArray[np.bool_]
    sums: npt.NDArray[np.float64]
    in_padding: int
    masked_pixels: int
    nan: int
    first_nan: int


def find_components(
    logits: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    frame: Frame,
    shift: tuple[int, int],
    connectivity: int,
    min_pixels: int,
    gain: float,
) -> Components:
    """Find and measure the components of an event; all arguments as the kernels take them."""
    from scipy import special

    top, bottom, left, right = frame
    peak = logits[:, 1] > logits[:, 0]
    nan = np.flatnonzero(~(peak | (logits[:, 1] <= logits[:, 0])))
    on_panel = np.zeros(peak.shape, dtype=np.bool_)
    on_panel[:, top:bottom, left:right] = True
    in_padding = _join(peak & ~on_panel, connectivity)[2]
    mask = peak[:, top:bottom, left:right]
    pixels = images[:, top + shift[0] : bottom + shift[0], left + shift[1] : right + shift[1]]
    good = np.isfinite(pixels)
    if len(valid):
        good &= valid
    where, which, number = _join(mask & good, connectivity)
    panel, ss, fs = where
    value = pixels[where].astype(np.float64)
    frames = logits[:, :, top:bottom, left:right].astype(np.float64)
    probability = special.expit(frames[panel, 1, ss, fs] - frames[panel, 0, ss, fs])

    def add(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(which, values, number).astype(np.float64, copy=False)

    n_pixels = np.bincount(which, minlength=number)
    maximum = np.full(number, -np.inf)
    np.maximum.at(maximum, which, value)
    brightest = np.flatnonzero(value == maximum[which])[::-1]
    first = np.zeros(number, np.intp)
    first[which[brightest]] = brightest
    level, variance = np.full((2, number), np.nan)
    large = n_pixels >= min_pixels
    centre = first[large]
    level[large], variance[large] = _background(
        pixels, good, mask & good, (panel[centre], ss[centre], fs[centre]), gain
    )
    framed = np.pad(good, ((0, 0), (1, 1), (1, 1)))
    beside = [
        framed[panel[first], ss[first] + down, fs[first] + across]
        for down in range(3)
        for across in range(3)
    ]
    net = value - level[which]
    weight = np.maximum(net, 0.0)
    return Components(
        panel=panel[first],
        n_pixels=n_pixels,
        at_edge=~np.logical_and.reduce(beside),
        sums=np.stack(
            [
                add(weight * fs),
                add(weight * ss),
                add(weight),
                add(net),
                maximum,
                variance * n_pixels,
                add(probability),
            ],
            axis=1,
        ),
        in_padding=in_padding,
        masked_pixels=int(np.count_nonzero(mask & ~good)),
        nan=nan.size,
        first_nan=int(nan[0]) if nan.size else -1,
    )


def _join(
    mask: npt.NDArray[np.bool_], connectivity: int
) -> tuple[tuple[npt.NDArray[np.intp], ...], npt.NDArray[np.int32], int]:
    """Return the pixels of a mask (panels, ss, fs), the component of each, and how many."""
    from scipy import sparse
    from scipy.sparse import csgraph

    framed = np.pad(mask, ((0, 0), (0, 1), (1, 1)))
    where = np.flatnonzero(framed)
    width = framed.shape[2]
    steps = (1, width) if connectivity == 4 else (1, width - 1, width, width + 1)
    pairs = []
    for step in steps:
        near = np.flatnonzero(framed.ravel()[where + step])
        pairs.append((near, np.searchsorted(where, where[near] + step)))
    rows, columns = (np.concatenate(part) for part in zip(*pairs, strict=True))
    graph = sparse.coo_array(
        (np.ones(len(rows), np.int8), (rows, columns)), shape=(len(where), len(where))
    )
    number, component = csgraph.connected_components(graph, directed=False)
    panel, ss, fs = np.unravel_index(where, framed.shape)
    return (panel, ss, fs - 1), component, int(number)


def _background(
    pixels: npt.NDArray[Any],
    good: npt.NDArray[np.bool_],
    mask: npt.NDArray[np.bool_],
    centre: tuple[npt.NDArray[np.intp], ...],
    gain: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return level and variance around pixels; NaN where nothing is background."""
    from scipy import ndimage

    if not len(centre[0]):
        return np.empty(0), np.empty(0)
    panel, ss, fs = (indices[:, None, None] for indices in centre)
    steps = np.arange(-HALF_WINDOW - 1, HALF_WINDOW + 2)
    y, x = ss + steps[:, None], fs + steps
    inside = (y >= 0) & (y < mask.shape[1]) & (x >= 0) & (x < mask.shape[2])
    y, x = np.clip(y, 0, mask.shape[1] - 1), np.clip(x, 0, mask.shape[2] - 1)
    near = mask[panel, y, x] & inside
    taken = ndimage.binary_dilation(near, np.ones((1, 3, 3), dtype=np.bool_))
    kept = (inside & good[panel, y, x] & ~taken)[:, 1:-1, 1:-1].reshape(len(panel), -1)
    values = pixels[panel, y, x][:, 1:-1, 1:-1].reshape(kept.shape).astype(np.float64)
    values = np.where(kept, values, 0.0)
    while True:
        number = np.count_nonzero(kept, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            level = np.where(kept, values, 0.0).sum(axis=1) / number
        squares = np.where(kept, values - level[:, None], 0.0) ** 2
        variance = np.maximum(squares.sum(axis=1) / np.maximum(number - 1, 1), gain * level)
        limit = level + CLIP * np.sqrt(np.maximum(variance, gain**2))
        fewer = kept & (values <= limit[:, None])
        if np.array_equal(fewer, kept):
            return level, variance
        kept = fewer
