import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamline.xpcs.geometry import (
    convert_q,
    phi_map,
    pixel_maps,
    q_map,
    q_values,
    wavelength,
    wavenumber,
)
from beamline.xpcs.partitions import Binning, PartitionError, QPartition, make_partition
from beamline.xpcs.schemas import GeometryMetadata, PartitionSchema, SchemaValidationError


def geometry(shape=(40, 60), bcx=20.0, bcy=15.0, **changes):
    values = {"det_dist": 5000.0, "lambda_": wavelength(8.0), "pix_dim": 0.075, **changes}
    return GeometryMetadata(bcx, bcy, shape=shape, **values)


class TestMaps:
    def test_one_pixel_by_hand(self):
        here = geometry()
        radius = math.hypot(30 - 20, 5 - 15) * 0.075
        alpha = math.atan(radius / 5000.0)
        k0 = 2 * math.pi / (12.398419843 / 8.0) * 10  # 1/nm
        assert wavenumber(here) == pytest.approx(k0, rel=1e-14)
        assert q_values(here)[5, 30] == pytest.approx(k0 * math.sin(alpha), rel=1e-13)
        exact = 2 * k0 * math.sin(alpha / 2)
        assert q_values(here, exact=True)[5, 30] == pytest.approx(exact, rel=1e-13)
        assert phi_map(here)[5, 30] == pytest.approx(math.pi / 4)

    def test_large_angles(self):
        here = geometry(det_dist=1.0)
        x, y = pixel_maps(here)
        alpha = np.arctan(np.hypot(x, y) * 0.075)
        np.testing.assert_allclose(q_values(here), wavenumber(here) * np.sin(alpha), rtol=1e-13)

    def test_azimuth_goes_against_rows(self):
        phi = phi_map(geometry(), unit="deg")
        assert phi[15, 30] == 0.0
        assert phi[5, 20] == 90.0
        assert phi[25, 20] == -90.0
        assert abs(phi[15, 10]) == 180.0

    @pytest.mark.parametrize("rotation", [30.0, 200.0, -170.0, 720.0])
    def test_rotation_is_added(self, rotation):
        plain = phi_map(geometry())
        turned = phi_map(geometry(det_rotation=rotation))
        np.testing.assert_allclose(
            np.exp(1j * turned), np.exp(1j * (plain + math.radians(rotation))), atol=1e-12
        )
        assert turned.min() >= -math.pi
        assert turned.max() < math.pi

    def test_schema_and_units(self):
        angstrom = q_map(geometry(), q_unit="A^-1", phi_unit="deg", mask=np.ones((40, 60), bool))
        nanometre = q_map(geometry())
        np.testing.assert_allclose(angstrom.sqmap * 10, nanometre.sqmap, rtol=1e-14)
        assert angstrom.phis_unit == "deg"
        assert angstrom.mask.all()
        values = np.array([1.0])
        assert convert_q(values, "nm^-1", "A^-1")[0] == pytest.approx(0.1)
        assert convert_q(values, "nm^-1", "nm^-1") is values

    def test_unknown_units(self):
        with pytest.raises(ValueError, match="nm"):
            q_values(geometry(), unit="1/m")
        with pytest.raises(ValueError, match="rad"):
            phi_map(geometry(), unit="grad")


def check(partition, mask):
    """What holds for every partition."""
    valid = mask > 0
    for kind in ("dynamic", "static"):
        bins = getattr(partition, kind)
        assert bins.roi_map.dtype == np.int32
        np.testing.assert_array_equal(bins.roi_map > 0, valid)
        present = np.unique(bins.roi_map[valid])
        np.testing.assert_array_equal(present, np.arange(1, bins.n_labels + 1))
        assert bins.num_list.sum() == valid.sum()
        assert len(bins.values) == len(bins.second_values) == bins.n_labels
        schema = partition.schema(kind)
        assert PartitionSchema.from_dict(schema.to_dict()) == schema
    inside = partition.static_to_dynamic[partition.static_roi_map[valid] - 1]
    np.testing.assert_array_equal(inside, partition.dynamic_roi_map[valid])


