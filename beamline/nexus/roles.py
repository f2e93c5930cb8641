"""Which data key plays which part in an experiment: energy, incident intensity, ….

The names of this project's devices are the defaults. At a beamline with other names the start
document says so::

    RE(plan, nexus={"definition": "NXxas",
                    "roles": {"energy": "dcm_energy", "i0": "ic1", "itrans": "ic2"}})
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DEFAULT_ROLES", "DEFINITIONS", "Options", "scan_dimensions"]

_log = logging.getLogger(__name__)

#: Role → data key. Positions and the rotation angle are those of the sample.
DEFAULT_ROLES: Mapping[str, str] = {
    "energy": "mono_energy",
    "i0": "i0",
    "itrans": "itrans",
    "ifluor": "ifluor",
    "irefer": "irefer",
    "idiffr": "idiffr",
    "two_theta": "det_tth",
    "exposure": "exposure",
    "ring_current": "ring_current",
    "position_x": "sample_x",
    "position_y": "sample_y",
    "position_z": "sample_z",
    "rotation_angle": "sample_theta",
}

#: Application definitions that a run may follow.
DEFINITIONS = ("NXxas", "NXmonopd", "NXsas")

_GEOMETRY = ("distance", "pixel_x", "pixel_y", "beam_x", "beam_y")


def scan_dimensions(start: Mapping[str, Any]) -> list[tuple[list[str], str]]:
    """Read ``hints.dimensions``: data keys and stream of each dimension; empty if malformed."""
    hints = start.get("hints")
    given = hints.get("dimensions") if isinstance(hints, Mapping) else None
    try:
        return [([str(f) for f in fields], str(stream)) for fields, stream in given or ()]
    except (TypeError, ValueError):
        return []


#: Plans that measure a spectrum.
_SPECTRA = ("xafs_scan", "fly_xafs")


@dataclass(frozen=True)
class Options:
    """What ``start["nexus"]`` asks for; anything that it does not say has a default.

    Attributes
    ----------
    definition
        Application definition that the file shall follow, one of `DEFINITIONS`, or "" for none.
        By default that of the run: ``xafs_scan`` and ``fly_xafs`` make NXxas, a scan of 2θ
        NXmonopd. None: the area detector decides (NXsas in its small-angle mode).
    roles
        Role → data key.
    geometry
        What is to be taken for the geometry of the area detector: ``distance``, ``pixel_x``,
        ``pixel_y`` (m), ``beam_x``, ``beam_y`` (pixels).
    signal
        Data key that the default plot shows; "" for the first hinted one.
    is_experimental
        False for simulated data: `simulated` is true in the start document, or in its `instrument`.
    """

    definition: str | None
    roles: Mapping[str, str]
    geometry: Mapping[str, float]
    signal: str
    is_experimental: bool

    @classmethod
    def of(cls, start: Mapping[str, Any]) -> Options:
        """Read them from a start document; what can't be understood is logged and ignored."""
        given = start.get("nexus")
        asked: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        roles = dict(DEFAULT_ROLES)
        given_roles = asked.get("roles")
        for role, key in (given_roles if isinstance(given_roles, Mapping) else {}).items():
            if role in DEFAULT_ROLES and isinstance(key, str):
                roles[role] = key
            else:
                _log.warning(
                    "run %s: the role %r in the metadata 'nexus' is ignored: expected one of %s, "
                    "each with the name of a data key.",
                    start.get("uid"), role, ", ".join(DEFAULT_ROLES),
                )  # fmt: skip
        definition = asked.get("definition", _usual_definition(start, roles))
        if definition not in (None, "", *DEFINITIONS):
            _log.warning(
                "run %s: the definition %r in the metadata 'nexus' is ignored: expected one of %s.",
                start.get("uid"), definition, ", ".join(DEFINITIONS),
            )  # fmt: skip
            definition = ""
        instrument = start.get("instrument")
        simulated = bool(start.get("simulated")) or (
            isinstance(instrument, Mapping) and bool(instrument.get("simulated"))
        )
        return cls(
            definition=definition,
            roles=roles,
            geometry=_geometry(start, asked.get("geometry")),
            signal=str(asked.get("signal") or ""),
            is_experimental=bool(asked.get("is_experimental", not simulated)),
        )


def _usual_definition(start: Mapping[str, Any], roles: Mapping[str, str]) -> str | None:
    if start.get("plan_name") in _SPECTRA:
        return "NXxas"
    dimensions = scan_dimensions(start)
    if len(dimensions) == 1 and roles["two_theta"] in dimensions[0][0]:
        return "NXmonopd"
    return None


def _geometry(start: Mapping[str, Any], given: Any) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in (given if isinstance(given, Mapping) else {}).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _GEOMETRY and is_number and math.isfinite(value):
            numbers[name] = float(value)
        else:
            _log.warning(
                "run %s: the geometry %r in the metadata 'nexus' is ignored: expected one of %s, "
                "each a number in m (the beam in pixels).",
                start.get("uid"), name, ", ".join(_GEOMETRY),
            )  # fmt: skip
    return numbers
