"""How the loops of the correlators are compiled, and how they see pixels.

Pixels are handled in tiles of `TILE` neighbours, so that whatever a tile needs stays in the cache
while a block of frames is correlated, and so long that memory is read in long runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["HISTORY", "TILE", "compiled"]

TILE = 512
#: Level frames kept: the longest lag within a level.
HISTORY = 8

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function; keep the machine code if there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba: no directory is writable
        return numba.njit(nogil=True)(function)
