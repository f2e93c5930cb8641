import itertools
import json

import h5py
import numpy as np
import pytest
import xpcs_files as files
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from beamline.cli import mask as mask_command
from beamline.cli import qmap as qmap_command
from beamline.core.errors import BeamlineError, FileFormatError
from beamline.xpcs import masks
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.images import read_image
from beamline.xpcs.masks import MaskError

SHAPE = (20, 30)


def test_disc_and_rectangle():
    rows, columns = np.indices(SHAPE)
    expected = np.hypot(columns - 12.5, rows - 7) > 4.2
    np.testing.assert_array_equal(masks.disc(SHAPE, 12.5, 7, 4.2), expected)
    found = masks.rectangle(SHAPE, 5, 9, 2, 3.5)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.argwhere(found == 0).min(axis=0), [4, 2])
    np.testing.assert_array_equal(np.argwhere(found == 0).max(axis=0), [9, 5])
    with pytest.raises(MaskError, match="radius"):
        masks.disc(SHAPE, 1, 1, -1)


def test_threshold_and_finite():
    image = np.array([[0.0, 1.0, 5.0, np.nan, np.inf]])
    assert masks.threshold(image, 1.0, 5.0).tolist() == [[0, 1, 1, 0, 0]]
    assert masks.threshold(image, high=5.0).tolist() == [[1, 1, 1, 0, 0]]
    assert masks.threshold(image, low=1.0).tolist() == [[0, 1, 1, 0, 1]]
    assert masks.finite(image).tolist() == [[1, 1, 1, 0, 0]]
    with pytest.raises(MaskError, match="greater than high"):
        masks.threshold(image, 2.0, 1.0)
    for wrong in (np.ones(3), np.ones((0, 2)), np.array([["a"]])):
        with pytest.raises(MaskError, match="needs an image"):
            masks.finite(wrong)


@pytest.mark.parametrize("level", [0.01, 20.0, 5000.0])
def test_hot_pixels(level):
    rng = np.random.default_rng(1)
    image = rng.poisson(level, (60, 60)).astype(float)
    hot = [(3, 5), (0, 0), (30, 59), (31, 59)]
    for place in hot:
        image[place] = 20 * level + 50
    image[10, 10] = np.nan
    found = np.argwhere(masks.hot_pixels(image) == 0)
    assert {tuple(place) for place in found.tolist()} == set(hot)
    for window in (2, 4, 1):
        with pytest.raises(MaskError, match="no centre"):
            masks.hot_pixels(image, window=window)
    with pytest.raises(MaskError, match="sigma"):
        masks.hot_pixels(image, 0.0)


def test_hot_pixels_keep_a_steep_pattern():
    rows, columns = np.indices((80, 80))
    image = 1e5 / (1 + np.hypot(rows - 40.3, columns - 41.2)) ** 2
    assert masks.hot_pixels(image).mean() > 0.995


@given(
    st.lists(st.tuples(st.floats(-5, 35), st.floats(-5, 25)), min_size=3, max_size=7, unique=True)
)
def test_polygons_have_the_pixels_that_an_odd_number_of_edges_surrounds(corners):
    rows, columns = np.indices(SHAPE)
    points = np.column_stack([columns.ravel(), rows.ravel()])
    # Nudged, where an edge goes through a pixel's centre.
    near = np.zeros(len(points), bool)
    ring = np.array([*corners, corners[0]])
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        length = np.hypot(x1 - x0, y1 - y0)
        near |= np.abs((x1 - x0) * (y0 - points[:, 1]) - (x0 - points[:, 0]) * (y1 - y0)) <= (
            1e-6 * length + 1e-9
        )
    found = masks.polygons(SHAPE, [corners]).ravel() == 0
    expected = even_odd(corners, points)
    assert (found == expected)[~near].all()


def even_odd(corners, points):
    """Angles from a point to the corners: their sum tells how often a polygon goes around it."""
    directions = [np.arctan2(y - points[:, 1], x - points[:, 0]) for x, y in [*corners, corners[0]]]
    turns = np.diff(directions, axis=0)
    turns = (turns + np.pi) % (2 * np.pi) - np.pi
    return np.round(turns.sum(axis=0) / (2 * np.pi)).astype(int) % 2 == 1


