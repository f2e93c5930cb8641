import dataclasses
import os
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
import xpcs_files as files
from hypothesis import given, settings
from test_xpcs_schemas import g2_data, geometries, masks, partitions, q_maps

from beamline.core.errors import ConfigurationError, StorageError
from beamline.nexus.tree import ExternalLink, Field, Group, Link
from beamline.xpcs.hdf5_facade import HDF5Facade, HDF5ValidationError, MissingFileError
from beamline.xpcs.partitions import QPartition
from beamline.xpcs.repository import XPCSRepository
from beamline.xpcs.schemas import (
    G2Data,
    GeometryMetadata,
    MaskSchema,
    PartitionSchema,
    QMapSchema,
    SchemaValidationError,
)

pytestmark = pytest.mark.filterwarnings("ignore:The beam centre")


@pytest.fixture
def facade():
    made = HDF5Facade()
    yield made
    made.clear_pool()


def q_map(shape=(6, 8), value=1.0):
    return QMapSchema(np.full(shape, value), np.full(shape, value), np.zeros(shape))


def mask(shape=(6, 8), value=1):
    return MaskSchema(np.full(shape, value, np.int32))


WAYS = {
    QMapSchema: ("write_qmap", "read_qmap"),
    G2Data: ("write_g2_data", "read_g2_data"),
    GeometryMetadata: ("write_geometry_metadata", "read_geometry_metadata"),
    MaskSchema: ("write_mask", "read_mask"),
    PartitionSchema: ("write_partition", "read_partition"),
}


class TestOwnLayout:
    @settings(max_examples=25)
    @given(geometries() | q_maps() | g2_data() | partitions() | masks())
    def test_what_is_written_reads_back_equal(self, tmp_path_factory, schema):
        facade = HDF5Facade()
        path = tmp_path_factory.mktemp("xpcs") / "file.h5"
        write, read = WAYS[type(schema)]
        getattr(facade, write)(path, schema)
        assert getattr(facade, read)(path) == schema
        getattr(facade, write)(path, schema, "/another/place")
        assert getattr(HDF5Facade(), read)(path, group="/another/place") == schema
        facade.clear_pool()

    def test_q_partition(self, facade, tmp_path):
        bins = files.partition()
        facade.write_q_partition(tmp_path / "bins.h5", bins)
        found = facade.read_q_partition(tmp_path / "bins.h5")
        assert_same_bins(found, bins)
        assert facade.read_q_partition(tmp_path / "bins.h5") is found
        with h5py.File(tmp_path / "bins.h5") as file:
            assert file["/qmap/map_units"].asstr()[0] == "Å⁻¹"
            assert file["/qmap/detector_distance"][()] == 4.0
            assert len(file["/qmap"].attrs["hash"]) == 64
            assert file["/qmap/dynamic_v_list_dim0"].attrs["unit"] == "Å⁻¹"

    def test_q_partition_without_geometry(self, facade, tmp_path):
        bins = dataclasses.replace(files.partition(), metadata=None, map_names=("x", "y"),
                                   map_units=("px", "px"))  # fmt: skip
        facade.write_q_partition(tmp_path / "bins.h5", bins)
        found = facade.read_q_partition(tmp_path / "bins.h5")
        assert found.metadata is None
        assert found.map_units == ("pixel", "pixel")
        with pytest.raises(HDF5ValidationError, match="found bins of x"):
            facade.read_qmap(tmp_path / "bins.h5")

    @pytest.mark.parametrize("compression", ["gzip", "lzf", None])
    def test_compression(self, facade, tmp_path, compression):
        path = tmp_path / "mask.h5"
        facade.write_mask(path, mask((100, 100)), compression=compression)
        with h5py.File(path) as file:
            found = file["/simplemask/mask/mask"]
            assert found.compression == compression
            assert found.compression_opts == (4 if compression == "gzip" else None)
        assert facade.read_mask(path) == mask((100, 100))

    def test_a_listed_partition_serves_as_bins(self, facade, tmp_path):
        schema = files.partition().schema()
        facade.write_partition(tmp_path / "bins.h5", schema)
        found = facade.read_q_partition(tmp_path / "bins.h5")
        np.testing.assert_array_equal(found.static_roi_map, schema.partition_map)
        assert found.dynamic_q.tolist() == list(schema.val_list)
        assert found.metadata == schema.metadata

    @pytest.mark.parametrize("compression", ["szip", "bitshuffle", 32008])
    def test_filters_that_viewers_lack_are_refused(self, facade, tmp_path, compression):
        with pytest.raises(StorageError, match="expected the compression gzip, lzf or None"):
            facade.write_mask(tmp_path / "mask.h5", mask(), compression=compression)
        with pytest.raises(StorageError, match="expected the compression"):
            facade.write_result(tmp_path / "mask.h5", {}, compression=compression)
        with pytest.raises(StorageError, match="the root can't be replaced"):
            facade.write_mask(tmp_path / "mask.h5", mask(), group="/")
        assert list(tmp_path.iterdir()) == []

    def test_fit_result(self, facade, tmp_path):
        @dataclasses.dataclass
        class Fit:
            tau: np.ndarray
            model: str
            nothing: None
            nested: dict

        fit = Fit(np.array([1.0, 2.0]), "single", None, {"a/b": 5, "names": ["a", "b"], "ok": True})
        facade.save_fit_result(tmp_path / "fit.h5", fit)
        found = facade.read_fit_result(tmp_path / "fit.h5")
        np.testing.assert_array_equal(found.pop("tau"), [1.0, 2.0])
        names = found["nested"].pop("names")
        assert found == {"model": "single", "nested": {"a_b": 5, "ok": 1}}
        assert list(names) == ["a", "b"]
        facade.save_fit_result(tmp_path / "fit.h5", {"D": 1.5})
        assert facade.read_fit_result(tmp_path / "fit.h5") == {"D": 1.5}
        with h5py.File(tmp_path / "fit.h5", "r+") as file:
            file["/xpcs/fit"].attrs["names"] = ["a", "b"]
            file["/xpcs/fit"].attrs["n"] = np.int64(3)
        found = facade.read_fit_result(tmp_path / "fit.h5")
        assert found == {"D": 1.5, "names": ["a", "b"], "n": 3}
        with pytest.raises(HDF5ValidationError, match="found a list"):
            facade.save_fit_result(tmp_path / "fit.h5", [1])
        with pytest.raises(HDF5ValidationError, match="/nowhere"):
            facade.read_fit_result(tmp_path / "fit.h5", "/nowhere")

    def test_repository(self, facade, tmp_path):
        repository = XPCSRepository(facade)
        path = files.aps_result(tmp_path / "a.h5", files.partition(), twotime=True)
        assert repository.get_qmap(path) is facade.read_qmap(path)
        assert repository.get_g2_data(path) == facade.read_g2_data(path)
        part = repository.get_twotime_data(path, "c2_00001", np.s_[2:4, 5])
        np.testing.assert_array_equal(
            repository.get_twotime_data(path, np.int64(1)), facade.read_twotime(path, "c2_00001")
        )
        np.testing.assert_allclose(part, facade.read_twotime(path, 1)[2:4, 5])
        repository.save_fit_result(path, {"tau": 1.0})
        assert facade.read_fit_result(path) == {"tau": 1.0}
        assert isinstance(XPCSRepository().get_qmap(path), QMapSchema)