class TestPartition:
    def test_rings_by_hand(self):
        here = geometry()
        partition = make_partition(here, n_static=8, n_dynamic=4)
        q = q_values(here)
        edges = np.linspace(q.min(), q.max(), 9)
        for label in range(1, 9):
            inside = q[partition.static_roi_map == label]
            assert inside.min() >= edges[label - 1] - 1e-9
            assert inside.max() <= edges[label] + 1e-9
        np.testing.assert_allclose(partition.static_q, 0.5 * (edges[1:] + edges[:-1]))
        np.testing.assert_array_equal(
            partition.dynamic_roi_map, (partition.static_roi_map + 1) // 2
        )
        assert partition.static.num_pts == (8, 1)
        assert partition.shape == (40, 60)
        mean = partition.mean_q("static")
        assert mean[3] == pytest.approx(q[partition.static_roi_map == 4].mean(), rel=1e-12)
        check(partition, np.ones(here.shape))

    def test_logarithmic(self):
        here = geometry()
        partition = make_partition(here, n_static=6, n_dynamic=3, method="log")
        q = q_values(here)
        least = q[q > 0].min()
        edges = np.geomspace(least, q.max(), 7)
        np.testing.assert_allclose(
            partition.static.v_list_dim0, np.sqrt(edges[1:] * edges[:-1]), rtol=1e-12
        )
        assert partition.static_roi_map[15, 20] == 1  # q = 0
        assert partition.method == "log"
        check(partition, np.ones(here.shape))

    def test_azimuths(self):
        here = geometry()
        partition = make_partition(here, n_static=4, n_dynamic=2, n_static_phi=12, n_dynamic_phi=4)
        check(partition, np.ones(here.shape))
        assert partition.dynamic.num_pts == (2, 4)
        centres = partition.dynamic_phi[partition.dynamic_roi_map - 1]
        phi = phi_map(here, unit="deg")
        assert np.abs(centres - phi).max() <= 45.0 + 1e-9
        natural = partition.dynamic.index_mapping
        np.testing.assert_array_equal(
            partition.dynamic_q, partition.dynamic.v_list_dim0[natural // 4]
        )
        assert len(partition.static_phi) == partition.static.n_labels

    def test_offset_turns_the_azimuths(self):
        here = geometry(shape=(41, 41), bcx=20.0, bcy=20.0)
        plain = make_partition(here, n_static=1, n_dynamic=1, n_static_phi=4, n_dynamic_phi=4)
        turned = make_partition(
            here, n_static=1, n_dynamic=1, n_static_phi=4, n_dynamic_phi=4, phi_offset=90.0
        )
        inner = np.zeros(here.shape, bool)
        inner[3, 5] = inner[30, 33] = True
        assert (plain.dynamic_roi_map[inner] % 4 + 1 == turned.dynamic_roi_map[inner]).all()

    def test_symmetric_sectors_share_a_bin(self):
        here = geometry(shape=(41, 41), bcx=20.0, bcy=20.0)
        bins = make_partition(
            here, n_static=1, n_dynamic=1, n_static_phi=3, n_dynamic_phi=3, symmetry=2,
            phi_offset=1.0,
        )  # fmt: skip
        # Turned by 180° about the beam, the map is the same.
        turned = bins.dynamic_roi_map[::-1, ::-1]
        differing = np.count_nonzero(turned != bins.dynamic_roi_map)
        assert differing <= 1

    def test_empty_bins_get_no_label(self):
        here = geometry()
        q = q_values(here)
        middle = (q > 0.3 * q.max()) & (q < 0.6 * q.max())
        mask = ~middle
        partition = make_partition(here, mask, n_static=20, n_dynamic=10)
        check(partition, mask)
        assert partition.dynamic.n_labels < 10
        assert partition.dynamic.num_pts == (10, 1)

    def test_range_of_q(self):
        here = geometry()
        q = q_values(here)
        partition = make_partition(here, n_static=4, n_dynamic=2, q_range=(0.01, 0.02))
        np.testing.assert_array_equal(partition.mask > 0, (q >= 0.01) & (q <= 0.02))

    def test_one_pixel(self):
        mask = np.zeros((40, 60), np.int32)
        mask[3, 4] = 1
        for method in ("linear", "log"):
            partition = make_partition(geometry(), mask, method=method)
            check(partition, mask)
            assert partition.dynamic.n_labels == 1

    @given(
        bcx=st.floats(-5, 65), bcy=st.floats(-5, 45), seed=st.integers(0, 99),
        n_dynamic=st.integers(1, 6), ratio=st.integers(1, 5), n_phi=st.integers(1, 4),
        phi_ratio=st.integers(1, 3), method=st.sampled_from(["linear", "log"]),
        symmetry=st.integers(1, 4), offset=st.floats(-400, 400), distance=st.floats(1, 1e5),
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore:The beam centre")
    def test_every_valid_pixel_is_in_a_bin(
        self, bcx, bcy, seed, n_dynamic, ratio, n_phi, phi_ratio, method, symmetry, offset, distance
    ):
        here = geometry(shape=(12, 17), bcx=bcx, bcy=bcy, det_dist=distance)
        mask = np.random.default_rng(seed).random(here.shape) < 0.7
        partition = make_partition(
            here, mask, n_static=n_dynamic * ratio, n_dynamic=n_dynamic,
            n_static_phi=n_phi * phi_ratio, n_dynamic_phi=n_phi, method=method,
            symmetry=symmetry, phi_offset=offset,
        )  # fmt: skip
        check(partition, mask)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"n_static": 0}, "the least is 1"),
            ({"n_dynamic": 0}, "the least is 1"),
            ({"n_static": 25, "n_dynamic": 10}, "take 30 static bins"),
            ({"n_static_phi": 3, "n_dynamic_phi": 2}, "of azimuth"),
            ({"method": "cubic"}, "linear or log"),
            ({"symmetry": 0}, "symmetry"),
            ({"q_range": (2.0, 1.0)}, "no range"),
            ({"q_range": (100.0, 200.0)}, "they have 0 to"),
            ({"mask": np.zeros((40, 60))}, "all of them are masked"),
        ],
    )
    def test_refused(self, changes, words):
        with pytest.raises(PartitionError, match=words):
            make_partition(geometry(), **changes)

    def test_mask_of_another_shape(self):
        with pytest.raises(SchemaValidationError, match=r"\(40, 60\), found shape \(3, 3\)"):
            make_partition(geometry(), np.ones((3, 3)))

    def test_only_pixel_at_zero(self):
        mask = np.zeros((40, 60), np.int32)
        mask[15, 20] = 1
        with pytest.raises(PartitionError, match="q > 0"):
            make_partition(geometry(), mask, method="log")


