"""Which data key plays which part in an experiment: energy, incident intensity, ….

The names of this project's devices are the defaults. At a beamline with other names the start
document says so::

    RE(plan, nexus={"definition": "NXxas",
                    "roles": {"energy": "dcm_energy", "i0": "ic1", "itrans": "ic2"}})
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DEFAULT_ROLES", "Options"]

_log = logging.getLogger(__name__)

#: Role → data key. Positions and the rotation angle are those of the sample.
DEFAULT_ROLES: Mapping[str, str] = {
    "energy": "mono_energy",
    "i0": "i0",
    "itrans": "itrans",
    "ifluor": "ifluor",
    "irefer": "irefer",
    "exposure": "exposure",
    "ring_current": "ring_current",
    "position_x": "sample_x",
    "position_y": "sample_y",
    "position_z": "sample_z",
    "rotation_angle": "sample_theta",
}


@dataclass(frozen=True)
class Options:
    """What ``start["nexus"]`` asks for; anything that it does not say has a default.

    Attributes
    ----------
    definition
        Application definition that the file shall follow: "NXxas", or "" for none. By default that
        of the plan: ``xafs_scan`` makes NXxas.
    roles
        Role → data key.
    signal
        Data key that the default plot shows; "" for the first hinted one.
    is_experimental
        False for simulated data: `simulated` is true in the start document, or in its `instrument`.
    """

    definition: str
    roles: Mapping[str, str]
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
        plans = "NXxas" if start.get("plan_name") == "xafs_scan" else ""
        instrument = start.get("instrument")
        simulated = bool(start.get("simulated")) or (
            isinstance(instrument, Mapping) and bool(instrument.get("simulated"))
        )
        return cls(
            definition=str(asked.get("definition", plans) or ""),
            roles=roles,
            signal=str(asked.get("signal") or ""),
            is_experimental=bool(asked.get("is_experimental", not simulated)),
        )