def assert_same_bins(found, expected):
    assert isinstance(found, QPartition)
    for kind in ("dynamic", "static"):
        one, other = getattr(found, kind), getattr(expected, kind)
        np.testing.assert_array_equal(one.roi_map, other.roi_map)
        np.testing.assert_array_equal(one.index_mapping, other.index_mapping)
        np.testing.assert_allclose(one.v_list_dim0, other.v_list_dim0, rtol=1e-12)
        np.testing.assert_allclose(one.v_list_dim1, other.v_list_dim1, rtol=1e-12)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert_same_geometry(found.metadata, expected.metadata)


def assert_same_geometry(found, expected):
    assert found.shape == expected.shape
    for name in ("bcx", "bcy", "det_dist", "lambda_", "pix_dim"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)


class TestOtherLayouts:
    def check_maps(self, facade, path, bins):
        found = facade.read_qmap(path)
        assert found.sqmap_unit == found.dqmap_unit == "nm^-1"
        inside = bins.mask > 0
        expected = bins.dynamic_q[bins.dynamic_roi_map[inside] - 1]
        np.testing.assert_allclose(found.dqmap[inside], expected)
        expected = bins.static_q[bins.static_roi_map[inside] - 1]
        np.testing.assert_allclose(found.sqmap[inside], expected)
        assert (found.sqmap[~inside] == 0).all()
        np.testing.assert_array_equal(found.partition_map, bins.dynamic_roi_map)
        np.testing.assert_array_equal(found.mask, bins.mask)
        np.testing.assert_array_equal(facade.read_mask(path).mask, bins.mask)
        for kind in ("dynamic", "static"):
            schema = facade.read_partition(path, kind=kind)
            np.testing.assert_array_equal(schema.partition_map, getattr(bins, kind).roi_map)
            assert schema.num_pts == getattr(bins, kind).n_labels

    def test_aps_result(self, facade, tmp_path):
        bins = files.partition()
        path = files.aps_result(tmp_path / "a.h5", bins)
        self.check_maps(facade, path, bins)
        assert_same_bins(facade.read_q_partition(path), bins)
        found = facade.read_geometry_metadata(path)
        assert_same_geometry(found, files.GEOMETRY)
        g2 = facade.read_g2_data(path)
        np.testing.assert_allclose(g2.delay_times, files.DELAYS * 0.01 * 2 * 3)
        np.testing.assert_allclose(g2.g2, files.correlation(bins.dynamic.n_labels)[0].T)
        np.testing.assert_allclose(g2.q_values, bins.dynamic_q)
        one = facade.read_g2_data(path, q_idx=2)
        np.testing.assert_array_equal(one.g2, g2.g2[2:3])
        assert one.q_values == g2.q_values[2:3]
        for wrong in (-1, 99):
            with pytest.raises(HDF5ValidationError, match="counted from 0"):
                facade.read_g2_data(path, q_idx=wrong)

    def test_simplemask_partition(self, facade, tmp_path):
        bins = files.partition(method="log")
        path = files.simplemask_partition(tmp_path / "bins.h5", bins)
        self.check_maps(facade, path, bins)
        assert_same_bins(facade.read_q_partition(path), bins)
        found = facade.read_geometry_metadata(path)
        assert_same_geometry(found, files.GEOMETRY)

    @pytest.mark.parametrize("version", [True, False])
    def test_legacy_result(self, facade, tmp_path, version):
        bins = files.partition(n_static_phi=1, n_dynamic_phi=1)
        path = files.legacy_result(tmp_path / "a.h5", bins, twotime=True, version=version)
        if version:
            self.check_maps(facade, path, bins)
        assert facade.read_qmap(path).sqmap_unit == "nm^-1"
        found = facade.read_geometry_metadata(path)
        assert_same_geometry(found, files.GEOMETRY)
        g2 = facade.read_g2_data(path)
        np.testing.assert_allclose(g2.delay_times, files.DELAYS * 0.01)
        scale = 1.0 if version else 0.1
        np.testing.assert_allclose(g2.q_values, bins.dynamic_q * scale)
        np.testing.assert_allclose(
            facade.read_twotime(path), np.triu(files.c2()) + np.triu(files.c2(), 1).T
        )

    def test_legacy_with_azimuths_and_without_geometry(self, facade, tmp_path):
        bins = files.partition()
        path = files.legacy_result(tmp_path / "a.h5", bins)
        with h5py.File(path, "r+") as file:
            del file["/measurement/instrument/detector/distance"]
            del file["/xpcs/mask"]
            for kind in ("dynamic", "static"):
                found = getattr(bins, kind)
                del file[f"/xpcs/{kind[0]}philist"]
                file[f"/xpcs/{kind[0]}philist"] = found.v_list_dim1[:, None]
        found = facade.read_qmap(path)
        assert found.phis_unit == "deg"
        assert set(np.unique(found.phis[bins.mask > 0])) == set(bins.static.v_list_dim1)
        np.testing.assert_array_equal(found.mask, bins.mask)
        with pytest.raises(HDF5ValidationError, match="/xpcs/metadata"):
            facade.read_geometry_metadata(path)

    def test_legacy_lists_only(self, facade, tmp_path):
        path = files.legacy_result(
            tmp_path / "a.h5", files.partition(n_static_phi=1, n_dynamic_phi=1)
        )
        with h5py.File(path, "r+") as file:
            del file["/xpcs/dqmap"]
        assert len(facade.read_g2_data(path).q_values) == 4

    def test_labels_without_list(self, facade, tmp_path):
        path = files.legacy_result(
            tmp_path / "a.h5", files.partition(n_static_phi=1, n_dynamic_phi=1)
        )
        with h5py.File(path, "r+") as file:
            file["/xpcs/dqmap"][10, 10] = 50
        with pytest.raises(HDF5ValidationError, match="found 50"):
            facade.read_qmap(path)

    def test_simplemask_mask_at_the_root(self, facade, tmp_path):
        path = tmp_path / "mask.h5"
        with h5py.File(path, "w") as file:
            file["mask"] = np.eye(4, dtype=bool)
            file.attrs["shape"] = (4, 4)
            file.attrs["version"] = "0.3"
        found = facade.read_mask(path)
        assert found.version == "0.3"
        assert found.metadata is None
        np.testing.assert_array_equal(found.mask, np.eye(4))
        with h5py.File(path, "r+") as file:
            file.attrs["shape"] = (4, 5)
        with pytest.raises(HDF5ValidationError, match=r"shape \(4, 5\)"):
            facade.read_mask(path)

    def test_partition_at_the_root(self, facade, tmp_path):
        path = tmp_path / "bins.h5"
        with h5py.File(path, "w") as file:
            file["partition_map"] = np.array([[0, 1, 1, 2]], np.uint16)
            file["val_list"] = [0.1, 0.2, 0.3]
            file.attrs["num_pts"] = 3
        found = facade.read_partition(path)
        assert found.num_list == (2, 1, 0)
        # As static and dynamic bins, those without a pixel have no label.
        bins = facade.read_q_partition(path)
        assert bins.dynamic_q.tolist() == bins.static_q.tolist() == [0.1, 0.2]
        with h5py.File(path, "r+") as file:
            del file["val_list"]
            file.attrs["val_list"] = [0.1, 0.2, 0.4]
        assert facade.read_partition(path).val_list == (0.1, 0.2, 0.4)
        for name in ("val_list", "num_pts"):
            with h5py.File(path, "r+") as file:
                del file.attrs[name]
            with pytest.raises(HDF5ValidationError, match=name):
                facade.read_partition(path)

    def test_files_without_version_or_units(self, facade, tmp_path):
        path = tmp_path / "old.h5"
        with h5py.File(path, "w") as file:
            for name in ("sqmap", "dqmap", "phis"):
                file[f"/xpcs/qmap/{name}"] = np.ones((3, 4))
            for name, value in {"bcx": 1.0, "bcy": 1.0, "det_dist": 5.0, "lambda_": 1.0,
                                "pix_dim": 0.1, "height": 3, "width": 4}.items():  # fmt: skip
                file[f"/xpcs/metadata/{name}"] = value
            file["/xpcs/g2/g2"] = np.ones((2, 3))
            file["/xpcs/g2/g2_err"] = np.ones((2, 3))
            file["/xpcs/g2/delay_times"] = np.ones(3)
            file["/xpcs/g2/q_list"] = np.ones(2)
        found = facade.read_qmap(path)
        assert (found.sqmap_unit, found.dqmap_unit, found.phis_unit) == ("nm^-1", "nm^-1", "rad")
        assert facade.read_geometry_metadata(path).shape == (3, 4)
        assert facade.read_g2_data(path).q_values == (1.0, 1.0)
        with h5py.File(path, "r+") as file:
            file["/xpcs/qmap"].attrs["sqmap_unit"] = "A^-1"
            file["/xpcs/qmap/phis"].attrs["units"] = b"degrees"
            del file["/xpcs/g2/q_list"]
        found = facade.read_qmap(path)
        assert (found.sqmap_unit, found.phis_unit) == ("A^-1", "deg")
        with pytest.raises(HDF5ValidationError, match="q_values"):
            facade.read_g2_data(path)

    def test_geometry_in_attributes_and_other_units(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            group = file.create_group("/simplemask/mask/metadata")
            group.attrs.update(
                files.GEOMETRY.to_dict() | {"det_rotation": 3.0, "incident_angle": 0.1}
            )
            file["/simplemask/mask/mask"] = np.ones(files.SHAPE)
            other = file.create_group("/xpcs/metadata")
            for name in ("bcx", "bcy", "det_dist", "lambda_", "pix_dim", "shape"):
                value = getattr(files.GEOMETRY, name)
                other[name] = value
            other["det_dist"][()] = 4.0
            other["det_dist"].attrs["units"] = "m"
        wanted = dataclasses.replace(files.GEOMETRY, det_rotation=3.0, incident_angle=0.1)
        assert facade.read_mask(path).metadata == wanted
        assert facade.read_geometry_metadata(path) == files.GEOMETRY
        with h5py.File(path, "r+") as file:
            file["/xpcs/metadata/det_dist"].attrs["units"] = "parsec"
        with pytest.raises(HDF5ValidationError, match="'parsec'"):
            facade.read_geometry_metadata(path)
        with h5py.File(path, "r+") as file:
            del file["/xpcs/metadata"]
        assert facade.read_geometry_metadata(path) == wanted
        with h5py.File(path, "r+") as file:
            del file["/simplemask/mask/metadata"].attrs["shape"]
        with pytest.raises(HDF5ValidationError, match="metadata/shape"):
            facade.read_geometry_metadata(path)


class TestTwoTime:
    def test_halves_are_completed(self, facade, tmp_path):
        path = files.aps_result(tmp_path / "a.h5", files.partition(), twotime=True)
        assert [name[-8:] for name in facade.list_twotime(path)] == ["c2_00001", "c2_00003"]
        full = np.triu(files.c2() + 3) + np.triu(files.c2() + 3, 1).T
        for key in ("c2_00003", 3, "/xpcs/twotime/correlation_map/c2_00003"):
            np.testing.assert_allclose(facade.read_twotime(path, key), full)
        np.testing.assert_allclose(facade.read_twotime(path, 3, slice(2, 4)), full[2:4])
        for key in (2, "c2_00002", "/xpcs/qmap"):
            with pytest.raises(HDF5ValidationError, match="there are 2: c2_00001, c2_00003"):
                facade.read_twotime(path, key)
        with pytest.raises(HDF5ValidationError, match=r"shape \(10, 10\)"):
            facade.read_twotime(path, 3, 50)

    def test_both_halves_stay(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["/exchange/C2T_all/g2_00001"] = files.c2()
            file["/exchange/C2T_all/g2_00002"] = np.ones((3, 4))
        np.testing.assert_array_equal(facade.read_twotime(path), files.c2())
        with pytest.raises(HDF5ValidationError, match=r"square numbers, found .* \(3, 4\)"):
            facade.read_twotime(path, 2)

    def test_none(self, facade, tmp_path):
        facade.write_mask(tmp_path / "a.h5", mask())
        with pytest.raises(HDF5ValidationError, match="correlation_map"):
            facade.read_twotime(tmp_path / "a.h5")
        assert facade.list_twotime(tmp_path / "a.h5") == []


READS = ["read_qmap", "read_g2_data", "read_geometry_metadata", "read_mask", "read_partition",
         "read_q_partition", "read_twotime"]  # fmt: skip


#: Reads files in every way, and says of each whether all errors are as promised.
READ_ALL = """
import sys
from beamline.xpcs.hdf5_facade import HDF5Facade, HDF5ValidationError
split = sys.argv.index("--")
for path in sys.argv[split + 1:]:
    facade, answer = HDF5Facade(), "fine"
    for read in sys.argv[1:split]:
        try:
            getattr(facade, read)(path)
        except HDF5ValidationError as error:
            if path not in str(error):
                answer = f"wrong: {read}: {error}"
        except Exception as error:
            answer = f"wrong: {read}: {error!r}"
    facade.clear_pool()
    print(answer, flush=True)
"""


class TestHostileFiles:
    @pytest.mark.parametrize("read", READS)
    def test_missing_everything(self, facade, tmp_path, read):
        path = tmp_path / "empty.h5"
        h5py.File(path, "w").close()
        with pytest.raises(HDF5ValidationError, match=rf"{path}, /\S+: there is no such"):
            getattr(facade, read)(path)

    @pytest.mark.parametrize("read", READS)
    def test_no_file(self, facade, tmp_path, read):
        with pytest.raises(MissingFileError, match=r"nothing.h5: there is no such file") as caught:
            getattr(facade, read)(tmp_path / "nothing.h5")
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, SchemaValidationError)

    @pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n"])
    def test_not_hdf5(self, facade, tmp_path, content):
        path = tmp_path / "a.h5"
        path.write_bytes(content)
        with pytest.raises(HDF5ValidationError, match="can't be opened as HDF5"):
            facade.read_qmap(path)
        if content:
            with pytest.raises(HDF5ValidationError, match="can't be opened as HDF5"):
                facade.write_mask(path, mask())
            assert path.read_bytes() == content

    def test_folders(self, facade, tmp_path):
        with pytest.raises(HDF5ValidationError, match="can't be opened"):
            facade.read_qmap(tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(HDF5ValidationError, match="can't be opened"):
            facade.read_qmap(tmp_path / "file" / "a.h5")

    def test_cut_off_anywhere(self, facade, tmp_path):
        good = files.aps_result(tmp_path / "good.h5", files.partition(), twotime=True)
        content = good.read_bytes()
        for index, size in enumerate(np.linspace(8, len(content) - 8, 40, dtype=int)):
            path = tmp_path / f"{index}.h5"
            path.write_bytes(content[:size])
            for read in READS:
                with pytest.raises(HDF5ValidationError):
                    getattr(facade, read)(path)

    @pytest.mark.timeout(400)
    def test_damaged_anywhere(self, tmp_path):
        """Whatever is damaged, the error is ours; HDF5 itself may hang or crash, in a child."""
        good = files.aps_result(tmp_path / "good.h5", files.partition(), twotime=True)
        rng = np.random.default_rng(5)
        damaged = []
        for number in range(40):
            content = bytearray(good.read_bytes())
            for place in rng.integers(0, len(content), rng.integers(1, 30)):
                content[place] = rng.integers(256)
            damaged.append(tmp_path / f"{number}.h5")
            damaged[-1].write_bytes(content)
        lines = []
        while len(lines) < len(damaged):
            rest = [str(path) for path in damaged[len(lines) :]]
            child = [sys.executable, "-c", READ_ALL, *READS, "--", *rest]
            try:
                done = subprocess.run(child, capture_output=True, text=True, timeout=90)
                output = done.stdout
                assert done.returncode <= 0, done.stderr
            except subprocess.TimeoutExpired as error:
                output = (error.stdout or b"").decode()
            lines += [line for line in output.splitlines() if line]
            if len(lines) < len(damaged):
                lines.append("HDF5 did not survive this one")
        assert lines.count("HDF5 did not survive this one") <= 4
        assert not [line for line in lines if line.startswith("wrong")]

    @pytest.mark.parametrize(
        ("path", "value", "words"),
        [
            ("/xpcs/qmap/sqmap", np.full((6, 8), np.nan), "sqmap: expected finite"),
            ("/xpcs/qmap/sqmap", np.ones((5, 8)), r"dqmap: expected shape \(5, 8\)"),
            ("/xpcs/qmap/phis", np.ones(6), "phis"),
            ("/xpcs/qmap/dqmap", "text", "dqmap"),
            ("/xpcs/qmap/dqmap", None, "/xpcs/qmap/dqmap: there is no such"),
            ("/xpcs/qmap/sqmap_unit", "1/m", "one of nm"),
            ("/xpcs/qmap/sqmap_unit", 5, "found '5'|expected text"),
            ("/xpcs/qmap/mask", np.full((6, 8), 7), "only 0"),
            ("/xpcs/qmap/phis", h5py.Empty("f"), "phis"),
            ("/xpcs/qmap/phis", {"a": 1}, "expected a dataset, found a group"),
        ],
    )
    def test_wrong_maps(self, facade, tmp_path, path, value, words):
        file_path = tmp_path / "a.h5"
        facade.write_qmap(file_path, q_map())
        change(file_path, path, value)
        with pytest.raises(HDF5ValidationError, match=words) as caught:
            facade.read_qmap(file_path)
        assert str(file_path) in str(caught.value)

    @pytest.mark.parametrize(
        ("path", "value", "words"),
        [
            ("/xpcs/qmap/static_index_mapping", np.arange(3), "list of bins has 3"),
            ("/xpcs/qmap/dynamic_roi_map", np.ones((3, 3), int), "labels up to"),
            ("/xpcs/qmap/dynamic_roi_map", np.full(files.SHAPE, 0.5), "whole numbers"),
            ("/xpcs/qmap/static_v_list_dim0", np.ones((3, 3)), "expected a list of numbers"),
            ("/xpcs/qmap/map_names", ["q"], "two names"),
            ("/xpcs/qmap/map_units", ["1/m", "deg"], "units of q"),
            ("/xpcs/qmap/detector_distance", -1.0, "det_dist"),
            ("/xpcs/qmap/pixel_size", [1.0, 2.0], "expected one number"),
            ("/entry/instrument/incident_beam/incident_energy", 0.0, "lambda_"),
        ],
    )
    def test_wrong_results(self, facade, tmp_path, path, value, words):
        file_path = files.aps_result(tmp_path / "a.h5", files.partition())
        change(file_path, path, value)
        with pytest.raises(HDF5ValidationError, match=words) as caught:
            facade.read_qmap(file_path)
        assert str(file_path) in str(caught.value)

    @pytest.mark.parametrize(
        ("path", "value", "words"),
        [
            ("/xpcs/multitau/delay_list", np.arange(3), "delay_times"),
            ("/xpcs/multitau/normalized_g2_err", None, "normalized_g2_err"),
            ("/xpcs/multitau/normalized_g2", np.ones((6, 99)), "shape"),
            ("/entry/instrument/detector_1/frame_time", None, "frame_time"),
            ("/entry/instrument/detector_1/frame_time", -1.0, "delay_times"),
        ],
    )
    def test_wrong_g2(self, facade, tmp_path, path, value, words):
        file_path = files.aps_result(tmp_path / "a.h5", files.partition())
        change(file_path, path, value)
        with pytest.raises(HDF5ValidationError, match=words):
            facade.read_g2_data(file_path)

    def test_wrong_mask_place(self, facade, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_group("/mask")
        with pytest.raises(HDF5ValidationError, match="/simplemask/mask/mask"):
            facade.read_mask(tmp_path / "a.h5")

    def test_links_that_lead_nowhere_and_what_h5py_does_not_know(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["loop"] = h5py.SoftLink("/loop")
            file["group/data"] = np.ones(3)
            file["again"] = h5py.SoftLink("/group")
            file["type"] = np.dtype("f8")
            file.create_dataset("huge", (2**31, 8), np.float64, chunks=(1024, 8))
            scalar = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5a.create(file["group"].id, b"version", h5py.h5t.UNIX_D32LE.copy(), scalar)
            file["group/mask"] = np.ones((2, 2))
        assert set(facade.shapes(path)) == {"/huge", "/again/data", "/again/mask"} or set(
            facade.shapes(path)
        ) == {"/huge", "/group/data", "/group/mask"}
        with pytest.raises(HDF5ValidationError, match="/loop: it can't be opened"):
            facade.read_dataset(path, "/loop")
        with pytest.raises(HDF5ValidationError, match=r"/huge: .*131072 MiB are too much"):
            facade.read_dataset(path, "/huge")
        with pytest.raises(HDF5ValidationError, match="/group: its attributes can't be read"):
            facade.read_mask(path, "/group")

    def test_a_damaged_group(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w", libver="latest") as file:
            for number in range(40):
                file[f"/exchange/C2T_all/g2_{number:05d}"] = number
        path.write_bytes(path.read_bytes().replace(b"BTHD", b"XXXX"))
        with pytest.raises(HDF5ValidationError, match=r"/exchange/C2T_all: it can't be listed"):
            facade.list_twotime(path)

    def test_a_file_that_goes_while_it_is_opened(self, facade, tmp_path, monkeypatch):
        from beamline.xpcs import _facade_pool

        (tmp_path / "a.h5").touch()
        known = _facade_pool.identify(str(tmp_path / "a.h5"))
        monkeypatch.setattr(_facade_pool, "identify", lambda _: known)
        with pytest.raises(MissingFileError, match=r"b.h5: there is no such file"):
            facade.read_qmap(tmp_path / "b.h5")

    def test_reading_once(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        facade.write_mask(path, mask())
        with h5py.File(path, locking=True):
            assert "/simplemask/mask/mask" in facade.shapes(path)
        with h5py.File(path, locking=False):
            assert "/simplemask/mask/mask" in facade.shapes(path)
        (tmp_path / "b.h5").write_bytes(b"no HDF5")
        with pytest.raises(HDF5ValidationError, match="can't be opened as HDF5"):
            facade.shapes(tmp_path / "b.h5")

    def test_numbers_and_text_as_datasets(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["partition_map"] = np.array([[1, 1]])
            file["num_pts"] = 1
            file["val_list"] = [0.1]
            file["version"] = "0.9"
            file["method"] = b"log"
        found = facade.read_partition(path)
        assert (found.version, found.method, found.num_list) == ("0.9", "log", (2,))

    def test_dangling_link(self, facade, tmp_path):
        facade.write_qmap(tmp_path / "a.h5", q_map())
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            del file["/xpcs/qmap/phis"]
            file["/xpcs/qmap/phis"] = h5py.ExternalLink("nowhere.h5", "/phis")
        with pytest.raises(HDF5ValidationError, match="/xpcs/qmap/phis"):
            facade.read_qmap(tmp_path / "a.h5")

    def test_damaged_chunk(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        rng = np.random.default_rng(0)
        facade.write_mask(path, MaskSchema(rng.integers(0, 2, (200, 200))))
        with h5py.File(path) as file:
            chunk = file["/simplemask/mask/mask"].id.get_chunk_info(0)
        with path.open("r+b") as stream:
            stream.seek(chunk.byte_offset)
            stream.write(b"\xff" * chunk.size)
        with pytest.raises(HDF5ValidationError, match=r"/simplemask/mask/mask: it can't be read"):
            facade.read_mask(path)


def change(file_path, path, value):
    with h5py.File(file_path, "r+") as file:
        if path in file:
            del file[path]
        if isinstance(value, dict):
            file.create_group(path)
        elif value is not None:
            file[path] = value


class TestPool:
    def test_cached_reads_share_one_object(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        assert facade.read_qmap(path) is facade.read_qmap(str(path))
        stats = facade.get_pool_stats()
        assert (stats["misses"], stats["decoded_hits"], stats["connections"]) == (1, 1, 1)
        facade.clear_pool()
        assert facade.get_pool_stats()["connections"] == 0
        assert facade.get_pool_stats()["decoded_bytes"] == 0

    def test_thirty_files_in_a_cycle(self, facade, tmp_path):
        paths = [tmp_path / f"{number}.h5" for number in range(30)]
        for path in paths:
            facade.write_qmap(path, q_map())
        for _ in range(30):
            for path in paths:
                facade.read_qmap(path)
        assert facade.get_pool_stats()["hit_rate"] > 0.95

    def test_replaced_and_changed_files(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map(value=1.0))
        assert facade.read_qmap(path).sqmap[0, 0] == 1.0
        HDF5Facade().write_qmap(tmp_path / "b.h5", q_map(value=2.0))
        (tmp_path / "b.h5").replace(path)
        assert facade.read_qmap(path).sqmap[0, 0] == 2.0
        with h5py.File(path, "r+") as file:
            file["/xpcs/qmap/sqmap"][...] = 3.0
        os.utime(path, ns=(0, time.time_ns() + 10**9))
        assert facade.read_qmap(path).sqmap[0, 0] == 3.0
        assert facade.get_pool_stats()["replaced"] == 2
        path.unlink()
        with pytest.raises(MissingFileError):
            facade.read_qmap(path)

    def test_connections_are_bounded(self, tmp_path):
        from beamline.xpcs.hdf5_facade import ConnectionPool

        facade = HDF5Facade(ConnectionPool(max_connections=2, cache_bytes=0))
        paths = [tmp_path / f"{number}.h5" for number in range(4)]
        for path in paths:
            facade.write_qmap(path, q_map())
            facade.read_qmap(path)
            facade.read_qmap(path)
        stats = facade.get_pool_stats()
        assert (stats["connections"], stats["evictions"], stats["decoded_values"]) == (2, 2, 0)
        assert stats["hits"] == 4
        lend = facade.pool.connection
        with lend(paths[0]), lend(paths[1]), lend(paths[2]) as file:
            assert "/xpcs/qmap" in file
            assert facade.get_pool_stats()["connections_in_use"] == 3
        assert facade.get_pool_stats()["connections"] == 2
        facade.clear_pool()

    def test_memory_is_bounded(self, tmp_path):
        from beamline.xpcs.hdf5_facade import ConnectionPool

        one = 3 * 8 * 10000
        facade = HDF5Facade(ConnectionPool(cache_bytes=int(2.5 * one)))
        for number in range(4):
            facade.write_qmap(tmp_path / f"{number}.h5", q_map((100, 100)))
            facade.read_qmap(tmp_path / f"{number}.h5")
        stats = facade.get_pool_stats()
        assert stats["decoded_values"] == 2
        assert stats["decoded_bytes"] <= stats["decoded_limit"]
        facade.clear_pool()

    @pytest.mark.parametrize("arguments", [(0, 1), (1, -1)])
    def test_impossible_pools(self, arguments):
        from beamline.xpcs.hdf5_facade import ConnectionPool

        with pytest.raises(ConfigurationError, match="impossible"):
            ConnectionPool(*arguments)

    def test_an_exception_leaves_the_pool_sound(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        with pytest.raises(ZeroDivisionError), facade.pool.connection(path) as file:
            fail_after(file)
        stats = facade.get_pool_stats()
        assert (stats["errors"], stats["connections"], stats["connections_in_use"]) == (1, 0, 0)
        assert not file
        with pytest.raises(HDF5ValidationError):
            facade.read_g2_data(path)
        assert facade.get_pool_stats()["connections"] == 1
        assert facade.read_qmap(path) == q_map()

    def test_an_exception_beside_another_reader(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        with facade.pool.connection(path) as file:
            with pytest.raises(ZeroDivisionError), facade.pool.connection(path) as same:
                fail_after(same)
            assert same is file
            assert "/xpcs/qmap" in file
            assert facade.read_qmap(path) == q_map()
        assert not file
        assert facade.get_pool_stats()["connections_in_use"] == 0

    def test_a_reader_never_waits_for_another_file(self, facade, tmp_path):
        for name in ("a.h5", "b.h5"):
            facade.write_qmap(tmp_path / name, q_map())
        inside, done = threading.Event(), threading.Event()

        def slow():
            with facade.pool.connection(tmp_path / "a.h5"):
                inside.set()
                assert done.wait(60)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            assert inside.wait(60)
            assert facade.read_qmap(tmp_path / "b.h5") == q_map()
            with pytest.raises(HDF5ValidationError):
                facade.read_g2_data(tmp_path / "b.h5")
            assert facade.read_qmap(tmp_path / "a.h5") == q_map()
        finally:
            done.set()
            thread.join()

    def test_many_threads(self, tmp_path):
        from beamline.xpcs.hdf5_facade import ConnectionPool

        facade = HDF5Facade(ConnectionPool(max_connections=3, cache_bytes=100_000))
        paths = [tmp_path / f"{number}.h5" for number in range(6)]
        for number, path in enumerate(paths):
            facade.write_qmap(path, q_map(value=number))
        wrong = []

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(30):
                number = int(rng.integers(6))
                try:
                    if rng.random() < 0.1:
                        facade.write_mask(paths[number], mask())
                    found = facade.read_qmap(paths[number]).sqmap[0, 0]
                    if found != number:
                        wrong.append((number, found))
                except Exception as error:  # noqa: BLE001
                    wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        stats = facade.get_pool_stats()
        assert stats["connections"] <= 3
        assert stats["connections_in_use"] == 0
        facade.clear_pool()

    def test_two_that_open_at_once(self, facade, tmp_path, monkeypatch):
        """Both get a file; only one stays open."""
        from beamline.xpcs import _facade_pool

        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        both = threading.Barrier(2, timeout=60)
        real = _facade_pool._open

        def slowly(name):
            file = real(name)
            both.wait()
            return file

        monkeypatch.setattr(_facade_pool, "_open", slowly)
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(facade.read_qmap(path))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [q_map(), q_map()]
        assert facade.get_pool_stats()["connections"] == 1

    def test_large_arrays_are_read_in_pieces(self, facade, tmp_path):
        values = np.random.default_rng(0).random((40, 200, 200))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("plain", data=values)
            file.create_dataset("chunked", data=values, chunks=(3, 200, 200), compression="lzf")
        for name in ("plain", "chunked"):
            np.testing.assert_array_equal(facade.read_dataset(tmp_path / "a.h5", name), values)
        part = facade.read_dataset(tmp_path / "a.h5", "plain", np.s_[3, :4])
        np.testing.assert_array_equal(part, values[3, :4])
        assert facade.shapes(tmp_path / "a.h5") == {
            "/chunked": values.shape, "/plain": values.shape,
        }  # fmt: skip
        with pytest.raises(HDF5ValidationError, match="can't be read"):
            facade.read_dataset(tmp_path / "a.h5", "plain", 99)


def fail_after(file):
    assert "/xpcs/qmap" in file
    raise ZeroDivisionError


class TestWrites:
    def test_other_groups_stay(self, facade, tmp_path):
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        facade.write_mask(path, mask(value=1))
        facade.write_mask(path, mask(value=0))
        assert facade.read_qmap(path) == q_map()
        assert facade.read_mask(path) == mask(value=0)
        assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]

    @pytest.mark.parametrize("limit", [0, 1 << 30])
    def test_while_the_file_is_open_for_reading(self, tmp_path, limit):
        facade, other = HDF5Facade(in_place_above=limit), HDF5Facade()
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        facade.write_mask(path, mask(value=1))
        assert other.read_mask(path) == mask(value=1)
        with facade.pool.connection(path) as reader:
            facade.write_mask(path, mask(value=0))
            assert reader["/simplemask/mask/mask"][0, 0] == 1
        assert facade.read_mask(path) == mask(value=0)
        assert other.read_mask(path) == mask(value=0)
        other.clear_pool()
        facade.clear_pool()

    def test_in_place(self, tmp_path):
        facade = HDF5Facade(in_place_above=0)
        path = tmp_path / "a.h5"
        facade.write_qmap(path, q_map())
        inode = path.stat().st_ino
        with h5py.File(path, "r+") as file:
            file.create_group("/simplemask/mask.part/left/over")
        facade.write_mask(path, mask())
        assert path.stat().st_ino == inode
        assert facade.read_mask(path) == mask()
        assert facade.read_qmap(path) == q_map()
        with h5py.File(path) as file:
            assert list(file["/simplemask"]) == ["mask"]

    @pytest.mark.parametrize("limit", [0, 1 << 30])
    def test_a_failed_write_changes_nothing(self, tmp_path, limit, monkeypatch):
        facade = HDF5Facade(in_place_above=limit)
        path = tmp_path / "a.h5"
        facade.write_mask(path, mask(value=1))
        before = path.read_bytes()
        from beamline.xpcs import _facade_writing

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(_facade_writing, "_write_dataset", full)
        with pytest.raises(StorageError, match=rf"{path}: it can't be written .*No space left"):
            facade.write_mask(path, mask(value=0))
        monkeypatch.undo()
        assert facade.read_mask(path) == mask(value=1)
        if limit:
            assert path.read_bytes() == before
        assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]
        facade.write_mask(path, mask(value=0))
        assert facade.read_mask(path) == mask(value=0)

    def test_no_permission(self, facade, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="can't be written"):
            facade.write_mask(tmp_path / "file" / "a.h5", mask())
        with pytest.raises(StorageError, match="can't be written"):
            facade.write_result(tmp_path / "file" / "a.h5", {})

    def test_group_below_a_dataset(self, facade, tmp_path):
        facade.write_mask(tmp_path / "a.h5", mask())
        with pytest.raises(StorageError, match="can't be written"):
            facade.write_mask(tmp_path / "a.h5", mask(), "/simplemask/mask/mask/deeper")
        assert facade.read_mask(tmp_path / "a.h5") == mask()

    def test_links_and_modes_stay(self, facade, tmp_path):
        path = tmp_path / "real.h5"
        facade.write_mask(path, mask())
        path.chmod(0o640)
        (tmp_path / "link.h5").symlink_to(path)
        facade.write_mask(tmp_path / "link.h5", mask(value=0))
        assert (tmp_path / "link.h5").is_symlink()
        assert path.stat().st_mode & 0o777 == 0o640
        assert facade.read_mask(path) == mask(value=0)

    def test_result(self, facade, tmp_path):
        path = tmp_path / "folder" / "result.h5"
        tree = {
            "/entry": Group("NXentry", {"default": "data"}),
            "/entry/title": Field("µ"),
            "/entry/data": Group("NXdata", {"axes": ["delay", "."], "n": 3}),
            "/entry/data/g2": Field(np.ones((50, 40, 30)), {"units": ""}),
            "/entry/names": Field(["a", "b"]),
            "/entry/flag": Field(True),
            "/xpcs/g2": Link("/entry/data/g2", {"shown": 1}),
        }
        assert facade.write_result(path, tree, compression="lzf") == path
        with h5py.File(path) as file:
            assert file.attrs.get("NX_class") is None
            assert file["/entry"].attrs["NX_class"] == "NXentry"
            assert list(file["/entry/data"].attrs["axes"]) == ["delay", "."]
            assert file["/entry/title"].asstr()[()] == "µ"
            assert list(file["/entry/names"].asstr()) == ["a", "b"]
            assert file["/xpcs/g2"].id == file["/entry/data/g2"].id
            assert file["/xpcs/g2"].attrs["target"] == "/entry/data/g2"
            assert file["/entry/data/g2"].chunks == (1, 40, 30)
            assert file["/entry/data/g2"].compression == "lzf"
            assert file["/entry/flag"][()] in (1, True)
        before = path.read_bytes()
        with pytest.raises(StorageError, match="ExternalLink"):
            facade.write_result(path, {"/a": ExternalLink("b", "c")})
        assert path.read_bytes() == before
        assert [item.name for item in path.parent.iterdir()] == ["result.h5"]
        facade.write_result(path, {"/a": Field(1.0)})
        assert facade.read_dataset(path, "/a") == 1.0
