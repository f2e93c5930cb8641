"""Bragg peaks on detector images, in two independent steps.

1. *Segmentation* (`beamline.crystallography.segmentation`): image in, log odds of "peak" per pixel
   out.
2. *Measurement* (`measure_peaks`): mask and image in, peaks out.

`PeakFinder` joins the two. Positions are pixel indices: the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from beamline.crystallography.segmentation import (
    BACKGROUND_WINDOW,
    BoolImage,
    FloatImage,
    LocalThreshold,
    Segmenter,
    box_sum,
    clip_limit,
    prepare,
)

__all__ = ["PeakFinder", "Peaks", "measure_peaks"]


@dataclass(frozen=True)
class Peaks:
    """Peaks of one image, strongest first; arrays of shape (n,).

    Attributes
    ----------
    fs, ss
        Intensity-weighted centroid, background subtracted; px, 0 is the centre of the first pixel.
    total
        Sum over the peak's pixels with the background subtracted; units of the image.
    maximum
        Largest pixel value, background included; units of the image.
    snr
        `total` over its standard deviation (background and counting noise).
    n_pixels
        Number of pixels, int32.
    probability
        Mean probability that the peak's pixels belong to a peak, 0 to 1; 1 for a plain mask.
    """

    fs: FloatImage
    ss: FloatImage
    total: FloatImage
    maximum: FloatImage
    snr: FloatImage
    n_pixels: npt.NDArray[np.int32]
    probability: FloatImage

    def __len__(self) -> int:
        return int(self.fs.shape[0])

    def take(self, selection: slice | npt.NDArray[Any]) -> Self:
        """Return the peaks that an index array, a boolean array or a slice selects."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {key: value for key, value in columns.items() if isinstance(value, np.ndarray)}
        return replace(self, **{key: value[selection] for key, value in arrays.items()})

    def strongest(self, number: int) -> Self:
        """Return the first `number` peaks (all of them if there are fewer)."""
        return self.take(slice(number))


