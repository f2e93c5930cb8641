import subprocess
import sys

import h5py
import numpy as np
import pytest
import xpcs_files as files

from beamline.xpcs import modules
from beamline.xpcs.geometry import q_values
from beamline.xpcs.kernel import KernelError, ViewerKernel
from beamline.xpcs.modules import NAMES, Curves, Picture, get_module
from beamline.xpcs.partitions import PartitionError, QPartition, make_partition
from beamline.xpcs.schemas import PartitionSchema, SchemaValidationError

TAU = 5.0


def frames(number=200, seed=0):
    """Intensities that forget themselves within TAU frames, brighter towards the beam."""
    rng = np.random.default_rng(seed)
    q = q_values(files.GEOMETRY)
    field = rng.normal(size=(2, *files.SHAPE))
    decay = np.exp(-1.0 / TAU)
    stack = np.empty((number, *files.SHAPE))
    for frame in stack:
        field = decay * field + np.sqrt(1 - decay**2) * rng.normal(size=field.shape)
        frame[...] = 0.5 * (field**2).sum(axis=0)
    return rng.poisson(stack * 50.0 / (1.0 + 20.0 * q))


@pytest.fixture
def kernel():
    made = ViewerKernel()
    made.load_frames(frames(), 0.1, files.GEOMETRY, n_static=12, n_dynamic=3)
    return made


@pytest.fixture
def result(tmp_path):
    bins = files.partition()
    path = files.aps_result(tmp_path / "a.h5", bins, twotime=True)
    with h5py.File(path, "r+") as file:
        file["/xpcs/temporal_mean/scattering_2d"] = 1.0 + q_values(files.GEOMETRY)[None]
        file["/xpcs/temporal_mean/scattering_1d_segments"] = np.ones((4, bins.static.n_labels))
        file["/xpcs/spatial_mean/intensity_vs_time"] = np.ones((2, 30))
    made = ViewerKernel()
    made.load_file(path)
    return made


class TestKernel:
    def test_scattering_and_g2_of_frames(self, kernel):
        q, intensity = kernel.saxs1d
        ring = kernel.partition.static_roi_map == 4
        assert intensity[3] == pytest.approx(kernel.image[ring].mean())
        assert q[3] == kernel.partition.static_q[3]
        g2 = kernel.g2
        assert g2.g2.shape[0] == 3
        assert g2.delay_times[0] == pytest.approx(0.1)
        contrast = g2.g2[:, 0] - 1.0
        np.testing.assert_allclose(contrast, np.exp(-2.0 / TAU), atol=0.15)

    def test_a_mask_changes_both(self, kernel):
        before, g2 = kernel.saxs1d, kernel.g2
        mask = np.ones(files.SHAPE, bool)
        mask[:, 16:] = False
        kernel.apply_mask(mask)
        assert kernel.mask.dtype == np.int32
        assert not (kernel.partition.dynamic_roi_map[:, 16:] > 0).any()
        ring = kernel.partition.static_roi_map == 4
        assert kernel.saxs1d[1][3] == pytest.approx(kernel.image[ring].mean())
        assert not np.array_equal(kernel.saxs1d[1], before[1])
        assert not np.array_equal(kernel.g2.g2, g2.g2)
        kernel.apply_mask(np.ones(files.SHAPE))
        np.testing.assert_array_equal(kernel.saxs1d[1], before[1])
        np.testing.assert_allclose(kernel.g2.g2, g2.g2, rtol=1e-12)

    def test_bins_change_both(self, kernel):
        bins = make_partition(files.GEOMETRY, n_static=5, n_dynamic=5).schema()
        kernel.apply_qmap(bins.to_dict())
        assert len(kernel.saxs1d[0]) == 5
        assert kernel.g2.q_values == bins.val_list
        only = {key: bins.to_dict()[key] for key in ("partition_map", "num_pts", "val_list",
                                                     "num_list")}  # fmt: skip
        kernel.apply_qmap(only)
        assert kernel.g2.q_values == bins.val_list

    def test_refused(self, kernel):
        with pytest.raises(SchemaValidationError, match=r"\(24, 32\), found shape \(3, 3\)"):
            kernel.apply_mask(np.ones((3, 3)))
        with pytest.raises(PartitionError, match="all of them are masked"):
            kernel.apply_mask(np.zeros(files.SHAPE))
        assert kernel.mask.all()
        with pytest.raises(SchemaValidationError, match="num_pts"):
            kernel.apply_qmap({"partition_map": np.ones(files.SHAPE)})
        other = PartitionSchema(np.ones((2, 2), int), 1, (0.1,), (4,))
        with pytest.raises(KernelError, match=r"\(2, 2\), the data of \(24, 32\)"):
            kernel.apply_qmap(other)
        for wrong in (np.ones((1, *files.SHAPE)), np.ones((5, 3, 3)), np.ones(files.SHAPE)):
            with pytest.raises(KernelError, match="Frames must be"):
                kernel.load_frames(wrong, 0.1, files.GEOMETRY)
        for wrong in (0.0, -1.0, np.nan):
            with pytest.raises(KernelError, match="must be greater than 0"):
                kernel.load_frames(np.ones((3, *files.SHAPE)), wrong, files.GEOMETRY)
        for label in (0, 4):
            with pytest.raises(KernelError, match=f"no dynamic bin {label}; there are 3"):
                get_module("twotime").compute(kernel, label)

    def test_nothing_loaded(self):
        empty = ViewerKernel()
        for look in (lambda: empty.saxs1d, lambda: empty.g2, lambda: empty.mask,
                     lambda: empty.frames, lambda: empty.apply_mask(np.ones((2, 2)))):  # fmt: skip
            with pytest.raises(KernelError, match="load frames or a result file first"):
                look()

    def test_a_result_file(self, result):
        assert result.g2 == result.facade.read_g2_data(result.path)
        before = result.saxs1d[1]
        assert len(before) == result.partition.static.n_labels
        mask = np.ones(files.SHAPE)
        mask[:, :10] = 0
        result.apply_mask(mask)
        assert not np.array_equal(result.saxs1d[1], before)
        with pytest.raises(KernelError, match="needs the frames"):
            _ = result.g2
        # What is stored belongs to other pixels now.
        for name in ("stability", "intt", "twotime"):
            with pytest.raises(KernelError, match="needs the frames"):
                get_module(name).compute(result)

    def test_pixels_without_value_are_left_out(self, kernel):
        kernel.image[12, 16] = np.nan
        kernel.apply_mask(np.ones(files.SHAPE))
        assert np.isfinite(kernel.saxs1d[1]).all()


