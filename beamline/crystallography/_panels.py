"""Panels: rectangles of pixels, and how they lie in slabs, in stacks and in the laboratory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["BadRegion", "Panel", "flat_panel", "join_panels", "pixels_within"]

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Panel:
    """A rectangle of pixels with one position and orientation: what CrystFEL calls a panel.

    Attributes
    ----------
    name
        As in the geometry file.
    origin
        Its first pixel (ss, fs) in the slab.
    shape
        Pixels (ss, fs).
    corner
        Corner of the first pixel from the beam, (x, y) in pixels of `pitch_m` and z in m, added to
        the detector's distance.
    fs, ss
        Steps (x, y, z) along the fast and the slow scan, in pixels of `pitch_m`.
    pitch_m
        Unit of length of these, m.
    unit
        Number of the panel in the stack that holds it: several may share one.
    unit_origin
        Its first pixel (ss, fs) there.
    settings
        Further keys of its own and their values, as CrystFEL has them.
    """

    name: str
    origin: tuple[int, int]
    shape: tuple[int, int]
    corner: Vector
    fs: Vector
    ss: Vector
    pitch_m: float
    unit: int = 0
    unit_origin: tuple[int, int] = (0, 0)
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def in_slab(self) -> tuple[slice, slice]:
        """Its pixels in the slab."""
        return _square(self.origin, self.shape)

    @property
    def in_unit(self) -> tuple[slice, slice]:
        """Its pixels in its panel of the stack."""
        return _square(self.unit_origin, self.shape)


@dataclass(frozen=True)
class BadRegion:
    """Pixels that are not to be used.

    Attributes
    ----------
    name
        As in the geometry file.
    panel
        Name of the panel; empty for a rectangle in the laboratory.
    first, last
        Corners: (fs, ss) in the slab, both included, or (x, y) in pixels from the beam: what begins
        between them is bad.
    """

    name: str
    panel: str
    first: tuple[float, float]
    last: tuple[float, float]


def _square(origin: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    return (
        slice(origin[0], origin[0] + shape[0]),
        slice(origin[1], origin[1] + shape[1]),
    )


def flat_panel(
    shape: tuple[int, int], pixel_m: tuple[float, float], centre: tuple[float, float]
) -> Panel:
    """Make the panel of a flat detector normal to the beam."""
    aspect = pixel_m[1] / pixel_m[0]
    return Panel(
        name="p0",
        origin=(0, 0),
        shape=shape,
        corner=(-(centre[0] + 0.5), -(centre[1] + 0.5) * aspect, 0.0),
        fs=(1.0, 0.0, 0.0),
        ss=(0.0, aspect, 0.0),
        pitch_m=pixel_m[0],
    )


def join_panels(panels: tuple[Panel, ...], shape: tuple[int, ...]) -> list[Panel] | None:
    """Divide a stack among consecutive panels, each filled by its part; None if that fails."""
    _, height, width = shape
    made: list[Panel] = []
    group: list[Panel] = []
    unit = 0
    for panel in panels:
        group.append(panel)
        top, left = (min(p.origin[axis] for p in group) for axis in (0, 1))
        bottom, right = (max(p.origin[axis] + p.shape[axis] for p in group) for axis in (0, 1))
        if bottom - top > height or right - left > width:
            return None
        # Panels do not overlap in the slab, so that they fill the rectangle if their areas do.
        if sum(math.prod(p.shape) for p in group) == height * width:
            for part in group:
                origin = (part.origin[0] - top, part.origin[1] - left)
                made.append(replace(part, unit=unit, unit_origin=origin))
            group, unit = [], unit + 1
    return None if group else made


def pixels_within(panel: Panel, region: BadRegion) -> npt.NDArray[np.bool_]:
    """Say which pixels of a panel begin in a rectangle of the laboratory, as CrystFEL does."""
    ss, fs = np.indices(panel.shape)
    x = panel.corner[0] + fs * panel.fs[0] + ss * panel.ss[0]
    y = panel.corner[1] + fs * panel.fs[1] + ss * panel.ss[1]
    (x0, y0), (x1, y1) = region.first, region.last
    inside: npt.NDArray[np.bool_] = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return inside
