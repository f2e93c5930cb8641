"""g2 and its errors, from sums over the pixels.

With G, P, F the means over the n pairs of frames, of a pixel, of product, earlier and later count:

- g2 of a static bin s is ⟨G⟩/(⟨P⟩⟨F⟩), ⟨⟩ the mean over its pixels; g2 of a dynamic bin is the mean
  over its static bins.
- `g2_err` is the standard deviation of G/(P·F) over the pixels of the dynamic bin, divided by the
  root of their number: what boost_corr writes.
- `covariance` is the block jackknife's, linearised: pixel p changes g2 of its static bin of N
  pixels by g2·(1/N + G_p/ΣG − P_p/ΣP − F_p/ΣF); the changes of a block add up, each divided by the
  root of 1 − w if the block has the share w of the static bin; and the sum of their products over
  the blocks of a dynamic bin is the covariance of g2 among the lags.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beamline.xpcs.adapters import host_array
from beamline.xpcs.bins import Bins

__all__ = ["CellSums", "Correlation", "correlation_from_sums", "grouped", "lag_grid"]

Array = npt.NDArray[np.float64]


def lag_grid(levels: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return lags (in frames) and their levels: 1…8 of level 0, then 5…8 × 2^level.

    It is the grid of boost_corr, with four lags per level beyond the first.

    Parameters
    ----------
    levels
        Number of levels, at least 1.
    """
    lags = list(range(1, 9))
    level_of = [0] * 8
    for level in range(1, levels):
        lags += [lag << level for lag in range(5, 9)]
        level_of += [level] * 4
    return np.array(lags, dtype=np.int64), np.array(level_of, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Correlation:
    """g2 of a run, or of a run so far.

    The lags are those of `lag_grid` that at least one pair of a gapless run would have.

    Attributes
    ----------
    lags
        int64 (n_delay,), in frames.
    delays
        float64 (n_delay,), s.
    g2
        float64 (n_delay, n_dynamic); NaN where no pair of frames is left, or no light.
    g2_err
        Shaped like `g2`: boost_corr's estimate, which is not calibrated.
    g2_err_block
        Shaped like `g2`: the block jackknife's, one standard deviation.
    covariance
        float64 (n_dynamic, n_delay, n_delay): the block jackknife's, among the lags of a bin.
    n_pairs
        int64 (n_delay,): pairs of (level) frames in each lag.
    affected
        bool (n_delay,): lags that lost pairs to gaps; right all the same, with larger errors.
    intensity
        float64 (n_dynamic,): mean counts per pixel and frame.
    n_frames, n_skipped
        Frames that were correlated, and frames that were missing.
    """

    lags: npt.NDArray[np.int64]
    delays: Array
    g2: Array
    g2_err: Array
    g2_err_block: Array
    covariance: Array
    n_pairs: npt.NDArray[np.int64]
    affected: npt.NDArray[np.bool_]
    intensity: Array
    n_frames: int
    n_skipped: int

    @property
    def spread(self) -> Array:
        """Standard deviation of the lags that are averaged in each, (n_delay,), s.

        Products of sums of m frames have the lags of a triangle, of variance (m² − 1)/6 frames².
        """
        level = np.maximum(np.ceil(np.log2(self.lags / 8.0)), 0.0)
        frame_time = self.delays[0] / self.lags[0]
        return host_array(np.sqrt((4.0**level - 1.0) / 6.0) * frame_time, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class CellSums:
    """Sums over the pairs of frames and over the pixels of each cell.

    Attributes
    ----------
    products, earlier, later
        (n_delay, n_cell): ΣG, ΣP and ΣF with level frames as sums, that is, not yet divided by the
        number of pairs and the length of a level frame. Integers below 2⁵³, or their best float64.
    ratio, ratio_square
        float64 (n_delay, n_dynamic): sums over pixels of ΣG/(ΣP·ΣF) and of its square.
    counts
        (n_cell,): all counts.
    """

    products: Array
    earlier: Array
    later: Array
    ratio: Array
    ratio_square: Array
    counts: Array


def correlation_from_sums(
    bins: Bins,
    sums: CellSums,
    *,
    n_pairs: npt.NDArray[np.int64],
    lost_pairs: npt.NDArray[np.int64],
    frame_time: float,
    n_frames: int,
    n_skipped: int,
) -> Correlation:
    """Normalise sums; `n_pairs` and `lost_pairs` (to gaps) set how many lags there are."""
    n_delay = len(n_pairs)
    lags = lag_grid(max(1, (n_delay - 8 + 3) // 4 + 1))[0][:n_delay]
    n_static, n_block = len(bins.static_dynamic), len(bins.cells.block_dynamic)
    cell_pixels = np.bincount(bins.cells.cell, minlength=len(bins.cells.static)).astype(np.float64)

    def per_static(values: Array) -> Array:
        return grouped(values, bins.cells.static, n_static)

    pixels = per_static(cell_pixels[None])[0]
    statics = np.bincount(bins.static_dynamic, minlength=bins.n_dynamic).astype(np.float64)
    dynamic_pixels = np.bincount(bins.dynamic, minlength=bins.n_dynamic).astype(np.float64)
    pairs = n_pairs.astype(np.float64)[:, None]
    products, earlier, later = (per_static(v) for v in (sums.products, sums.earlier, sums.later))
    with np.errstate(divide="ignore", invalid="ignore"):
        g2_static = products * pixels * pairs / (earlier * later)
        g2_static[~np.isfinite(g2_static)] = np.nan
        g2 = grouped(g2_static, bins.static_dynamic, bins.n_dynamic) / statics
        of = bins.cells.static
        change = g2_static[:, of] * (
            cell_pixels / pixels[of]
            + sums.products / products[:, of]
            - sums.earlier / earlier[:, of]
            - sums.later / later[:, of]
        )
        # What a block changes, it changes its own share of the mean, too.
        change /= np.sqrt(1.0 - np.minimum(cell_pixels / pixels[of], 1.0 - 1e-12))
        # No product at all is a g2 of 0, whose scatter is unknown.
        change = np.where(products[:, of] > 0.0, change, np.nan)
        change /= statics[bins.static_dynamic[of]]
        mean = sums.ratio / dynamic_pixels * pairs
        square = sums.ratio_square / dynamic_pixels * pairs**2
        # The standard deviation of a sample, divided by the root of its size.
        g2_err = np.sqrt(np.maximum(square - mean**2, 0.0) / (dynamic_pixels - 1.0))
        intensity = np.bincount(
            bins.static_dynamic[bins.cells.static], sums.counts, bins.n_dynamic
        ) / (dynamic_pixels * max(n_frames, 1))
    blocks = grouped(change, bins.cells.block, n_block)
    covariance = np.full((bins.n_dynamic, n_delay, n_delay), np.nan)
    for dynamic in range(bins.n_dynamic):
        own = blocks[:, bins.cells.block_dynamic == dynamic]
        if own.shape[1] > 1:
            covariance[dynamic] = own @ own.T
    return Correlation(
        lags=lags,
        delays=lags.astype(np.float64) * frame_time,
        g2=g2,
        g2_err=np.where(np.isfinite(g2), g2_err, np.nan),
        g2_err_block=np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).T.copy(),
        covariance=covariance,
        n_pairs=n_pairs,
        affected=lost_pairs > 0,
        intensity=intensity,
        n_frames=n_frames,
        n_skipped=n_skipped,
    )


def grouped(values: Array, labels: npt.NDArray[np.int32], number: int) -> Array:
    """Sum the columns of `values` (n, m) that share one of `number` labels (m,): (n, number)."""
    return np.stack([np.bincount(labels, row, number) for row in values]).astype(np.float64)