def binning(labels, number=None):
    number = labels.max() if number is None else number
    return Binning(labels, np.arange(float(number)), np.zeros(1), np.arange(number))


class TestConsistency:
    def test_static_bin_in_two_dynamic_bins(self):
        with pytest.raises(PartitionError, match="more than one dynamic bin"):
            QPartition(binning(np.array([[1, 2]])), binning(np.array([[1, 1]])), np.ones((1, 2)))

    def test_pixels_differ(self):
        with pytest.raises(PartitionError, match="in no static one"):
            QPartition(binning(np.array([[1, 2]])), binning(np.array([[1, 0]])), np.ones((1, 2)))

    def test_shapes_differ(self):
        with pytest.raises(PartitionError, match=r"\(1, 2\), the static ones of \(1, 3\)"):
            QPartition(binning(np.array([[1, 2]])), binning(np.array([[1, 1, 1]])), np.ones((1, 2)))

    def test_all_masked(self):
        nothing = binning(np.zeros((1, 2), int))
        with pytest.raises(PartitionError, match="all of them are masked"):
            QPartition(nothing, nothing, np.zeros((1, 2)))

    def test_labels_and_lists(self):
        with pytest.raises(PartitionError, match="labels up to 2, but the list of bins has 3"):
            binning(np.array([[1, 2]]), 3)
        with pytest.raises(PartitionError, match="there are 1 bins"):
            Binning(np.array([[1]]), np.zeros(1), np.zeros(1), np.array([4]))

    def test_unknown_kind_and_geometry(self):
        bins = binning(np.array([[1, 2]]))
        partition = QPartition(bins, bins, np.ones((1, 2)))
        with pytest.raises(PartitionError, match="not known"):
            partition.mean_q()
        with pytest.raises(PartitionError, match="'fine'"):
            partition.schema("fine")
