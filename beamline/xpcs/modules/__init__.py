"""What a viewer shows: one module per kind of plot, each imported when it is asked for.

A module has ``compute(kernel)``, which returns `Curves` or a `Picture`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from beamline.xpcs.modules._shown import Curves, Picture

__all__ = ["NAMES", "Curves", "Picture", "get_module"]

NAMES = ("g2mod", "saxs1d", "saxs2d", "twotime", "stability", "intt", "tauq", "average")


def get_module(name: str) -> ModuleType:
    """Return the module `name`, which is imported now if it was not before.

    Raises
    ------
    ImportError
        If there is none of that name; it names those that are there.
    """
    if name not in NAMES:
        raise ImportError(
            f"There is no analysis module {name!r}; choose one of {', '.join(NAMES)}.", name=name
        )
    return importlib.import_module(f"{__name__}.{name}")


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return get_module(name)
