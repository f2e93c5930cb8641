"""Where an area detector stands, from the configuration of its device.

The frame of reference is that of NeXus (McStas): z along the beam, y up, x to the left of one who
looks along the beam, the sample at the origin. Frames are taken as seen by that one: the fast index
runs to the right (-x), the slow one down (-y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.metadata import constant

__all__ = ["Geometry", "add_geometry", "device_setting", "read_geometry"]

_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "nm": 1e-9}
#: What a device means that states no unit: ADCore's area detectors give the distance in mm.
_UNSTATED = {"distance": "mm", "pixel_x": "m", "pixel_y": "m"}


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is known about an area detector; None for what is not.

    Attributes
    ----------
    distance
        From the sample to the plane of the detector, m.
    pixel_x, pixel_y
        Size of a pixel along the fast and the slow axis, m.
    beam_x, beam_y
        Where the direct beam hits, in pixels (fast, slow); integers are centres of pixels.
    """

    distance: float | None
    pixel_x: float | None
    pixel_y: float | None
    beam_x: float | None
    beam_y: float | None


def device_setting(stream: Stream, device: str, name: str) -> tuple[Any, str | None]:
    """Value and units of a device's configuration ``DEVICE_NAME``; None where it has none."""
    given = stream.configuration.get(device)
    if not isinstance(given, Mapping) or not isinstance(given.get("data"), Mapping):
        return None, None
    key = f"{device}_{name}"
    described = (given.get("data_keys") or {}).get(key) or {}
    units = described.get("units") if isinstance(described, Mapping) else None
    return given["data"].get(key), None if units is None else str(units)


def read_geometry(builder: Builder, stream: Stream, key: str) -> Geometry:
    """Read the geometry of the detector that a data key belongs to.

    What ``start["nexus"]["geometry"]`` says (m, and pixels for the beam) goes first; then the
    configuration ``DEVICE_distance``, ``DEVICE_pixel_x``, … of the device.
    """
    device = stream.keys[key].device

    def number(name: str) -> float | None:
        asked = builder.options.geometry.get(name)
        if asked is not None:
            return asked
        value, units = device_setting(stream, device, name)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            return None
        if name in _UNSTATED:
            factor = _METRES.get((units or _UNSTATED[name]).strip())
            return None if factor is None or not value > 0 else float(value) * factor
        return float(value) if np.isfinite(value) else None

    return Geometry(*(number(name) for name in Geometry.__slots__))


def add_geometry(builder: Builder, path: str, stream: Stream, key: str) -> Geometry:
    """Add what is known about the place of a detector to its group."""
    known = read_geometry(builder, stream, key)
    for name, value in (
        ("distance", known.distance),
        ("x_pixel_size", known.pixel_x),
        ("y_pixel_size", known.pixel_y),
        ("beam_center_x", _product(known.beam_x, known.pixel_x)),
        ("beam_center_y", _product(known.beam_y, known.pixel_y)),
    ):
        if value is not None:
            builder.field(f"{path}/{name}", value, units="m")
    exposure, units = device_setting(stream, stream.keys[key].device, "exposure")
    if f"{path}/count_time" not in builder.tree and isinstance(exposure, int | float):
        made = constant(float(exposure), {"units": units or "s"})
        assert made is not None  # noqa: S101  (a number has a field)
        builder.add(f"{path}/count_time", made)
    if None not in (known.distance, known.pixel_x, known.pixel_y, known.beam_x, known.beam_y):
        _add_transformations(builder, path, known)
    return known


def _product(pixels: float | None, size: float | None) -> float | None:
    return None if pixels is None or size is None else pixels * size


def _add_transformations(builder: Builder, path: str, known: Geometry) -> None:
    """Add the chain that brings the first pixel from the sample to its place."""
    group = builder.group(f"{path}/transformations", "NXtransformations")
    pixel_x, pixel_y = known.pixel_x or 0.0, known.pixel_y or 0.0
    steps = (
        ("z", known.distance or 0.0, (0.0, 0.0, 1.0), "."),
        ("y", (known.beam_y or 0.0) * pixel_y, (0.0, 1.0, 0.0), f"{group}/z"),
        ("x", (known.beam_x or 0.0) * pixel_x, (1.0, 0.0, 0.0), f"{group}/y"),
    )
    for name, value, vector, after in steps:
        _add_step(builder, f"{group}/{name}", value, vector, after)
    builder.field(f"{path}/depends_on", f"{group}/x")
    module = builder.group(f"{path}/module", "NXdetector_module")
    for name, size, vector in (
        ("fast_pixel_direction", pixel_x, (-1.0, 0.0, 0.0)),
        ("slow_pixel_direction", pixel_y, (0.0, -1.0, 0.0)),
    ):
        _add_step(builder, f"{module}/{name}", size, vector, f"{group}/x")


def _add_step(
    builder: Builder, path: str, value: float, vector: tuple[float, float, float], after: str
) -> None:
    builder.field(
        path,
        value,
        units="m",
        transformation_type="translation",
        vector=list(vector),
        depends_on=after,
    )