def test_a_square_by_hand():
    found = masks.polygons(SHAPE, [[(1.5, 2.5), (4.5, 2.5), (4.5, 5.5), (1.5, 5.5)]])
    np.testing.assert_array_equal(found, masks.rectangle(SHAPE, 2, 3, 4, 5))
    two = masks.polygons(SHAPE, [[(0, 0), (3, 0), (0, 3)], np.array([(9, 9), (12, 9), (9, 12)])])
    assert two[0, 0] == two[9, 9] == 0
    assert two[15, 15] == 1


@pytest.mark.parametrize("wrong", [[(0, 0), (1, 1)], [1, 2, 3], [(0, 0), (1, np.nan), (2, 2)]])
def test_impossible_polygons(wrong):
    with pytest.raises(MaskError, match="Polygon 1"):
        masks.polygons(SHAPE, [wrong])


def test_polygon_files(tmp_path):
    polygons = [[[0, 0], [5, 0], [0, 5]], [[9, 9], [9, 12], [12, 9.5]]]
    (tmp_path / "a.json").write_text(json.dumps(polygons))
    (tmp_path / "b.json").write_text(json.dumps({"polygons": polygons}))
    text = "# x y\n0 0\n5, 0\n0 5  # last\n\n\n9 9\n9 12\n12 9.5\n"
    (tmp_path / "c.txt").write_text(text)
    for name in ("a.json", "b.json", "c.txt"):
        found = masks.read_polygons(tmp_path / name)
        assert [polygon.tolist() for polygon in found] == polygons
    for name, content in {"a.json": "{", "b.json": "5", "c.json": "[]", "d.json": '{"x": 1}',
                          "e.txt": "1 2 3", "f.txt": "a b", "g.txt": ""}.items():  # fmt: skip
        (tmp_path / name).write_text(content)
        with pytest.raises(MaskError, match=name):
            masks.read_polygons(tmp_path / name)
    with pytest.raises(MaskError, match="nothing"):
        masks.read_polygons(tmp_path / "nothing")


def test_combine_and_grow():
    first, second = masks.disc(SHAPE, 3, 3, 2), masks.disc(SHAPE, 20, 10, 2)
    both = masks.combine(first, second.astype(bool))
    np.testing.assert_array_equal(both, first * second)
    assert masks.grow(masks.disc(SHAPE, 5, 5, 0), 1)[4:7, 4:7].sum() == 0
    assert masks.grow(masks.disc(SHAPE, 5, 5, 0), 1).sum() == 600 - 9
    with pytest.raises(MaskError, match="no mask"):
        masks.combine()
    with pytest.raises(ValueError, match=r"\(20, 30\), found shape \(3, 3\)"):
        masks.combine(first, np.ones((3, 3)))
    with pytest.raises(MaskError, match="least is 0"):
        masks.grow(first, -1)