class TestPartitions:
    def test_masked(self):
        bins = files.partition()
        mask = np.ones(files.SHAPE, bool)
        mask[:12] = False
        found = bins.masked(mask)
        for kind in ("dynamic", "static"):
            one, other = getattr(found, kind), getattr(bins, kind)
            here = one.roi_map > 0
            np.testing.assert_array_equal(here, (other.roi_map > 0) & mask)
            values = one.index_mapping[one.roi_map[here] - 1]
            np.testing.assert_array_equal(values, other.index_mapping[other.roi_map[here] - 1])
            assert (one.num_list > 0).all()
        assert found.metadata == bins.metadata

    def test_of_a_schema(self):
        labels = np.array([[0, 1, 3, 3]])
        schema = PartitionSchema(labels, 3, (0.1, 0.2, 0.3), (1, 0, 2), method="log",
                                 mask=np.array([[1, 1, 1, 0]]))  # fmt: skip
        found = QPartition.from_schema(schema)
        assert found.dynamic_roi_map.tolist() == [[0, 1, 2, 0]]
        assert found.dynamic_q.tolist() == [0.1, 0.3]
        assert found.method == "log"


class TestModules:
    @pytest.mark.parametrize("name", NAMES)
    def test_of_frames(self, kernel, name):
        shown = get_module(name).compute(kernel)
        if isinstance(shown, Curves):
            assert shown.y.shape == (len(shown.labels), len(shown.x))
            assert np.isfinite(shown.y).all()
            assert shown.error is None or shown.error.shape == shown.y.shape
        else:
            assert isinstance(shown, Picture)
            assert shown.values.ndim == 2

    @pytest.mark.parametrize("name", NAMES)
    def test_of_a_result(self, result, name):
        assert isinstance(get_module(name).compute(result), Curves | Picture)

    def test_values(self, kernel):
        tau = get_module("tauq").compute(kernel)
        np.testing.assert_allclose(tau.y, 0.1 * TAU, rtol=0.25)
        c2 = get_module("twotime").compute(kernel, 2).values
        np.testing.assert_allclose(c2, c2.T, rtol=1e-5)
        g2 = get_module("g2mod").compute(kernel)
        first = np.diagonal(c2, 1).mean()
        assert first == pytest.approx(g2.y[1, 0], abs=0.05)
        parts = get_module("stability").compute(kernel, 4)
        np.testing.assert_allclose(parts.y.mean(axis=0), kernel.saxs1d[1])
        assert get_module("intt").compute(kernel).y.mean() == pytest.approx(
            kernel.image[kernel.partition.mask > 0].mean()
        )

    def test_average(self, result, kernel, tmp_path):
        average = get_module("average")
        two = average.compute(result, [result.path])
        np.testing.assert_allclose(two.y, result.g2.g2)
        np.testing.assert_allclose(two.error, result.g2.g2_err / np.sqrt(2))
        with pytest.raises(KernelError, match="other bins or delays"):
            average.compute(kernel, [result.path])

    def test_too_little_to_fit(self, kernel):
        short = ViewerKernel()
        short.load_frames(frames(4), 0.1, files.GEOMETRY, n_static=2, n_dynamic=2)
        assert np.isnan(get_module("tauq").compute(short).y).all()

    def test_unknown_names(self):
        with pytest.raises(ImportError, match="choose one of g2mod, saxs1d, saxs2d, twotime"):
            get_module("g3mod")
        with pytest.raises(ImportError, match="stability, intt, tauq, average"):
            _ = modules.g3mod
        assert not hasattr(modules, "_private")
        assert modules.saxs1d is get_module("saxs1d")

    def test_they_are_loaded_when_asked_for(self):
        code = (
            "import sys; from beamline.xpcs.modules import get_module;"
            "loaded = lambda: sorted(m for m in sys.modules"
            " if m.startswith('beamline.xpcs.modules.')"
            " and not m.endswith('_shown'));"
            "assert loaded() == [], loaded(); get_module('intt');"
            "assert loaded() == ['beamline.xpcs.modules.intt'], loaded();"
            "assert not {'PySide6', 'pyqtgraph', 'jax', 'matplotlib'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
