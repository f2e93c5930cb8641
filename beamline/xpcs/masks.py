"""Masks of detectors: int32 (H, W), 1 = valid, 0 = masked. Each function gives one; combine them.

Positions are in pixels, column (x) before row (y), the centre of a pixel being a whole number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.xpcs._checks import Field
from beamline.xpcs.adapters import host_array

__all__ = [
    "MaskError",
    "combine",
    "disc",
    "everything",
    "finite",
    "grow",
    "hot_pixels",
    "polygons",
    "read_polygons",
    "rectangle",
    "threshold",
]

Mask = npt.NDArray[np.int32]
Image = npt.NDArray[Any]
Polygon = npt.NDArray[np.float64]
Shape = tuple[int, int]


class MaskError(BeamlineError, ValueError):
    """A mask can't be made as asked."""


def everything(shape: Shape) -> Mask:
    """Mask nothing."""
    return np.ones(shape, np.int32)


def disc(shape: Shape, x: float, y: float, radius: float) -> Mask:
    """Mask pixels whose centres lie within `radius` of a point: a round beam stop."""
    if not radius >= 0.0:
        raise MaskError(f"A disc of radius {radius:g} px can't be masked; the least is 0.")
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((columns - x) ** 2 + (rows - y) ** 2 > radius * radius).astype(np.int32)


