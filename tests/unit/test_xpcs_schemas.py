import math
import timeit
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beamline.core.errors import BeamlineError
from beamline.xpcs.schemas import (
    G2Data,
    GeometryMetadata,
    MaskSchema,
    PartitionSchema,
    QMapSchema,
    SchemaValidationError,
)

GEOMETRY = {"bcx": 3.0, "bcy": 2.0, "det_dist": 5000.0, "lambda_": 1.54, "pix_dim": 0.075,
            "shape": (4, 6)}  # fmt: skip


def geometry(**changes):
    return GeometryMetadata(**{**GEOMETRY, **changes})


def maps(shape=(4, 6), **changes):
    values = np.linspace(0.0, 1.0, math.prod(shape)).reshape(shape)
    return {"sqmap": values, "dqmap": values + 1.0, "phis": values - 1.0, **changes}


def partition(**changes):
    labels = np.array([[0, 1, 1], [2, 2, 2]], np.int32)
    return {"partition_map": labels, "num_pts": 2, "val_list": [0.1, 0.2], "num_list": [2, 3],
            **changes}  # fmt: skip


def g2(**changes):
    return {"g2": np.ones((2, 3)), "g2_err": np.zeros((2, 3)), "delay_times": [0.0, 1.0, 2.0],
            "q_values": [0.1, 0.2], **changes}  # fmt: skip


def refused(words, schema, data):
    with pytest.raises(SchemaValidationError, match=words) as caught:
        schema(**data)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, BeamlineError)
    assert str(caught.value).startswith(schema.__name__)


class TestGeometry:
    def test_values(self):
        found = geometry(shape=np.array([4, 6]), det_rotation=1, incident_angle=0.2)
        assert found.shape == (4, 6)
        assert type(found.det_rotation) is float
        assert found.energy == pytest.approx(12.398419843 / 1.54)
        assert geometry().det_rotation is None

    @pytest.mark.parametrize("name", ["det_dist", "lambda_", "pix_dim"])
    @pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "5", None, True, b"1"])
    def test_not_positive(self, name, value):
        refused(name, GeometryMetadata, {**GEOMETRY, name: value})

    @pytest.mark.parametrize("name", ["bcx", "bcy", "det_rotation", "incident_angle"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, "5", [1, 2]])
    def test_not_numbers(self, name, value):
        refused(name, GeometryMetadata, {**GEOMETRY, name: value})

    @pytest.mark.parametrize("shape", [(4,), (4, 6, 1), (0, 6), (4.5, 6), 4, None, (-1, 2)])
    def test_shapes(self, shape):
        refused("shape", GeometryMetadata, {**GEOMETRY, "shape": shape})

    @pytest.mark.parametrize("centre", [(-0.6, 2), (5.6, 2), (3, -0.6), (3, 3.6)])
    def test_beam_outside_warns(self, centre):
        with pytest.warns(UserWarning, match="outside of the detector") as caught:
            geometry(bcx=centre[0], bcy=centre[1])
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("centre", [(-0.5, -0.5), (5.5, 3.5)])
    def test_beam_at_the_edge_is_inside(self, centre):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            geometry(bcx=centre[0], bcy=centre[1])

    def test_immutable(self):
        with pytest.raises(AttributeError):
            geometry().bcx = 1.0
        with pytest.raises(TypeError):
            hash(geometry())


class TestQMap:
    def test_values(self):
        given_maps = maps(mask=np.ones((4, 6), bool), partition_map=np.ones((4, 6), np.uint8))
        found = QMapSchema(**given_maps)
        assert found.shape == (4, 6)
        assert (found.sqmap_unit, found.dqmap_unit, found.phis_unit) == ("nm^-1", "nm^-1", "rad")
        assert found.mask.dtype == np.int32
        assert found.partition_map.dtype == np.int32
        assert found.sqmap.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            found.sqmap[0, 0] = 1.0

    def test_float32_and_lists_become_float64(self):
        assert QMapSchema([[1, 2]], np.ones((1, 2), np.float32), [[0, 0]]).dqmap.dtype == np.float64

    @pytest.mark.parametrize("name", ["sqmap", "dqmap", "phis", "mask", "partition_map"])
    def test_shape_differs(self, name):
        data = maps(mask=np.ones((4, 6)), partition_map=np.ones((4, 6)))
        data[name] = np.ones((3, 6))
        shapes = r"\(4, 6\), found shape \(3, 6\)"
        if name == "sqmap":
            shapes = r"\(3, 6\), found shape \(4, 6\)"
        refused(shapes, QMapSchema, data)

    @pytest.mark.parametrize(
        "value",
        [np.ones(4), np.ones((2, 2, 2)), np.ones((0, 3)), None, "map", np.ones((2, 2), complex),
         [[1, 2], [3]], np.array([["a", "b"]])],
    )  # fmt: skip
    def test_no_map(self, value):
        refused("sqmap", QMapSchema, maps(sqmap=value))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("name", ["sqmap", "dqmap", "phis"])
    def test_not_finite(self, name, value):
        data = maps()
        data[name] = data[name].copy()
        data[name][1, 2] = value
        refused(
            rf"{name}: expected finite numbers, found 1 NaN or infinite of 24", QMapSchema, data
        )

    @pytest.mark.parametrize("name", ["sqmap_unit", "dqmap_unit", "phis_unit"])
    def test_units(self, name):
        refused(name, QMapSchema, maps(**{name: "1/m"}))
        good = b"deg" if name == "phis_unit" else b"A^-1"
        assert getattr(QMapSchema(**maps(**{name: good})), name) == good.decode()

    @pytest.mark.parametrize("value", [2, -1, 0.5, np.nan])
    def test_mask_values(self, value):
        refused("mask", QMapSchema, maps(mask=np.full((4, 6), value)))

    def test_labels_below_zero(self):
        refused("labels of 0", QMapSchema, maps(partition_map=np.full((4, 6), -1)))

    def test_units_default_from_dict(self):
        found = QMapSchema.from_dict({**maps(), "sqmap_unit": None, "unknown": 1})
        assert found.sqmap_unit == "nm^-1"


