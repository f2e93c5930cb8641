"""The tree of a powder diffraction pattern taken with a point detector, valid as ``NXmonopd``."""

from __future__ import annotations

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.claim import Claim
from beamline.nexus.instrument import add_detector
from beamline.nexus.metadata import ENTRY, INSTRUMENT, SAMPLE

__all__ = ["lay_out_pattern"]

_DATA = f"{ENTRY}/data"
_CRYSTAL = f"{INSTRUMENT}/crystal"
_MONO_CRYSTAL = f"{INSTRUMENT}/monochromator/crystal"


def lay_out_pattern(builder: Builder, stream: Stream) -> Claim | None:
    """Add the tree of a pattern; every other data key is left for the general layout.

    Returns
    -------
    Claim or None
        None, and nothing is added, if the stream has no 2θ angle or no diffracted intensity.
    """
    roles = builder.options.roles
    missing = [
        f"{role} ({roles[role]!r})"
        for role in ("two_theta", "idiffr", "i0")
        if (key := stream.keys.get(roles[role])) is None or not key.is_scalar
    ]
    if missing:
        builder.decline("NXmonopd", f"stream {stream.name!r} has no number for", *missing)
        return None
    detector = f"{INSTRUMENT}/{roles['idiffr']}"
    # The definition wants counts that are integers, and the angle in the group of the detector.
    add_detector(builder, stream, roles["idiffr"], detector, kind="i")
    builder.value(f"{detector}/polar_angle", stream, roles["two_theta"], kind="f")
    builder.group(
        _DATA, "NXdata", signal="data", axes=["polar_angle"], polar_angle_indices=[0]
    )  # fmt: skip
    builder.field(f"{_DATA}/title", builder.title)
    builder.link(f"{_DATA}/polar_angle", f"{detector}/polar_angle")
    builder.link(f"{_DATA}/data", f"{detector}/data")
    builder.group(ENTRY, "NXentry", default="data")
    if _MONO_CRYSTAL in builder.tree:
        builder.link(_CRYSTAL, _MONO_CRYSTAL)
        wavelength = f"{_MONO_CRYSTAL}/wavelength"
    else:
        builder.group(_CRYSTAL, "NXcrystal")
        wavelength = f"{_CRYSTAL}/wavelength"
    return Claim(
        "NXmonopd",
        wavelength,
        needed={wavelength: f"energy ({roles['energy']!r})"},
        # Not every diffractometer turns its sample.
        fillers={f"{SAMPLE}/rotation_angle": "deg"},
    )
