"""Where arrays of other libraries become NumPy arrays: plotting, files and schemas, nowhere else.

A device array (JAX) is converted once, at the boundary; a NumPy array passes untouched.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError

__all__ = [
    "Backend",
    "HDF5Adapter",
    "MatplotlibAdapter",
    "PyQtGraphAdapter",
    "get_backend",
    "host_array",
]

_BACKENDS = {"jax": "jax.numpy", "numpy": "numpy"}


def host_array(array: Any, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Return `array` (NumPy, JAX, a list of numbers) as a NumPy array in host memory.

    A NumPy array of the wanted type is returned as it is, not copied.
    """
    if type(array) is np.ndarray and (dtype is None or array.dtype == dtype):
        return array
    return np.asarray(array, dtype)


@dataclass(frozen=True)
class Backend:
    """The library in which arrays are computed.

    Attributes
    ----------
    name
        ``numpy`` or ``jax``.
    xp
        Its module of array functions (``numpy`` or ``jax.numpy``).
    """

    name: str
    xp: ModuleType

    def array(self, values: Any, dtype: npt.DTypeLike | None = None) -> Any:
        """Make an array of this library of `values`."""
        return self.xp.asarray(values, dtype)


def get_backend(name: str | None = None) -> Backend:
    """Return the backend `name` (``numpy``, ``jax``); by default JAX if it is installed.

    Raises
    ------
    ConfigurationError
        If there is no such backend, or JAX is asked for and not installed.
    """
    if name is None:
        name = "jax" if importlib.util.find_spec("jax") else "numpy"
    if name not in _BACKENDS:
        raise ConfigurationError(
            f"There is no array backend {name!r}; choose one of {', '.join(sorted(_BACKENDS))}."
        )
    try:
        return Backend(name, importlib.import_module(_BACKENDS[name]))
    except ImportError as error:
        raise ConfigurationError(
            "The array backend 'jax' needs JAX, which cannot be imported"
            f" ({error}); install the extra: pip install 'beamline-dataflow[jax]'."
        ) from error


class _Adapter:
    """Counts and times the conversions of one boundary."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend
        self._passed = 0
        self._converted = 0
        self._seconds = 0.0
        self._bytes = 0

    @property
    def backend(self) -> Backend:
        """The backend that makes arrays when they are read; chosen at first use."""
        if self._backend is None:
            self._backend = get_backend()
        return self._backend

    def _host(self, array: Any) -> npt.NDArray[Any]:
        if type(array) is np.ndarray:
            self._passed += 1
            return array
        begin = time.perf_counter()
        converted = np.asarray(array)
        self._seconds += time.perf_counter() - begin
        self._converted += 1
        self._bytes += converted.nbytes
        return converted

    def get_stats(self) -> dict[str, float]:
        """Return how many arrays passed as they were, how many were converted, and at what cost.

        Keys: ``passed``, ``converted``, ``converted_bytes``, ``seconds``, ``mean_ms``.
        """
        return {
            "passed": self._passed,
            "converted": self._converted,
            "converted_bytes": self._bytes,
            "seconds": self._seconds,
            "mean_ms": 1e3 * self._seconds / self._converted if self._converted else 0.0,
        }


class PyQtGraphAdapter(_Adapter):
    """Arrays for pyqtgraph."""

    def to_pyqtgraph(self, x: Any) -> npt.NDArray[Any]:
        """Return `x` as NumPy array; one that is not contiguous is copied, as Qt needs it."""
        array = self._host(x)
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)


class HDF5Adapter(_Adapter):
    """Arrays for and from HDF5."""

    def to_hdf5(self, x: Any) -> npt.NDArray[Any]:
        """Return `x` as NumPy array; booleans become int8, as NeXus has no boolean array."""
        array = self._host(x)
        return array.astype(np.int8) if array.dtype == np.bool_ else array

    def from_hdf5(self, x: Any) -> Any:
        """Return an array that was read as array of the backend (NumPy: as it is)."""
        array = self._host(x)
        return array if self.backend.name == "numpy" else self.backend.array(array)


class MatplotlibAdapter(_Adapter):
    """Arrays for matplotlib."""

    def to_matplotlib(self, *xs: Any) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]:
        """Return a NumPy array, or a tuple of them for several arguments."""
        if len(xs) == 1:
            return self._host(xs[0])
        return tuple(self._host(x) for x in xs)
