"""Kernels compiled by numba, where it is at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["compiled", "numba_works"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def numba_works() -> bool:
    """Whether numba is installed and not disabled (``NUMBA_DISABLE_JIT=1``); imports it."""
    try:
        import numba
    except ImportError:
        return False
    return not numba.config.DISABLE_JIT


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function by numba, without the GIL; kept on disk where a folder can be written.

    For modules of kernels, which are imported only where `numba_works`.
    """
    import numba

    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written.
        return numba.njit(nogil=True, error_model="numpy")(function)
