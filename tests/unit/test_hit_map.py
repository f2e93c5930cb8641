"""Maps of hits from documents: the grid, the files, and what is left out."""

import json

import h5py
import numpy as np
import pytest
from silx.io.nxdata import get_default

from beamline.core.errors import ConfigurationError
from beamline.crystallography.geometry import Detector
from callbacks.hit_map import HitMap, make_map
from callbacks.raster import HitFinding

RNG = np.random.default_rng(3)
X, Y = np.linspace(-300.0, 300.0, 7), np.linspace(100.0, 400.0, 4)


def points(jitter=0.0):
    """A mesh with readbacks that miss their targets; peaks in the upper right quarter."""
    y, x = (axis.ravel() for axis in np.meshgrid(Y, X, indexing="ij"))
    peaks = np.where((x > 0) & (y > 250), 40, 2)
    return x + RNG.normal(0, jitter, x.size), y + RNG.normal(0, jitter, x.size), peaks


def documents(x, y, peaks, *, pages, start=None, **extra):
    """An inference run, by events or by pages."""
    names = {"sample_x": x, "sample_y": y, "n_peaks": peaks, **extra}
    columns = {name: np.asarray(values).tolist() for name, values in names.items()}
    keys = {
        name: {"source": "s", "dtype": "number", "shape": [], "units": "um"} for name in columns
    }
    yield "start", {"uid": "run-1", "time": 0.0, "scan_id": 12, **(start or {})}
    yield "descriptor", {"uid": "d", "run_start": "run-1", "name": "primary", "data_keys": keys}
    numbers = list(range(1, len(x) + 1))
    if pages:
        yield (
            "event_page",
            {"descriptor": "d", "seq_num": numbers, "data": columns, "time": numbers},
        )
    else:
        for i, number in enumerate(numbers):
            data = {name: values[i] for name, values in columns.items()}
            yield "event", {"descriptor": "d", "seq_num": number, "data": data, "time": number}
    yield "stop", {"run_start": "run-1", "uid": "stop", "time": 1.0, "exit_status": "success"}


def run(consumer, documents):
    for name, doc in documents:
        consumer(name, doc)


@pytest.mark.parametrize("pages", [False, True])
def test_a_raster_scan_becomes_a_picture_and_nxdata(tmp_path, pages):
    x, y, peaks = points(jitter=2.0)
    hit_map = HitMap(tmp_path / "maps", min_num_peak=10)
    run(hit_map, documents(x, y, peaks, pages=pages))
    data, picture = hit_map.files
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 10_000
    with h5py.File(data) as file:
        found = get_default(file)
        assert found.is_valid
        assert found.issues == []
        assert found.signal.name.endswith("/hit_fraction")
        assert found.axes_dataset_names == ["sample_y", "sample_x"]
        assert found.axes[1].attrs["units"] == "um"
        assert np.allclose(found.axes[0], Y, atol=3)
        assert np.allclose(found.axes[1], X, atol=3)
        expected = (X > 0) & (Y > 250)[:, None]
        assert np.array_equal(found.signal[()], expected.astype(float))
        assert (file["entry/hit_map/frames"][()] == 1).all()
        assert file["entry/events/event"][()].tolist() == list(range(1, 29))
    assert list(tmp_path.glob("maps/*.part")) == []


def test_cells_that_were_not_reached_are_empty_and_the_grid_is_whole(tmp_path):
    x, y, peaks = points()
    grid = {"motors": ["sample_y", "sample_x"], "shape": [4, 7],
            "extents": [[100.0, 400.0], [-300.0, 300.0]]}  # fmt: skip
    hit_map = HitMap(tmp_path)
    start = {"source_metadata": {"grid": json.dumps(grid), "scan": "99", "sample": "chip"}}
    # An aborted scan: one row and a half.
    run(hit_map, documents(x[:10], y[:10], peaks[:10], pages=True, start=start))
    made = hit_map.maps["run-1"]
    assert made.hit_fraction.shape == (4, 7)
    assert np.isnan(made.hit_fraction).sum() == 28 - 10
    assert made.frames.sum() == 10
    assert hit_map.files[0].name.startswith("hit_map_99_")


def test_frames_of_one_cell_are_averaged_and_those_without_a_position_left_out():
    made = make_map([0, 0, 10, 10, np.nan], [5, 5, 5, 5, 5], [4, 8, 1, 1, 100], [0, 1, 0, 0, 1])
    assert made.x.tolist() == [0, 10]
    assert made.y.tolist() == [5]
    assert made.n_peaks.tolist() == [[6.0, 1.0]]
    assert made.hit_fraction.tolist() == [[0.5, 0.0]]


def test_what_the_writer_refused_or_lost_is_no_frame(tmp_path):
    x, y, peaks = points()
    verdicts = ["refused", "lost", *["not_hit"] * 26]
    hit_map = HitMap(tmp_path)
    run(hit_map, documents(x, y, peaks, pages=True, verdict=verdicts, hit=[False] * 28))
    assert hit_map.maps["run-1"].frames.sum() == 26
    assert np.nansum(hit_map.maps["run-1"].hit_fraction) == 0


def test_hits_are_not_looked_for_with_a_model_that_is_none(tmp_path):
    detector = Detector((8, 8), 0.1, (1e-4, 1e-4), (1.0, 1.0))
    with pytest.raises(ConfigurationError, match="no model 'peaknet'"):
        HitFinding(tmp_path / "hits", detector, model="peaknet")
    assert not (tmp_path / "hits").exists()


def test_a_run_without_positions_gives_no_map(tmp_path):
    hit_map = HitMap(tmp_path, x="theta")
    run(hit_map, documents(*points(), pages=True))
    assert hit_map.files == []
    assert list(tmp_path.iterdir()) == []
