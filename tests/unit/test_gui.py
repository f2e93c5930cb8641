"""The mask editor and the viewer, without a screen; skipped without the extra ``gui``."""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
pytest.importorskip("pyqtgraph", exc_type=ImportError)

import xpcs_files as files
from test_xpcs_kernel import frames

from beamline.gui import SimpleMaskWindow, XPCSViewer
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.kernel import KernelError
from beamline.xpcs.masks import disc
from beamline.xpcs.modules import NAMES
from beamline.xpcs.schemas import PartitionSchema


@pytest.fixture(scope="module")
def application():
    from PySide6.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


@pytest.fixture
def editor(application):
    window = SimpleMaskWindow()
    window.load_detector_image(frames(20).mean(axis=0), files.GEOMETRY)
    yield window
    window.close()


@pytest.fixture
def viewer(application):
    window = XPCSViewer()
    window.kernel.load_frames(frames(), 0.1, files.GEOMETRY, n_static=12, n_dynamic=3)
    yield window
    window.close()


def received(signal):
    values = []
    signal.connect(values.append)
    return values


def test_exports(editor):
    masks, bins = received(editor.mask_exported), received(editor.qmap_exported)
    editor.mask_beam_stop(4.0)
    editor.export_to_viewer()
    assert bins == []
    assert masks[0].dtype == np.int32
    expected = disc(files.SHAPE, files.GEOMETRY.bcx, files.GEOMETRY.bcy, 4.0)
    np.testing.assert_array_equal(masks[0], expected)
    editor.compute_partition(n_static=12, n_dynamic=4)
    editor.export_to_viewer()
    schema = PartitionSchema.from_dict(bins[0])
    assert schema.num_pts == len(schema.val_list) == 4
    np.testing.assert_array_equal(schema.partition_map > 0, expected > 0)
    assert schema.metadata == files.GEOMETRY


def test_editing(editor, tmp_path):
    assert editor.mask.all()
    editor.mask_beam_stop(3.0)
    once = editor.mask
    editor.apply(np.arange(24 * 32).reshape(24, 32) % 7 > 0)
    assert editor.mask.sum() < once.sum()
    editor.undo()
    np.testing.assert_array_equal(editor.mask, once)
    editor.mask_hot_pixels(8.0)
    editor.undo()
    editor.compute_partition(n_static=6, n_dynamic=3)
    editor.save(str(tmp_path / "mask.h5"))
    facade = HDF5Facade()
    np.testing.assert_array_equal(facade.read_mask(tmp_path / "mask.h5").mask, once)
    assert facade.read_partition(tmp_path / "mask.h5").num_pts == 3
    found = facade.read_q_partition(tmp_path / "mask.h5")
    np.testing.assert_array_equal(found.static_roi_map, editor.partition.static_roi_map)


def test_without_an_image(application):
    window = SimpleMaskWindow()
    for action in (window.export_to_viewer, window.mask_hot_pixels, window.compute_partition):
        with pytest.raises(KernelError, match="load"):
            action()
    window.undo()


def test_the_viewer_computes_anew(viewer):
    before = viewer.saxs1d[1], viewer.g2.g2
    mask = np.ones(files.SHAPE, np.int32)
    mask[:, 16:] = 0
    viewer.apply_mask(mask)
    assert not np.array_equal(viewer.saxs1d[1], before[0])
    assert not np.array_equal(viewer.g2.g2, before[1])
    with pytest.raises(ValueError, match="shape"):
        viewer.apply_mask(np.ones((3, 3)))


def test_from_editor_to_viewer(editor, viewer):
    viewer.connect_editor(editor)
    editor.mask_beam_stop(4.0)
    editor.compute_partition(n_static=10, n_dynamic=5)
    editor.export_to_viewer()
    np.testing.assert_array_equal(viewer.kernel.mask, editor.mask)
    assert len(viewer.g2.q_values) == len(viewer.saxs1d[0]) == 5
    editor.load_detector_image(np.ones((5, 5)))
    editor.export_to_viewer()
    assert "(24, 32)" in viewer.statusBar().currentMessage()


@pytest.mark.parametrize("name", NAMES)
def test_every_tab_draws(viewer, name):
    shown = viewer.show_module(name)
    layout = viewer._layout(NAMES.index(name))
    plot = layout.getItem(0, 0)
    drawn = len(plot.listDataItems()) + sum("ImageItem" in type(i).__name__ for i in plot.items)
    assert drawn == (len(shown.labels) if hasattr(shown, "labels") else 1)


def test_unknown_and_impossible_modules(viewer, application):
    with pytest.raises(ImportError, match="choose one of"):
        viewer.show_module("g3mod")
    empty = XPCSViewer()
    empty.refresh()
    assert "load frames or a result" in empty.statusBar().currentMessage()
