"""Our XPCS files in xpcs-viewer 1.2.2 and pySimpleMask 0.4.5, and theirs in ours."""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from importlib.metadata import version

import numpy as np
import pytest

pytest.importorskip("pyxpcsviewer", exc_type=ImportError)
pytest.importorskip("pysimplemask", exc_type=ImportError)

import xpcs_files as files

from beamline.xpcs.geometry import q_values
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.result import TwoTimePart, XPCSResult, result_tree

N_FRAMES = 120


@pytest.fixture(scope="module")
def result():
    bins = files.partition()
    g2, error = files.correlation(bins.dynamic.n_labels)
    rng = np.random.default_rng(0)
    image = 5.0 + q_values(files.GEOMETRY)
    static = np.bincount(bins.static_roi_map.ravel(), image.ravel())[1:] / bins.static.num_list
    size = 24
    return XPCSResult(
        partition=bins,
        frame_time=0.01,
        exposure=0.009,
        lags=files.DELAYS.astype(np.int64),
        g2=g2,
        g2_err=error,
        g2_err_block=error,
        affected=np.zeros(len(files.DELAYS), bool),
        scattering_2d=image,
        scattering_1d=static,
        scattering_1d_segments=static * rng.normal(1.0, 0.01, (5, 1)),
        intensity_vs_time=rng.normal(5.0, 0.1, N_FRAMES),
        frame_numbers=np.arange(N_FRAMES),
        start={"uid": "abc", "scan_id": 3, "time": 1.7e9, "plan_name": "xpcs_series",
               "sample": {"name": "colloid"}},
        stop={"time": 1.7e9 + 2, "exit_status": "success", "run_start": "abc", "uid": "d"},
        twotime=TwoTimePart(
            bins=(1, 3),
            c2=(files.c2(size), files.c2(size) + 1),
            g2=np.ones((size, 2)) + 0.1,
            g2_segments=np.ones((size // 4, 4, 2)),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(result, tmp_path_factory):
    target = tmp_path_factory.mktemp("viewers") / "A001_colloid_a0004_t0600_results.hdf"
    HDF5Facade().write_result(target, result_tree(result, file_name=target.name))
    return target


def test_the_versions_are_those_that_were_promised():
    assert version("xpcs-viewer") == "1.2.2"
    assert version("pysimplemask") == "0.4.5"


class TestXpcsViewer:
    def test_kind_of_file(self, path):
        from pyxpcsviewer.core.file_io.ftype_utils import get_ftype

        assert get_ftype(str(path)) == "nexus"

    def test_everything_it_reads(self, path, result):
        from pyxpcsviewer.core.xpcs_file import XpcsFile

        found = XpcsFile(str(path))
        assert set(found.atype) == {"Multitau", "Twotime"}
        np.testing.assert_allclose(found.g2, result.g2)
        np.testing.assert_allclose(found.t_el, result.lags * 0.01)
        np.testing.assert_allclose(found.saxs_2d, result.scattering_2d, rtol=1e-6)
        np.testing.assert_array_equal(found.dqmap, result.partition.dynamic_roi_map)
        np.testing.assert_array_equal(found.mask, result.partition.mask)
        np.testing.assert_allclose(found.dqlist * 10, result.partition.dynamic.v_list_dim0)
        np.testing.assert_allclose(found.Int_t[1], result.intensity_vs_time)
        assert found.det_dist == pytest.approx(4.0)
        assert found.pixel_size == pytest.approx(55e-6)
        # Its own map of q, computed from our geometry, is ours.
        ours = q_values(files.GEOMETRY, unit="A^-1")
        np.testing.assert_allclose(found.qmap.qmap["q"], ours, rtol=1e-4)
        from beamline.xpcs.geometry import phi_map

        theirs = np.deg2rad(found.qmap.qmap["phi"])
        np.testing.assert_allclose(theirs, phi_map(files.GEOMETRY), atol=1e-9)
        assert found.get_info_at_position(5, 6)
        assert found.saxs_1d["Iq"].shape[1] == 12

    def test_two_time(self, path, result):
        from pyxpcsviewer.core.twotime_utils import get_single_c2_from_hdf

        found = get_single_c2_from_hdf(str(path), selection=1, correct_diag=False)
        np.testing.assert_allclose(found["c2_mat"], 1 + 0.5 * (files.c2(24) + files.c2(24).T),
                                   atol=0.2)  # fmt: skip
        upper = np.triu(result.twotime.c2[1])
        np.testing.assert_allclose(np.triu(found["c2_mat"]), upper, rtol=1e-5)

    def test_its_curves_and_fits(self, path):
        from pyxpcsviewer.core.xpcs_file import XpcsFile

        found = XpcsFile(str(path))
        q, delays, g2, error, labels = found.get_g2_data(qrange=None, trange=None)
        assert g2.shape == error.shape == (len(delays), len(labels))
        assert len(q) >= 1

    def test_every_tab_of_its_window(self, path, caplog):
        from PySide6.QtWidgets import QApplication
        from pyxpcsviewer.gui.view.xpcs_viewer import XpcsViewer, tab_mapping

        application = QApplication.instance() or QApplication([])
        window = XpcsViewer(path=str(path.parent))
        window.list_view_source.selectAll()
        window.add_target()
        assert len(window.model.target) == 1
        for index, name in tab_mapping.items():
            # What these two show (parts of g2, its numerator) is optional, and not in our files.
            if name in ("g2_stability", "G2_regroup"):
                continue
            caplog.clear()
            window.tabWidget.setCurrentIndex(index)
            window.update_plot()
            application.processEvents()
            # The window catches everything and writes it down.
            errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
            assert errors == [], name
        window.close()


class TestSimpleMask:
    def test_a_result_opens(self, path, result):
        from pysimplemask.core.file_handler import get_handler

        found = get_handler("APS_8IDI", str(path))
        assert type(found).__name__ == "XPCSResultReader"
        found.prepare_data()
        np.testing.assert_allclose(found.scat, result.scattering_2d, rtol=1e-6)
        assert found.metadata["energy"] == pytest.approx(files.GEOMETRY.energy)
        np.testing.assert_array_equal(
            found.saved_partition["dynamic_roi_map"], result.partition.dynamic_roi_map
        )
        maps, units = found.compute_qmap()[:2]
        assert units["q"] == "Å⁻¹"
        exact = q_values(files.GEOMETRY, exact=True, unit="A^-1")
        np.testing.assert_allclose(maps["q"], exact, rtol=1e-6)

    def test_the_same_bins_from_the_same_geometry(self, path, tmp_path):
        from pysimplemask.core.model import SimpleMaskModel

        model = SimpleMaskModel()
        assert model.read_data(str(path))
        model.compute_partition(mode="q-phi", dq_num=4, sq_num=12, dp_num=3, sp_num=6)
        model.save_partition(str(tmp_path / "bins.h5"))
        found = HDF5Facade().read_q_partition(tmp_path / "bins.h5")
        ours = files.make_partition(
            files.GEOMETRY, found.mask, n_static=12, n_dynamic=4, n_static_phi=6,
            n_dynamic_phi=3, exact=True,
        )  # fmt: skip
        differing = np.count_nonzero(found.dynamic_roi_map != ours.dynamic_roi_map)
        assert differing <= 0.01 * found.mask.sum()
        np.testing.assert_allclose(found.dynamic.v_list_dim0, ours.dynamic.v_list_dim0, rtol=1e-5)
        assert HDF5Facade().read_qmap(tmp_path / "bins.h5").sqmap_unit == "nm^-1"

    def test_our_bins_combine_with_theirs(self, tmp_path):
        from pysimplemask.core.partition import combine_qmap_files

        bins = files.partition()
        facade = HDF5Facade()
        left, right = np.ones(files.SHAPE), np.ones(files.SHAPE)
        left[:, 16:] = 0
        right[:, :16] = 0
        for name, mask in (("left.h5", left), ("right.h5", right)):
            facade.write_q_partition(tmp_path / name, bins.masked(mask))
        combine_qmap_files(
            [str(tmp_path / "left.h5"), str(tmp_path / "right.h5")], str(tmp_path / "both.h5")
        )
        found = facade.read_q_partition(tmp_path / "both.h5")
        np.testing.assert_array_equal(found.mask, bins.mask)

    def test_our_mask_is_taken(self, tmp_path):
        from pysimplemask.core.mask import MaskFile

        from beamline.xpcs.schemas import MaskSchema

        mask = files.partition().mask
        HDF5Facade().write_mask(tmp_path / "mask.h5", MaskSchema(mask))
        found = MaskFile(shape=files.SHAPE)
        found.evaluate(str(tmp_path / "mask.h5"), "/simplemask/mask/mask")
        np.testing.assert_array_equal(found.get_mask(), mask > 0)