def measure_peaks(
    image: npt.NDArray[Any],
    mask: BoolImage,
    *,
    valid: BoolImage | None = None,
    log_odds: npt.NDArray[Any] | None = None,
    connectivity: int = 8,
    min_pixels: int = 1,
    gain: float = 1.0,
    window: int = BACKGROUND_WINDOW,
) -> Peaks:
    """Measure every connected component of a mask on the image.

    The background of a component is the mean of the pixels around it that no component has.

    Left out are components of fewer than `min_pixels` pixels, without a positive intensity, without
    background pixels in the square, or whose brightest pixel touches the edge of the image or an
    invalid pixel: their centre may lie outside.

    Parameters
    ----------
    image
        Shape (ss, fs), any real type.
    mask
        True on peak pixels, shaped like the image.
    valid
        False on bad pixels; NaN and infinite pixels are bad in any case.
    log_odds
        Log odds per pixel, for `Peaks.probability`.
    connectivity
        8 or 4 neighbours.
    gain
        Image units per photon, for `Peaks.snr`.
    window
        Side of the square around a component's brightest pixel that holds its background, px, odd.

    Raises
    ------
    ValueError
        If shapes differ, or the connectivity is neither 4 nor 8.
    """
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, found {connectivity}.")
    # Not at import: it would take every process of cxi-writer half a second to start.
    from scipy import ndimage, special

    for name, array in (("mask", mask), ("log_odds", log_odds)):
        if array is not None and array.shape != image.shape:
            raise ValueError(f"{name} has shape {array.shape}, the image {image.shape}.")
    pixels, good = prepare(image, valid)
    labels, count = ndimage.label(
        mask & good, ndimage.generate_binary_structure(2, connectivity // 4)
    )
    where = np.flatnonzero(labels)
    label = labels.ravel()[where] - 1
    ss, fs = np.divmod(where, image.shape[1])
    value = pixels.ravel()[where].astype(np.float64)

    def add(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(label, values, count).astype(np.float64, copy=False)

    n_pixels = np.bincount(label, minlength=count)
    maximum = np.full(count, -np.inf)
    np.maximum.at(maximum, label, value)
    top = np.zeros(count, dtype=np.intp)
    brightest = np.flatnonzero(value == maximum[label])
    top[label[brightest]] = brightest
    level, variance = _around(pixels, good & ~mask, ss[top], fs[top], window, gain)

    net = value - level[label]
    weight = np.maximum(net, 0.0)
    total, weights = add(net), add(weight)
    whole = np.isfinite(level)
    whole[label[brightest[_at_edge(good, ss[brightest], fs[brightest])]]] = False
    keep = np.flatnonzero(whole & (total > 0.0) & (n_pixels >= min_pixels))
    with np.errstate(invalid="ignore", divide="ignore"):  # only in components that are left out
        centre_fs, centre_ss = add(weight * fs) / weights, add(weight * ss) / weights
        noise = n_pixels * np.maximum(variance, gain * level) + gain * np.maximum(total, 0.0)
        snr = total / np.sqrt(noise)
    if log_odds is None:
        probability = np.ones(count)
    else:
        probability = add(special.expit(log_odds.ravel()[where])) / np.maximum(n_pixels, 1)
    order = keep[np.lexsort((centre_fs[keep], centre_ss[keep], -total[keep]))]
    return Peaks(
        fs=centre_fs[order].astype(np.float32),
        ss=centre_ss[order].astype(np.float32),
        total=total[order].astype(np.float32),
        maximum=maximum[order].astype(np.float32),
        snr=snr[order].astype(np.float32),
        n_pixels=n_pixels[order].astype(np.int32),
        probability=probability[order].astype(np.float32),
    )


@dataclass(frozen=True)
class PeakFinder:
    """Find the peaks of an image: segmentation, then measurement.

    Attributes
    ----------
    segmenter
        What decides which pixels are peaks.
    connectivity
        8 or 4 neighbours.
    min_pixels
        Smaller components are left out.
    gain
        Image units per photon, for the signal-to-noise ratio.
    """

    segmenter: Segmenter = field(default_factory=LocalThreshold)
    connectivity: int = 8
    min_pixels: int = 2
    gain: float = 1.0

    def __call__(self, image: npt.NDArray[Any], valid: BoolImage | None = None) -> Peaks:
        """Return the peaks of an image (ss, fs), strongest first; bad pixels are not `valid`."""
        odds = self.segmenter(image, valid)
        return measure_peaks(
            image,
            odds > 0.0,
            valid=valid,
            log_odds=odds,
            connectivity=self.connectivity,
            min_pixels=self.min_pixels,
            gain=self.gain,
        )


def _around(
    pixels: FloatImage,
    free: BoolImage,
    ss: npt.NDArray[np.intp],
    fs: npt.NDArray[np.intp],
    window: int,
    gain: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of the free pixels around given ones, outliers and neighbours left out."""
    half = window // 2
    alone = box_sum((~free).astype(np.float32), 3) < 0.5
    framed = np.pad(np.where(alone, pixels, np.inf), half, constant_values=np.inf)
    squares = np.lib.stride_tricks.sliding_window_view(framed, (window, window))[ss, fs]
    values = np.sort(squares.reshape(len(ss), window**2), axis=1)
    kept = values <= clip_limit(values, gain)[..., None]
    number = np.count_nonzero(kept, axis=1)
    values = np.where(kept, values, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = values.sum(axis=1) / number
        deviation = np.where(kept, values - level[:, None], 0.0)
        variance = (deviation**2).sum(axis=1) / np.maximum(number - 1, 1)
    return level, variance


def _at_edge(good: BoolImage, ss: npt.NDArray[Any], fs: npt.NDArray[Any]) -> BoolImage:
    """Whether a bad pixel or the outside touches each of the given pixels."""
    framed = np.zeros((good.shape[0] + 2, good.shape[1] + 2), dtype=bool)
    framed[1:-1, 1:-1] = good
    edge = np.zeros(ss.shape, dtype=bool)
    for down in (0, 1, 2):
        for across in (0, 1, 2):
            edge |= ~framed[ss + down, fs + across]
    return edge
