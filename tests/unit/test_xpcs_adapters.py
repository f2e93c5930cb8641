import sys
import timeit

import numpy as np
import pytest

from beamline.core.errors import ConfigurationError
from beamline.xpcs import adapters
from beamline.xpcs.adapters import (
    HDF5Adapter,
    MatplotlibAdapter,
    PyQtGraphAdapter,
    get_backend,
    host_array,
)


class Device:
    """An array of another library, as NumPy sees it."""

    def __init__(self, values):
        self.values = np.array(values, np.float32)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


def test_numpy_arrays_pass_untouched():
    values = np.ones((3, 4))
    assert host_array(values) is values
    assert host_array(values, np.float64) is values
    assert host_array(values, np.int32).dtype == np.int32
    assert PyQtGraphAdapter().to_pyqtgraph(values) is values
    assert HDF5Adapter().to_hdf5(values) is values
    assert MatplotlibAdapter().to_matplotlib(values) is values


def test_other_arrays_are_converted_and_counted():
    adapter = MatplotlibAdapter()
    first, second = adapter.to_matplotlib(Device([1, 2]), np.ones(3))
    assert type(first) is np.ndarray
    assert first.tolist() == [1, 2]
    assert len(second) == 3
    stats = adapter.get_stats()
    assert (stats["passed"], stats["converted"], stats["converted_bytes"]) == (1, 1, 8)
    assert stats["seconds"] > 0
    assert stats["mean_ms"] == pytest.approx(1e3 * stats["seconds"])
    assert PyQtGraphAdapter().get_stats()["mean_ms"] == 0.0


def test_pyqtgraph_gets_contiguous_arrays():
    assert PyQtGraphAdapter().to_pyqtgraph(np.ones((4, 6))[:, ::2]).flags.c_contiguous


def test_hdf5_has_no_booleans():
    adapter = HDF5Adapter(get_backend("numpy"))
    assert adapter.to_hdf5(np.array([True])).dtype == np.int8
    values = np.ones(2)
    assert adapter.from_hdf5(values) is values
    assert adapter.backend.name == "numpy"


def test_backends(monkeypatch):
    backend = get_backend("numpy")
    assert (backend.name, backend.xp) == ("numpy", np)
    assert backend.array([1, 2, 3]).tolist() == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="'torch'; choose one of jax, numpy"):
        get_backend("torch")
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setitem(sys.modules, "jax.numpy", None)
    with pytest.raises(ConfigurationError, match=r"beamline-dataflow\[jax\]"):
        get_backend("jax")
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    assert get_backend().name == "numpy"
    assert PyQtGraphAdapter().backend.name == "numpy"


def test_overhead_on_numpy_is_small():
    """Beside that of any call, for busy machines; the benchmark holds the figure itself."""
    adapter, values = PyQtGraphAdapter(), np.ones((1024, 1024))

    def least(work):
        return min(timeit.repeat(work, number=1000, repeat=9))

    assert least(lambda: adapter.to_pyqtgraph(values)) < 15 * least(lambda: plain(values))


def plain(values):
    return values


def test_jax_arrays():
    pytest.importorskip("jax")
    backend = get_backend()
    assert backend.name == "jax"
    values = backend.array([[1.0, 2.0], [3.0, 4.0]])
    for found in (
        PyQtGraphAdapter(backend).to_pyqtgraph(values),
        HDF5Adapter(backend).to_hdf5(values),
        MatplotlibAdapter(backend).to_matplotlib(values),
    ):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, [[1, 2], [3, 4]])
    back = HDF5Adapter(backend).from_hdf5(np.ones(3))
    assert type(back) is type(values)