def rectangle(shape: Shape, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """Mask pixels whose centres lie within a rectangle: a gap, or the holder of a beam stop."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside_columns = (columns >= min(x0, x1)) & (columns <= max(x0, x1))
    inside_rows = (rows >= min(y0, y1)) & (rows <= max(y0, y1))
    return (~(inside_columns & inside_rows)).astype(np.int32)


def threshold(image: Image, low: float | None = None, high: float | None = None) -> Mask:
    """Mask pixels below `low` or above `high`, and those that are NaN."""
    if low is not None and high is not None and low > high:
        raise MaskError(f"No pixel lies between {low:g} and {high:g}: low is greater than high.")
    values = _image(image)
    valid = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        if low is not None:
            valid &= values >= low
        if high is not None:
            valid &= values <= high
    return valid.astype(np.int32)


def finite(image: Image) -> Mask:
    """Mask pixels that are NaN or infinite."""
    return np.isfinite(_image(image)).astype(np.int32)


def hot_pixels(image: Image, sigma: float = 8.0, window: int = 5) -> Mask:
    """Mask pixels that are far brighter than all but three of those around them.

    A pixel is hot if it exceeds the fourth brightest of its neighbourhood, itself included, by more
    than `sigma` times the noise: the greater of counting statistics, the root of that value, and
    the robust scatter of all pixels about the medians of their neighbourhoods (1.4826 times the
    median absolute deviation). Groups of up to three hot pixels are found, and the slope of a
    steep pattern is kept.

    Parameters
    ----------
    image
        (H, W) counts; a mean or a sum of many frames is best.
    window
        Width and height of the neighbourhood, an odd number of at least 3.
    """
    from scipy.ndimage import median_filter, rank_filter

    if window < 3 or window % 2 == 0:
        raise MaskError(f"A neighbourhood of {window} pixels has no centre; take 3, 5, 7, …")
    if not sigma > 0.0:
        raise MaskError(f"A limit of {sigma:g} sigma masks half of all pixels; take 5 to 10.")
    values = _image(image).astype(np.float64)
    valid = np.isfinite(values)
    values = np.where(valid, values, 0.0)
    # Mirrored at the edge, a pixel there does not appear twice in its own neighbourhood.
    typical = median_filter(values, size=window, mode="mirror")
    bright = rank_filter(values, -4, size=window, mode="mirror")
    scatter = 1.4826 * float(np.median(np.abs(values - typical)[valid])) if valid.any() else 0.0
    noise = np.maximum(np.sqrt(np.maximum(bright, 0.0)), scatter)
    # Where all is dark, a single count is no hot pixel.
    return (values - bright <= sigma * np.maximum(noise, 1.0)).astype(np.int32)


def polygons(shape: Shape, corners: Iterable[Sequence[Sequence[float]] | Polygon]) -> Mask:
    """Mask pixels whose centres lie within any of several polygons.

    A polygon is a list of corners (x, y); it is closed by itself. One that crosses itself encloses
    what an odd number of its edges surrounds.
    """
    valid = np.ones(shape, np.bool_)
    for number, polygon in enumerate(corners, 1):
        points = host_array(polygon, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise MaskError(
                f"Polygon {number} must have at least 3 corners (x, y), found an array of shape"
                f" {points.shape}."
            )
        if not np.isfinite(points).all():
            raise MaskError(f"Polygon {number} has a corner that is not finite.")
        valid &= ~_inside(shape, points)
    return valid.astype(np.int32)


def read_polygons(path: str | os.PathLike[str]) -> list[Polygon]:
    """Read polygons from a file.

    JSON: ``[[[x, y], …], …]`` or ``{"polygons": [[[x, y], …], …]}``. Other files are text: two
    numbers per line, x and y, separated by blanks or a comma; an empty line ends a polygon, ``#``
    begins a comment.

    Raises
    ------
    MaskError
        If it can't be read, or has no polygon.
    """
    file = Path(path)
    try:
        text = file.read_text()
        found = _from_json(text) if file.suffix.lower() == ".json" else _from_text(text)
        read = [host_array(polygon, np.float64) for polygon in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MaskError(f"{file}: no polygons can be read from it ({error}).") from error
    if not read:
        raise MaskError(f"{file}: expected polygons, found none.")
    return read


def combine(*masks: Image) -> Mask:
    """Return a mask of the pixels that are valid in all of `masks`.

    Raises
    ------
    MaskError, SchemaValidationError
        If there is none, shapes differ, or there are other values than 0 and 1.
    """
    if not masks:
        raise MaskError("There is no mask to combine.")
    first = Field("combine", "mask").mask(masks[0])
    valid = first > 0
    for mask in masks[1:]:
        valid &= Field("combine", "mask").mask(mask, first.shape) > 0
    return valid.astype(np.int32)


def grow(mask: Image, pixels: int) -> Mask:
    """Mask also the pixels within `pixels` rows and columns of a masked one."""
    from scipy.ndimage import minimum_filter

    if pixels < 0:
        raise MaskError(f"A mask can't grow by {pixels} pixels; the least is 0.")
    checked = Field("grow", "mask").mask(mask)
    grown: Mask = minimum_filter(checked, size=2 * pixels + 1, mode="nearest")
    return grown


def _image(image: Image) -> Image:
    values = host_array(image)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "buif":
        raise MaskError(
            f"A mask needs an image (H, W) of numbers, found {values.dtype} of shape"
            f" {values.shape}."
        )
    return values


def _inside(shape: Shape, points: Polygon) -> npt.NDArray[np.bool_]:
    """Count for each pixel the edges to its left: odd is inside."""
    inside = np.zeros(shape, np.bool_)
    columns = np.arange(shape[1])
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = sorted((y0, y1))
        # Half open, so that a corner counts once.
        first = int(np.clip(np.ceil(low), 0, shape[0]))
        last = int(np.clip(np.ceil(high), 0, shape[0]))
        crossing = x0 + (np.arange(first, last) - y0) * ((x1 - x0) / (y1 - y0))
        inside[first:last] ^= columns[None, :] >= crossing[:, None]
    return inside


def _from_json(text: str) -> list[Any]:
    content = json.loads(text)
    found = content["polygons"] if isinstance(content, dict) else content
    if not isinstance(found, list):
        raise TypeError("expected a list of polygons")
    return found


def _from_text(text: str) -> list[Any]:
    found: list[list[tuple[float, float]]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words and not line.lstrip().startswith("#"):
            found.append([])
        elif len(words) == 2:
            found[-1].append((float(words[0]), float(words[1])))
        elif words:
            raise ValueError(f"line {number}: expected two numbers, found {line.strip()!r}")
    return [polygon for polygon in found if polygon]
