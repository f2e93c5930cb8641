"""What a descriptor says about the frames of its stream: where they are, and the geometry."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from beamline.core.errors import ConfigurationError
from beamline.crystallography.geometry import Detector

__all__ = ["ImageStream", "is_scalar", "to_unit"]

_log = logging.getLogger(__name__)

#: Endings of configuration keys (lower case, without underscores), their unit where the descriptor
#: names none, and our unit. So ADCore's detectors (DetDist, BeamX, XPixelSize) and NeXus name them.
_GEOMETRY: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "distance": (("distance", "detdist"), "mm", "m"),
    "beam_x": (("beamx", "beamcenterx", "beamcentrex"), "px", "px"),
    "beam_y": (("beamy", "beamcentery", "beamcentrey"), "px", "px"),
    "pixel_x": (("pixelx", "xpixelsize", "pixelsizex"), "m", "m"),
    "pixel_y": (("pixely", "ypixelsize", "pixelsizey"), "m", "m"),
}
_ENERGY = ("photonenergy",)
_FACTORS: Mapping[str, tuple[str, float]] = {
    "m": ("length", 1.0),
    "mm": ("length", 1e-3),
    "um": ("length", 1e-6),
    "µm": ("length", 1e-6),
    "nm": ("length", 1e-9),
    "eV": ("energy", 1.0),
    "keV": ("energy", 1e3),
    "px": ("pixel", 1.0),
    "pixel": ("pixel", 1.0),
    "pixels": ("pixel", 1.0),
}


def to_unit(value: float, unit: str | None, wanted: str, default: str) -> float:
    """Convert a value; `default` is its unit where the documents name none; NaN if impossible."""
    kind, factor = _FACTORS.get(unit or default, ("", math.nan))
    wanted_kind, wanted_factor = _FACTORS[wanted]
    return value * factor / wanted_factor if kind == wanted_kind else math.nan


def is_scalar(data_key: Mapping[str, Any]) -> bool:
    """Whether a data key is one number per event, in the event itself."""
    return (
        data_key["dtype"] in ("number", "integer")
        and not any(data_key.get("shape") or ())
        and "external" not in data_key
    )


@dataclass(frozen=True)
class ImageStream:
    """A stream of events with frames.

    Attributes
    ----------
    name
        Of the stream.
    image_key
        Data key of the frames.
    shape
        Of one frame, (ss, fs).
    dtype
        Of the frames as far as the descriptor knows it, else float32.
    frames_per_event
        How many frames an event has.
    scan_units
        Data keys that are one number per event, and their units.
    detector
        Geometry, or the reason why there is none.
    photon_energy
        eV, from the detector's configuration; None if it has none.
    """

    name: str
    image_key: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    frames_per_event: int
    scan_units: Mapping[str, str]
    detector: Detector | str
    photon_energy: float | None

    @classmethod
    def from_descriptor(
        cls, doc: Mapping[str, Any], image_key: str | None, geometry: Detector | None
    ) -> ImageStream | None:
        """Read a descriptor; None if its stream has no frames (or not those of `image_key`).

        An array in the events themselves may be anything: unless it is asked for by name, it is
        taken for frames only where a geometry goes with it.
        """
        keys = doc["data_keys"]
        images = [key for key, value in keys.items() if len(_frame_shape(value)) in (2, 3)]
        images.sort(key=lambda key: "external" not in keys[key])  # stable: external ones first
        if image_key is not None:
            images = [key for key in images if key == image_key]
        for key in images:
            shape = _frame_shape(keys[key])
            configuration = _configuration(doc, key)
            detector = _geometry_of(key, configuration, (shape[-2], shape[-1]), geometry)
            if "external" in keys[key] or key == image_key:
                break
            if isinstance(detector, Detector) and (
                detector.shape == shape[-2:] or detector.stack_shape == shape[-3:]
            ):
                break
            _log.debug("%s %s of %s is not taken for frames", key, shape, doc.get("name"))
        else:
            return None
        energy = _find(configuration, _ENERGY)
        return cls(
            name=doc.get("name", ""),
            image_key=key,
            shape=(shape[-2], shape[-1]),
            dtype=stored_type(np.dtype(keys[key].get("dtype_numpy") or "<f4")),
            frames_per_event=shape[0] if len(shape) == 3 else 1,
            scan_units={k: v.get("units") or "" for k, v in keys.items() if is_scalar(v)},
            detector=detector,
            photon_energy=None if energy is None else to_unit(*energy, "eV", "eV"),
        )


def stored_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that frames are stored with: integers as they are, the rest as float32."""
    if dtype.kind in "iu":
        return dtype.newbyteorder("=")
    return np.dtype(np.uint8) if dtype.kind == "b" else np.dtype(np.float32)


def _geometry_of(
    key: str,
    configuration: Mapping[str, tuple[float, str | None]],
    shape: tuple[int, int],
    given: Detector | None,
) -> Detector | str:
    """Return the geometry of a data key, or the reason why there is none."""
    try:
        return given or _detector(configuration, shape)
    except ValueError as error:
        return f"the geometry of {key} is unknown: {error}"


def _frame_shape(data_key: Mapping[str, Any]) -> tuple[int, ...]:
    if data_key["dtype"] != "array":
        return ()
    shape = data_key.get("shape") or ()
    return tuple(int(n) for n in shape) if all(shape) else ()


def _configuration(doc: Mapping[str, Any], image_key: str) -> dict[str, tuple[float, str | None]]:
    """Numbers in the configuration of the device that has the frames, with their units."""
    owners = [name for name, keys in doc.get("object_keys", {}).items() if image_key in keys]
    found = {}
    for name, configuration in doc.get("configuration", {}).items():
        if owners and name not in owners:
            continue
        for key, value in configuration.get("data", {}).items():
            if isinstance(value, int | float | np.number):
                units = configuration.get("data_keys", {}).get(key, {}).get("units")
                found[key] = (float(value), units)
    return found


def _find(
    configuration: Mapping[str, tuple[float, str | None]], endings: tuple[str, ...]
) -> tuple[float, str | None] | None:
    for key, value in configuration.items():
        if key.replace("_", "").lower().endswith(endings):
            return value
    return None


def _detector(
    configuration: Mapping[str, tuple[float, str | None]], shape: tuple[int, int]
) -> Detector:
    found, missing = {}, []
    for name, (endings, default, wanted) in _GEOMETRY.items():
        value = _find(configuration, endings)
        if value is None:
            missing.append(name)
        else:
            found[name] = to_unit(*value, wanted, default)
    if missing:
        raise ConfigurationError(
            f"the descriptor's configuration has no {', '.join(missing)}; have the detector "
            f"describe them or give a geometry."
        )
    return Detector(
        shape=shape,
        distance_m=found["distance"],
        pixel_m=(found["pixel_x"], found["pixel_y"]),
        beam_centre_px=(found["beam_x"], found["beam_y"]),
    )
