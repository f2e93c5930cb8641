"""Notice a file in the user's folder that hides one of this distribution's packages.

``devices``, ``callbacks`` and ``ioc`` are common names, and Python looks into the working directory
first: a script called ``devices.py`` there would be imported instead.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from beamline.core.errors import ShadowedPackageError

__all__ = ["check_packages", "shadowed_packages"]

_SIBLINGS = ("devices", "callbacks", "ioc")


def shadowed_packages() -> dict[str, str]:
    """Return the packages that something else hides, with the path of what hides them."""
    home = Path(__file__).resolve().parents[2]
    shadowed = {}
    for name in _SIBLINGS:
        spec = find_spec(name)
        origin = spec.origin if spec is not None else None
        if origin is None or Path(origin).resolve() != home / name / "__init__.py":
            shadowed[name] = origin or "(nothing: the package is missing)"
    return shadowed


def check_packages() -> None:
    """Make sure that our packages are the ones that Python finds.

    Raises
    ------
    ShadowedPackageError
        Naming the file that hides one of them.
    """
    for name, origin in shadowed_packages().items():
        raise ShadowedPackageError(
            f"the package {name!r} of beamline-dataflow is hidden by {origin}: "
            "rename that file, or start Python in another folder."
        )
