"""The tree of a small-angle scattering run with an area detector, valid as ``NXsas``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beamline.core.units import energy_to_wavelength
from beamline.nexus.builder import Builder, Stream
from beamline.nexus.claim import Claim
from beamline.nexus.geometry import add_geometry, device_setting
from beamline.nexus.instrument import add_detector
from beamline.nexus.metadata import ENTRY, INSTRUMENT

if TYPE_CHECKING:
    from beamline.nexus.frames import Frames

__all__ = ["image_key", "is_small_angle", "lay_out_images"]

_DATA = f"{ENTRY}/data"
#: Configuration of a device that says what it simulates, and what it is called for this.
_MODE, _SAXS = "sim_mode", "saxs"


def image_key(stream: Stream) -> str | None:
    """Return the first data key of a stream that holds frames, outside of the events or in them."""
    images = [
        name for name, key in stream.keys.items()
        if key.external or (key.is_numeric and len(key.shape or ()) >= 2)
    ]  # fmt: skip
    return images[0] if images else None


def is_small_angle(builder: Builder, stream: Stream) -> bool:
    """Whether the run is one: it says so itself, or its area detector does."""
    if builder.options.definition is not None:
        return builder.options.definition == "NXsas"
    key = image_key(stream)
    if key is None:
        return False
    given = stream.configuration.get(stream.keys[key].device)
    data = given.get("data") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(data, Mapping):
        return False
    modes = [name for name in data if str(name).endswith(_MODE)]
    return any(_choice(given, name).lower() == _SAXS for name in modes)


def _choice(given: Mapping[str, Any], name: str) -> str:
    """Text of an enumeration, which may be stored as text or as a number."""
    value = given["data"][name]
    described = (given.get("data_keys") or {}).get(name)
    choices = described.get("enum_strs") if isinstance(described, Mapping) else None
    if (
        isinstance(value, int)
        and isinstance(choices, list | tuple)
        and value in range(len(choices))
    ):
        return str(choices[value])
    return str(value)


def lay_out_images(builder: Builder, stream: Stream, frames: Frames) -> Claim | None:
    """Add detector, geometry and default plot; the rest is left for the general layout.

    Returns
    -------
    Claim or None
        None, and nothing is added, if the stream has no frames.
    """
    key = image_key(stream)
    if key is None:
        builder.decline("NXsas", f"stream {stream.name!r} has no", "frames")
        return None
    path = builder.free(INSTRUMENT, key)
    add_detector(builder, stream, key, path)
    add_geometry(builder, path, stream, key)
    if stream.keys[key].external:
        frames.expect(stream, key, path, _DATA, shown_as="data")
    else:
        rank = 1 + len(stream.keys[key].shape or ())
        builder.group(_DATA, "NXdata", signal="data", axes=["."] * rank)
        builder.field(f"{_DATA}/title", builder.title)
        builder.link(f"{_DATA}/data", f"{path}/data")
        builder.group(ENTRY, "NXentry", default="data")
    wavelength = f"{INSTRUMENT}/monochromator/wavelength"
    builder.group(f"{INSTRUMENT}/monochromator", "NXmonochromator")
    claim = Claim(
        "NXsas",
        wavelength,
        needed={
            wavelength: f"energy ({builder.options.roles['energy']!r})",
            f"{path}/distance": "distance of the detector",
            f"{path}/x_pixel_size": "width of its pixels",
            f"{path}/y_pixel_size": "height of its pixels",
            f"{_DATA}/data": "file of frames",
        },
    )
    claim.offer(builder, stream)
    energy, _ = device_setting(stream, stream.keys[key].device, "photon_energy")
    if wavelength not in builder.tree and isinstance(energy, int | float) and energy > 0:
        builder.field(wavelength, energy_to_wavelength(float(energy)), units="angstrom")
    return claim
