"""The layout of the result file: every path that others read, units, and what goes wrong."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from xpcs_results import BINS, FRAMES, SHAPE, make_result, write

from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.result import ResultError, result_tree

LENGTHS = {
    "/xpcs/qmap/detector_distance": ("m", 5.0),
    "/xpcs/qmap/pixel_size": ("m", 75e-6),
    "/xpcs/qmap/beam_center_x": ("pixel", 20.4),
    "/xpcs/qmap/beam_center_y": ("pixel", 31.7),
    "/xpcs/qmap/energy": ("keV", 9.0),
    "/entry/instrument/incident_beam/incident_energy": ("keV", 9.0),
    "/entry/instrument/detector_1/distance": ("m", 5.0),
    "/entry/instrument/detector_1/x_pixel_size": ("m", 75e-6),
    "/entry/instrument/detector_1/frame_time": ("s", 0.005),
    "/entry/instrument/detector_1/count_time": ("s", 0.004),
}
MAPS = [
    f"/xpcs/qmap/{kind}_{name}"
    for kind in ("dynamic", "static")
    for name in ("roi_map", "v_list_dim0", "v_list_dim1", "index_mapping", "num_pts")
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "00007_results.hdf"


def test_every_path_of_the_aps_viewers_is_there(path):
    result = write(path, legacy=True)
    bins, statics = result.partition.dynamic.n_labels, result.partition.static.n_labels
    shapes = {
        "/entry/start_time": (),
        "/xpcs/temporal_mean/scattering_1d": (1, statics),
        "/xpcs/temporal_mean/scattering_1d_segments": (10, statics),
        "/xpcs/temporal_mean/scattering_2d": (1, *SHAPE),
        "/xpcs/spatial_mean/intensity_vs_time": (2, FRAMES),
        "/xpcs/multitau/delay_list": (16,),
        "/xpcs/multitau/normalized_g2": (16, bins),
        "/xpcs/multitau/normalized_g2_err": (16, bins),
        "/xpcs/multitau/config/stride_frame": (),
        "/xpcs/multitau/config/avg_frame": (),
        "/xpcs/twotime/normalized_g2": (FRAMES, 2),
        "/xpcs/twotime/normalized_g2_segments": (FRAMES // 5, 5, 2),
        "/xpcs/twotime/processed_bins": (2,),
        "/xpcs/twotime/config/stride_frame": (),
        "/xpcs/twotime/config/avg_frame": (),
        **{f"/xpcs/twotime/correlation_map/c2_{k:05d}": (FRAMES, FRAMES) for k in BINS},
        **{f"/exchange/C2T_all/g2_{k:05d}": (FRAMES, FRAMES) for k in BINS},
    }
    with h5py.File(path) as file:
        assert {name: file[name].shape for name in shapes} == shapes
        assert all(name in file for name in (*MAPS, "/xpcs/qmap/mask", "/xpcs/qmap/map_names"))
        assert isinstance(file["/entry/instrument/bluesky/metadata"], h5py.Group)
        assert len(file["/xpcs/qmap"].attrs["hash"]) == 64
        assert [name.decode() for name in file["/xpcs/qmap/map_units"][()]] == ["Å⁻¹", "°"]
        for name, (unit, value) in LENGTHS.items():
            assert file[name].attrs["units"] == unit, name
            assert file[name][()] == pytest.approx(value, rel=1e-4), name
        # Only the upper triangle is stored.
        c2 = file["/xpcs/twotime/correlation_map/c2_00003"][()]
        assert not np.tril(c2, -1).any()
        # Viewers have no filters but HDF5's own.
        filters = set()
        file.visititems(
            lambda _, node: (
                filters.add(node.compression) if isinstance(node, h5py.Dataset) else None
            )
        )
        assert filters <= {None, "gzip", "lzf"}


def test_the_facade_reads_what_was_written(path):
    result = write(path)
    facade = HDF5Facade()
    g2 = facade.read_g2_data(path)
    np.testing.assert_array_equal(np.asarray(g2.g2), result.g2.T)
    np.testing.assert_allclose(g2.delay_times, result.delays)
    np.testing.assert_allclose(g2.q_values, result.partition.dynamic_q)
    bins = facade.read_q_partition(path, "/xpcs/qmap")
    np.testing.assert_array_equal(bins.static_roi_map, result.partition.static_roi_map)
    assert facade.read_geometry_metadata(path).det_dist == pytest.approx(5000.0)
    c2 = facade.read_twotime(path, 3)
    np.testing.assert_allclose(c2, result.twotime.c2[1], rtol=1e-6)
    # What others fit takes nothing away.
    facade.save_fit_result(path, {"tau": 1.0})
    assert facade.read_fit_result(path) == {"tau": 1.0}
    assert facade.read_fit_result(path, "/xpcs/diffusion") == {"D": 400.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame_time": 0.0}, "frame time of an XPCS result must be greater than 0 s"),
        ({"g2": np.ones((3, 3))}, r"g2 of an XPCS result must have the shape \(16, 8\)"),
        ({"scattering_2d": np.ones((2, 2))}, r"scattering_2d .* shape \(60, 50\), found \(2, 2\)"),
    ],
)
def test_parts_that_do_not_fit_are_one_sentence(changes, said):
    with pytest.raises(ResultError, match=said):
        dataclasses.replace(make_result(), **changes)


def test_the_layout_needs_no_documents():
    result = dataclasses.replace(make_result(twotime=False), start={}, stop={}, sources=())
    tree = result_tree(result)
    assert "/xpcs/twotime" not in tree
    assert "/entry/end_time" not in tree
    assert tree["/entry/definition"].value == "NXxpcs"