class TestG2:
    def test_values(self):
        found = G2Data(**g2())
        assert found.q_values == (0.1, 0.2)
        assert found.delay_times.dtype == np.float64

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("g2_err", np.zeros((2, 2)), r"shape \(2, 3\), found shape \(2, 2\)"),
            ("g2_err", np.full((2, 3), -1.0), "at least 0"),
            ("delay_times", [0.0, 1.0], r"shape \(3,\), found shape \(2,\)"),
            ("delay_times", [-1.0, 1.0, 2.0], "at least 0"),
            ("q_values", [0.1], r"shape \(2,\)"),
            ("q_values", "ab", "q_values"),
            ("g2", np.ones(3), "g2: expected 2 dimension"),
            ("g2", np.full((2, 3), np.inf), "finite"),
            ("g2_err", np.full((2, 3), np.inf), "finite"),
            ("delay_times", [0.0, 1.0, math.nan], "finite"),
        ],
    )
    def test_refused(self, name, value, words):
        refused(words, G2Data, g2(**{name: value}))


class TestPartition:
    def test_the_editors_keys_are_enough(self):
        found = PartitionSchema.from_dict(partition())
        assert (found.num_pts, found.num_list, found.val_list) == (2, (2, 3), (0.1, 0.2))
        assert (found.version, found.method) == ("1.0.0", "linear")
        assert found.metadata is None

    def test_metadata_as_mapping(self):
        found = PartitionSchema(
            **partition(metadata={**GEOMETRY, "shape": (2, 3), "bcx": 1, "bcy": 1})
        )
        assert found.metadata == geometry(shape=(2, 3), bcx=1, bcy=1)

    def test_lists_as_arrays(self):
        data = partition(val_list=np.array([0.1, 0.2]), num_list=np.array([2, 3]), num_pts=2.0)
        assert PartitionSchema(**data) == PartitionSchema(**partition())

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("num_pts", 0, "at least 1"),
            ("num_pts", 3, r"shape \(3,\), found shape \(2,\)"),
            ("num_list", [2], r"shape \(2,\), found shape \(1,\)"),
            ("num_list", 5, r"shape \(2,\), found shape \(\)"),
            ("num_list", [3, 2], "2 pixels in bin 1, as the map has them, found 3"),
            ("num_list", [2, 4], "3 pixels in bin 2, as the map has them, found 4"),
            ("num_list", [2, 2.5], "3 pixels in bin 2, .* found 2.5"),
            ("partition_map", np.full((2, 3), 3), "labels of 0 to 2, found 3 to 3"),
            ("partition_map", np.full((2, 3), -1), "labels of 0 to 2, found -1"),
            ("partition_map", np.full((2, 3), 2**31 - 1), "labels of 0 to 2"),
            ("partition_map", np.full((2, 3), 2**40), "fit into int32"),
            ("partition_map", np.ones(3, int), "dimension"),
            ("method", "cubic", "linear, log"),
            ("version", 1.0, "text"),
            ("mask", np.ones((3, 3)), "shape"),
            ("metadata", geometry(), r"shape \(2, 3\), as the map has it, found shape \(4, 6\)"),
            ("metadata", 5, "GeometryMetadata"),
            ("metadata", {"bcx": 1}, "bcy"),
        ],
    )
    def test_refused(self, name, value, words):
        with pytest.raises(SchemaValidationError, match=words):
            PartitionSchema(**partition(**{name: value}))

    def test_all_masked(self):
        with pytest.raises(SchemaValidationError, match="expected a pixel in some bin"):
            PartitionSchema(np.zeros((2, 3)), 2, (0.1, 0.2), (0, 0))

    @pytest.mark.parametrize("key", ["partition_map", "num_pts", "val_list", "num_list"])
    def test_missing_key_is_named(self, key):
        data = partition()
        del data[key]
        with pytest.raises(
            SchemaValidationError, match=rf"expected the key\(s\) {key}, found only"
        ):
            PartitionSchema.from_dict(data)