class TestImages:
    def test_frames(self, tmp_path):
        frames = np.random.default_rng(0).poisson(3.0, (25, 12, 16)).astype(np.uint16)
        path = tmp_path / "frames.h5"
        with h5py.File(path, "w") as file:
            file["/entry/data/data"] = frames
            file["/entry/small"] = np.ones((3, 3))
            file["/entry/four"] = frames[:5, None]
        found = read_image(path)
        np.testing.assert_allclose(found.values, frames.mean(axis=0))
        assert found.frames == (25, 25)
        some = read_image(path, "entry/data/data", most=10)
        np.testing.assert_allclose(some.values, frames[::3].mean(axis=0))
        assert some.frames == (9, 25)
        np.testing.assert_allclose(read_image(path, "/entry/four").values, frames[:5].mean(axis=0))
        with pytest.raises(FileFormatError, match="there is no such dataset"):
            read_image(path, "/entry/nothing")

    def test_linked_frames(self, tmp_path):
        frames = np.random.default_rng(0).poisson(3.0, (5, 12, 16))
        (tmp_path / "frames").mkdir()
        with h5py.File(tmp_path / "frames" / "a.h5", "w") as file:
            file["/entry/data/data"] = frames
        with h5py.File(tmp_path / "run.nxs", "w") as file:
            file["/entry/detector/data"] = h5py.ExternalLink("frames/a.h5", "/entry/data/data")
            file["/entry/again"] = h5py.SoftLink("/entry")
            file["/entry/lost"] = h5py.ExternalLink("nothing.h5", "/data")
        np.testing.assert_allclose(read_image(tmp_path / "run.nxs").values, frames.mean(axis=0))

    def test_pictures_and_arrays(self, tmp_path):
        from PIL import Image

        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        Image.fromarray(values).save(tmp_path / "a.tif")
        np.save(tmp_path / "a.npy", values)
        for name in ("a.tif", "a.npy"):
            np.testing.assert_array_equal(read_image(tmp_path / name).values, values)

    def test_refused(self, tmp_path):
        from PIL import Image

        Image.new("RGB", (3, 3)).save(tmp_path / "colour.png")
        (tmp_path / "bad.tif").write_bytes(b"x")
        (tmp_path / "bad.npy").write_bytes(b"x")
        np.save(tmp_path / "line.npy", np.ones(3))
        np.save(tmp_path / "none.npy", np.ones((0, 3, 3)))
        np.save(tmp_path / "text.npy", np.array([["a"]]))
        h5py.File(tmp_path / "empty.h5", "w").close()
        for name in ("colour.png", "bad.tif", "bad.npy", "line.npy", "none.npy", "text.npy",
                     "empty.h5"):  # fmt: skip
            with pytest.raises(FileFormatError, match=name):
                read_image(tmp_path / name)


def run(command, *arguments):
    return CliRunner().invoke(command.command, [str(argument) for argument in arguments])


class TestMaskCommand:
    def test_shape_only(self, tmp_path):
        found = run(mask_command, tmp_path / "m.h5", "--shape", 20, 30, "--beam-stop", 5, 6, 3,
                    "--rectangle", 0, 0, 29, 0, "--png", tmp_path / "m.png",
                    "--description", "stop")  # fmt: skip
        assert found.exit_code == 0, found.output
        schema = HDF5Facade().read_mask(tmp_path / "m.h5")
        expected = masks.disc(SHAPE, 5, 6, 3) * masks.rectangle(SHAPE, 0, 0, 29, 0)
        np.testing.assert_array_equal(schema.mask, expected)
        assert schema.description == "stop"
        assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
        masked = 600 - expected.sum()
        assert f"{masked} of 600 pixels masked" in found.output

    def test_image_and_earlier_mask(self, tmp_path):
        image = np.random.default_rng(0).poisson(20.0, (3, *SHAPE)).astype(np.float32)
        image[:, 4, 4] = 5000
        image[:, 5, 5] = np.nan
        np.save(tmp_path / "a.npy", image)
        (tmp_path / "p.json").write_text("[[[10.5, 10.5], [13.5, 10.5], [13.5, 12.5]]]")
        run(mask_command, tmp_path / "m.h5", "--shape", 20, 30, "--beam-stop", 20, 6, 1)
        found = run(mask_command, tmp_path / "n.h5", "--image", tmp_path / "a.npy", "--hot",
                    "--mask", tmp_path / "m.h5", "--polygons", tmp_path / "p.json", "--low", 1,
                    "--png", tmp_path / "n.png")  # fmt: skip
        assert found.exit_code == 0, found.output
        mask = HDF5Facade().read_mask(tmp_path / "n.h5").mask
        assert mask[4, 4] == mask[5, 5] == mask[6, 20] == mask[11, 13] == 0
        assert 600 - mask.sum() < 20
        assert "1 pixels: hot" in found.output
        grown = run(mask_command, tmp_path / "n.h5", "--mask", tmp_path / "n.h5", "--grow", 1,
                    "--force")  # fmt: skip
        assert grown.exit_code == 0, grown.output
        assert HDF5Facade().read_mask(tmp_path / "n.h5").mask.sum() < mask.sum()
        assert len(list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*"))) == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "--shape"),
            (["--shape", 2, 2, "--low", 3], "needs an --image"),
            (["--shape", 0, 2], "0 is not in the range"),
        ],
    )
    def test_usage(self, tmp_path, arguments, words):
        found = run(mask_command, tmp_path / "m.h5", *arguments)
        assert found.exit_code == 2
        assert words in found.output
        assert not list(tmp_path.iterdir())

    def test_refused(self, tmp_path):
        found = run(mask_command, tmp_path / "m.h5", "--shape", 2, 2, "--beam-stop", 0, 0, 9)
        assert isinstance(found.exception, MaskError)
        assert not list(tmp_path.iterdir())
        (tmp_path / "m.h5").touch()
        found = run(mask_command, tmp_path / "m.h5", "--shape", 2, 2)
        assert "exists" in found.output

    def test_help_shows_examples_by_line(self):
        found = run(mask_command, "--help")
        assert (
            "\n  beamline mask mask.h5 --shape 512 512 --beam-stop 256.5 250 12\n" in found.output
        )


