"""Detectors of any number of panels: where pixels are in the laboratory, in stacks and in slabs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.crystallography._panels import (
    BadRegion,
    Panel,
    flat_panel,
    join_panels,
    pixels_within,
)

__all__ = ["Detector", "GeometryError"]


class GeometryError(BeamlineError, ValueError):
    """Frames, or a stack of panels, do not fit the detector's geometry."""


@dataclass(frozen=True)
class Detector:
    """A detector of one or more panels.

    Its frames come as a *slab* (ss, fs), in which every panel has its rectangle, or as a *stack*
    (panels, ss, fs). Without `panels` it is one flat panel normal to the beam, fast scan along +x,
    slow scan along +y.

    Attributes
    ----------
    shape
        Pixels of the slab (ss, fs).
    distance_m
        Sample to detector, m.
    pixel_m
        Pixel size along (fs, ss), m; of several panels that of the first.
    beam_centre_px
        Where the direct beam hits, (fs, ss), px; 0 is the centre of the first pixel. None where
        no such number says it: several or rotated panels.
    adu_per_photon
        Image units per photon.
    panels
        In the order of the geometry file.
    bad
        Pixels not to be used.
    photon_energy_eV
        Fixed photon energy, eV, if the geometry has one.
    lines
        Further top-level keys and their values, as CrystFEL has them, that follow the panels.

    Raises
    ------
    ValueError
        If a length is not positive and finite, the beam centre is not finite, or panels overlap in
        the slab or leave it.
    """

    shape: tuple[int, int]
    distance_m: float
    pixel_m: tuple[float, float]
    beam_centre_px: tuple[float, float] | None
    adu_per_photon: float = 1.0
    panels: tuple[Panel, ...] = ()
    bad: tuple[BadRegion, ...] = ()
    photon_energy_eV: float | None = None  # noqa: N815  (the unit belongs to the name)
    lines: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        positive = {
            "shape": self.shape,
            "distance_m": (self.distance_m,),
            "pixel_m": self.pixel_m,
            "adu_per_photon": (self.adu_per_photon,),
        }
        for name, values in positive.items():
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise ValueError(
                    f"detector {name} must be positive and finite, found {getattr(self, name)}."
                )
        centre = self.beam_centre_px
        if centre is not None and not all(math.isfinite(value) for value in centre):
            raise ValueError(f"detector beam_centre_px must be finite, found {centre}.")
        if not self.panels:
            if centre is None:
                raise ValueError("a detector needs panels or beam_centre_px, found neither.")
            object.__setattr__(self, "panels", (flat_panel(self.shape, self.pixel_m, centre),))
        self._check_panels()

    def _check_panels(self) -> None:
        taken = np.zeros(self.shape, dtype=np.bool_)
        for panel in self.panels:
            (ss, fs), (height, width) = panel.origin, panel.shape
            if ss < 0 or fs < 0 or ss + height > self.shape[0] or fs + width > self.shape[1]:
                raise ValueError(
                    f"panel {panel.name} of {panel.shape} pixels at {panel.origin} leaves the "
                    f"slab of {self.shape}."
                )
            if taken[panel.in_slab].any():
                raise ValueError(
                    f"panel {panel.name} lies on pixels of another panel, at {panel.origin}."
                )
            taken[panel.in_slab] = True

    @property
    def slab_shape(self) -> tuple[int, int]:
        """Pixels of the slab (ss, fs)."""
        return self.shape

    @cached_property
    def stack_shape(self) -> tuple[int, int, int]:
        """Shape of the stack (panels, ss, fs): the largest panel, the rest is padded."""
        ends = [
            (panel.unit, *(a + b for a, b in zip(panel.unit_origin, panel.shape, strict=True)))
            for panel in self.panels
        ]
        number, height, width = (max(values) for values in zip(*ends, strict=True))
        return number + 1, height, width

    @cached_property
    def is_pile(self) -> bool:
        """Whether the slab is the panels of the stack below each other: `to_slab` gives a view."""
        number, height, width = self.stack_shape
        pixels = sum(math.prod(panel.shape) for panel in self.panels)
        return (number * height, width) == self.shape == (pixels // width, width) and all(
            panel.origin == (panel.unit * height + panel.unit_origin[0], panel.unit_origin[1])
            for panel in self.panels
        )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `GeometryError` unless a frame of that shape is a slab or a stack of this detector.

        A detector of one panel takes (1, ss, fs) and (ss, fs).
        """
        if tuple(shape) not in (self.shape, self.stack_shape):
            raise GeometryError(
                f"a frame of {tuple(shape)} pixels does not fit the geometry: expected a slab of "
                f"{self.shape} or a stack of {self.stack_shape}; give the geometry of the detector "
                f"that took it."
            )

    def for_stack(self, shape: tuple[int, ...]) -> Detector:
        """Return this detector for stacks of another division.

        Consecutive panels of the geometry file share one panel of the stack if together they fill
        it and lie in the slab as they do there, as the ASICs of a module do.

        Raises
        ------
        GeometryError
            If it can't be divided so.
        """
        if tuple(shape) == self.stack_shape:
            return self
        each = [replace(p, unit=n, unit_origin=(0, 0)) for n, p in enumerate(self.panels)]
        joined = join_panels(self.panels, tuple(shape)) if len(shape) == 3 else None
        for panels in (each, joined):
            if panels is not None:
                divided = replace(self, panels=tuple(panels))
                if divided.stack_shape == tuple(shape):
                    return divided
        raise GeometryError(
            f"a stack of {tuple(shape)} pixels does not fit the geometry: it has "
            f"{len(self.panels)} panels in a slab of {self.shape}, and stacks of "
            f"{self.stack_shape}; give the geometry of the detector that took it."
        )

    def to_slab(
        self, stack: npt.NDArray[Any], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Turn stacks (…, panels, ss, fs) into slabs (…, ss, fs).

        Pixels of the slab that are on no panel are 0. The result may be a view.

        Parameters
        ----------
        stack
            Any type.
        out
            Slabs to write to; only the pixels of panels are written.

        Raises
        ------
        GeometryError
            If the shape is not that of the stack.
        """
        if stack.shape[-3:] != self.stack_shape:
            self._refuse(stack.shape[-3:], self.stack_shape, "a stack")
        if out is None and self.is_pile:
            return stack.reshape(*stack.shape[:-3], *self.shape)
        if out is None:
            out = np.zeros((*stack.shape[:-3], *self.shape), stack.dtype)
        for panel in self.panels:
            out[(..., *panel.in_slab)] = stack[(..., panel.unit, *panel.in_unit)]
        return out

    def to_stack(self, slab: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn slabs (…, ss, fs) into stacks (…, panels, ss, fs), 0 where no panel is.

        The result may be a view.

        Raises
        ------
        GeometryError
            If the shape is not that of the slab.
        """
        if slab.shape[-2:] != self.shape:
            self._refuse(slab.shape[-2:], self.shape, "a slab")
        if self.is_pile:
            return slab.reshape(*slab.shape[:-2], *self.stack_shape)
        out = np.zeros((*slab.shape[:-2], *self.stack_shape), slab.dtype)
        for panel in self.panels:
            out[(..., panel.unit, *panel.in_unit)] = slab[(..., *panel.in_slab)]
        return out

    def to_slab_position(
        self, panel: npt.ArrayLike, ss: npt.ArrayLike, fs: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Turn positions on panels of the stack into positions (ss, fs) in the slab.

        Parameters
        ----------
        panel
            Number of the panel in the stack.
        ss, fs
            Pixel indices there: the centre of the first pixel is (0, 0).

        Raises
        ------
        GeometryError
            If one of them is on no panel.
        """
        unit = np.asarray(panel)
        at_ss, at_fs = np.asarray(ss, np.float64), np.asarray(fs, np.float64)
        which = self._lookup(self._in_stack, (unit, at_ss, at_fs), "a stack", self.stack_shape)
        shift = self._shifts[which]
        return at_ss + shift[..., 0], at_fs + shift[..., 1]

    def to_panel_position(
        self, ss: npt.ArrayLike, fs: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Turn positions in the slab into (panel, ss, fs) in the stack; see `to_slab_position`."""
        at_ss, at_fs = np.asarray(ss, np.float64), np.asarray(fs, np.float64)
        which = self._lookup(self._in_slab, (at_ss, at_fs), "a slab", self.shape)
        shift = self._shifts[which]
        units = np.array([panel.unit for panel in self.panels], np.int32)
        return units[which], at_ss - shift[..., 0], at_fs - shift[..., 1]

    def to_laboratory(
        self, ss: npt.ArrayLike, fs: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], ...]:
        """Turn positions in the slab into (x, y, z) from the sample, m; z along the beam."""
        at_ss, at_fs = np.asarray(ss, np.float64), np.asarray(fs, np.float64)
        which = self._lookup(self._in_slab, (at_ss, at_fs), "a slab", self.shape)
        table = np.array([(*p.origin, *p.fs, *p.ss, *p.corner, p.pitch_m) for p in self.panels])
        found = np.moveaxis(table[which], -1, 0)
        along_ss, along_fs = at_ss - found[0] + 0.5, at_fs - found[1] + 0.5
        steps = along_fs * found[2:5] + along_ss * found[5:8]
        x, y, z = steps * found[11]
        return x + found[8] * found[11], y + found[9] * found[11], z + found[10] + self.distance_m

    def mask(self) -> npt.NDArray[np.uint32]:
        """Return the mask (ss, fs) of the slab: 0 good, 1 on no panel, not used or bad."""
        mask = np.ones(self.shape, np.uint32)
        by_name = {panel.name: panel for panel in self.panels}
        for panel in self.panels:
            settings = dict(panel.settings)
            if settings.get("no_index", "0").lower() in ("0", "false"):
                edge = int(settings.get("mask_edge_pixels", "0"))
                (ss, fs), (height, width) = panel.origin, panel.shape
                mask[ss + edge : ss + height - edge, fs + edge : fs + width - edge] = 0
        for region in self.bad:
            if region.panel:
                (fs0, ss0), (fs1, ss1) = region.first, region.last
                inside = np.zeros(self.shape, np.bool_)
                inside[by_name[region.panel].in_slab] = True
                square = (slice(int(ss0), int(ss1) + 1), slice(int(fs0), int(fs1) + 1))
                mask[square] |= inside[square].astype(np.uint32)
            else:
                for panel in self.panels:
                    mask[panel.in_slab] |= pixels_within(panel, region).astype(np.uint32)
        return mask

    def _refuse(self, found: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
        raise GeometryError(
            f"{what} of {found} pixels does not fit the geometry: expected {expected}; give the "
            f"geometry of the detector that took it."
        )

    @cached_property
    def _in_slab(self) -> npt.NDArray[np.int32]:
        """Number of the panel of every pixel of the slab, -1 where there is none."""
        table = np.full(self.shape, -1, np.int32)
        for number, panel in enumerate(self.panels):
            table[panel.in_slab] = number
        return table

    @cached_property
    def _in_stack(self) -> npt.NDArray[np.int32]:
        table = np.full(self.stack_shape, -1, np.int32)
        for number, panel in enumerate(self.panels):
            table[(panel.unit, *panel.in_unit)] = number
        return table

    @cached_property
    def _shifts(self) -> npt.NDArray[np.float64]:
        """From a position in the stack to that in the slab (ss, fs), for every panel."""
        return np.array([np.subtract(p.origin, p.unit_origin) for p in self.panels], np.float64)

    def _lookup(
        self,
        table: npt.NDArray[np.int32],
        position: tuple[npt.NDArray[Any], ...],
        what: str,
        shape: tuple[int, ...],
    ) -> npt.NDArray[np.int32]:
        pixel = [np.floor(axis + 0.5) for axis in np.broadcast_arrays(*position)]
        good = np.logical_and.reduce(
            [(axis >= 0) & (axis < end) for axis, end in zip(pixel, shape, strict=True)]
        )
        index = tuple(np.where(good, axis, 0).astype(np.intp) for axis in pixel)
        which = np.where(good, table[index], -1)
        if (which < 0).any():
            where = np.argmin(which.ravel())
            place = tuple(float(axis.ravel()[where]) for axis in np.broadcast_arrays(*position))
            raise GeometryError(f"position {place} is on no panel of {what} of {shape} pixels.")
        return np.asarray(which, np.int32)