class TestMask:
    def test_booleans(self):
        found = MaskSchema(np.array([[True, False]]), description=b"beam stop")
        assert found.mask.tolist() == [[1, 0]]
        assert found.mask.dtype == np.int32
        assert found.description == "beam stop"

    def test_refused(self):
        refused("only 0", MaskSchema, {"mask": np.array([[2, 0]])})
        refused("shape", MaskSchema, {"mask": np.ones((2, 2)), "metadata": geometry()})
        refused("description", MaskSchema, {"mask": np.ones((2, 2)), "description": 5})

    def test_not_a_mapping(self):
        with pytest.raises(SchemaValidationError, match="found a list"):
            MaskSchema.from_dict([1])
        with pytest.raises(SchemaValidationError, match="found only nothing"):
            MaskSchema.from_dict({})


def test_equality():
    one, other = QMapSchema(**maps()), QMapSchema(**maps())
    assert one == other
    assert one != QMapSchema(**maps(mask=np.ones((4, 6))))
    assert one != QMapSchema(**maps(phis=np.zeros((4, 6))))
    assert one != QMapSchema(**maps(sqmap_unit="A^-1"))
    assert one != 5


def test_dicts_share_no_array():
    schema = MaskSchema(np.ones((2, 2), np.int32), geometry(shape=(2, 2), bcx=1, bcy=1))
    data = schema.to_dict()
    data["mask"][0, 0] = 0
    assert schema.mask[0, 0] == 1
    assert data["metadata"]["shape"] == [2, 2]


shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
finite = st.floats(-1e6, 1e6)
positive = st.floats(1e-6, 1e6)


@st.composite
def geometries(draw, shape=None):
    rows, columns = shape or draw(shapes)
    return GeometryMetadata(
        draw(st.floats(0, columns - 1)), draw(st.floats(0, rows - 1)), draw(positive),
        draw(positive), draw(positive), (rows, columns),
        draw(st.none() | finite), draw(st.none() | finite),
    )  # fmt: skip


@st.composite
def q_maps(draw):
    shape = draw(shapes)
    image = hnp.arrays(np.float64, shape, elements=finite)
    return QMapSchema(
        draw(image), draw(image), draw(image),
        draw(st.sampled_from(["nm^-1", "A^-1"])), draw(st.sampled_from(["nm^-1", "A^-1"])),
        draw(st.sampled_from(["rad", "deg"])),
        draw(st.none() | hnp.arrays(np.int32, shape, elements=st.integers(0, 1))),
        draw(st.none() | hnp.arrays(np.int32, shape, elements=st.integers(0, 9))),
    )  # fmt: skip


@st.composite
def g2_data(draw):
    shape = draw(shapes)
    return G2Data(
        draw(hnp.arrays(np.float64, shape, elements=finite)),
        draw(hnp.arrays(np.float64, shape, elements=positive)),
        draw(hnp.arrays(np.float64, shape[1], elements=positive)),
        tuple(draw(st.lists(finite, min_size=shape[0], max_size=shape[0]))),
    )


@st.composite
def partitions(draw):
    shape = draw(shapes)
    number = draw(st.integers(1, 5))
    labels = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, number)).filter(np.any))
    return PartitionSchema(
        labels, number,
        tuple(draw(st.lists(finite, min_size=number, max_size=number))),
        tuple(np.bincount(labels.ravel(), minlength=number + 1)[1:].tolist()),
        draw(st.none() | geometries(shape)), draw(st.sampled_from(["1.0.0", "0.9"])),
        draw(st.none() | hnp.arrays(np.int32, shape, elements=st.integers(0, 1))),
        draw(st.sampled_from(["linear", "log"])),
    )  # fmt: skip


@st.composite
def masks(draw):
    shape = draw(shapes)
    return MaskSchema(
        draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 1))),
        draw(st.none() | geometries(shape)),
        # HDF5 has no strings with a NUL inside.
        description=draw(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
        ),
    )


@given(geometries() | q_maps() | g2_data() | partitions() | masks())
def test_round_trip_through_a_dict(schema):
    assert type(schema).from_dict(schema.to_dict()) == schema


def best_ms(work):
    return 1e3 * min(timeit.repeat(work, number=1, repeat=30))


@pytest.mark.parametrize(("side", "limit"), [(512, 1.0), (1024, 4.0)])
def test_validation_is_quick(side, limit):
    """Generous, and beside counting alone, for busy machines; the benchmark holds the figure."""
    labels = np.arange(side * side, dtype=np.int32).reshape(side, side) // 1024
    limit = max(limit, best_ms(lambda: np.bincount(labels.ravel())))
    counts = np.bincount(labels.ravel())[1:].tolist()
    values = np.ones((side, side))
    ones = np.ones((side, side), np.int32)
    assert best_ms(lambda: QMapSchema(values, values, values, mask=ones)) < 5 * limit
    work = lambda: PartitionSchema(labels, len(counts), counts, counts, mask=ones)  # noqa: E731
    assert best_ms(work) < 5 * limit


def test_validated_maps_are_not_copied():
    values = np.ones((512, 512))
    ones = np.ones((512, 512), np.int32)
    QMapSchema(values, values, values, mask=ones)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    schema = QMapSchema(values, values, values, mask=ones)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1024
    assert np.shares_memory(schema.sqmap, values)