class TestQMapCommand:
    HERE = ("--beam", 15.5, 11.25, "--distance", 4000, "--pixel", 0.055, "--wavelength", 1.24)

    def test_everything_reads_back(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones(files.SHAPE))
        assert run(mask_command, tmp_path / "m.h5", "--image", tmp_path / "a.npy",
                   "--rectangle", 0, 0, 3, 2).exit_code == 0  # fmt: skip
        found = run(qmap_command, tmp_path / "q.h5", "--mask", tmp_path / "m.h5", *self.HERE,
                    "--static", 12, "--dynamic", 4, "--static-phi", 6, "--dynamic-phi", 3,
                    "--png", tmp_path / "q.png")  # fmt: skip
        assert found.exit_code == 0, found.output
        expected = files.partition()
        facade = HDF5Facade()
        bins = facade.read_q_partition(tmp_path / "q.h5")
        np.testing.assert_array_equal(bins.dynamic_roi_map, expected.dynamic_roi_map)
        np.testing.assert_array_equal(bins.static_roi_map, expected.static_roi_map)
        assert facade.read_partition(tmp_path / "q.h5") == expected.schema("dynamic")
        assert facade.read_geometry_metadata(tmp_path / "q.h5") == files.GEOMETRY
        np.testing.assert_array_equal(facade.read_mask(tmp_path / "q.h5").mask, expected.mask)
        from beamline.xpcs.geometry import q_values

        np.testing.assert_array_equal(
            facade.read_qmap(tmp_path / "q.h5").sqmap, q_values(files.GEOMETRY)
        )
        assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")
        again = run(qmap_command, tmp_path / "r.h5", "--geometry", tmp_path / "q.h5", "--energy",
                    10, "--log", "--static", 4, "--dynamic", 2)  # fmt: skip
        assert again.exit_code == 0, again.output
        here = HDF5Facade().read_geometry_metadata(tmp_path / "r.h5")
        assert here.energy == pytest.approx(10.0)
        assert here.det_dist == 4000.0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "Give --beam, --distance, --pixel, --energy, --shape"),
            (["--energy", 8, "--wavelength", 1], "not both"),
            (["--energy", 0], "range"),
        ],
    )
    def test_usage(self, tmp_path, arguments, words):
        found = run(qmap_command, tmp_path / "q.h5", *arguments)
        assert found.exit_code == 2
        assert words in " ".join(found.output.split())

    def test_bins_that_do_not_fit(self, tmp_path):
        found = run(qmap_command, tmp_path / "q.h5", "--shape", 24, 32, *self.HERE, "--static", 5)
        assert isinstance(found.exception, BeamlineError)
        assert "take 10 static bins" in str(found.exception)
        assert not list(tmp_path.iterdir())
