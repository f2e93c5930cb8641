"""``beamline xpcs``: files of frames, arrays, recorded runs, and what it says when it can't."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from xpcs_documents import SHAPE, Series, frames_of

from beamline.cli import main
from beamline.documents import JournalWriter
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.schemas import PartitionSchema

GEOMETRY = ["--distance", "200", "--pixel", "0.15", "--beam", "8.3", "11.7"]
BINS = ["--bins", "3", "--levels", "3"]


@pytest.fixture
def run(tmp_path, capsys):
    def command(*words):
        try:
            status = main(["xpcs", *map(str, words), "-o", str(tmp_path / "out"), *BINS])
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def g2_of(folder):
    (path,) = folder.glob("*_results.hdf")
    with h5py.File(path) as file:
        return file["/xpcs/multitau/normalized_g2"][()]


def recorded(tmp_path, frames, **options):
    journal = JournalWriter(tmp_path / "journal")
    series = Series(tmp_path, journal, **options)
    series.write(frames)
    series.refer()
    series.stop()
    journal.close()
    return series


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_file_of_frames_gives_the_g2_of_its_run(tmp_path, run, sparse):
    series = recorded(tmp_path, frames_of(80), sparse=sparse)
    status, out, err = run(series.path, *GEOMETRY, "--frame-time", "0.005", "--no-picture")
    assert status == 0, err
    assert "_results.hdf" in out
    of_file = g2_of(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    (journal,) = (tmp_path / "journal").glob("*/*.journal")
    status, out, err = run(journal)
    assert status == 0, err
    assert out.splitlines()[-1].endswith("_results.png")
    np.testing.assert_allclose(g2_of(tmp_path / "out"), of_file, rtol=1e-12)
    by_name = run(series.uid[:8], "--data-dir", tmp_path, "--no-picture")
    assert by_name[0] == 0, by_name[2]


def test_an_array_and_a_partition_of_an_earlier_result(tmp_path, run):
    frames = frames_of(60)
    np.save(tmp_path / "stack.npy", frames)
    status, out, err = run(
        tmp_path / "stack.npy", *GEOMETRY, "--energy", "9", "--frame-time", "1e-3", "--exposure",
        "5e-4", "--two-time", "40",
    )  # fmt: skip
    assert status == 0, err
    result = tmp_path / "out" / "stack_results.hdf"
    assert str(result) in out
    first = g2_of(tmp_path / "out")
    with h5py.File(result) as file:
        # 60 frames in at most 40: sums of two.
        assert file["/xpcs/twotime/config/avg_frame"][()] == 2
        assert file["/xpcs/twotime/processed_bins"][()].tolist() == [1, 2, 3]
        assert file["/xpcs/twotime/correlation_map/c2_00003"].shape == (30, 30)
        assert file["/xpcs/twotime/normalized_g2"].shape == (30, 3)
        assert file["/xpcs/twotime/normalized_g2_segments"].shape == (6, 5, 3)
        g2 = file["/xpcs/twotime/normalized_g2"][()]
        assert np.all(g2[1] > g2[20] + 0.2)
    again = tmp_path / "again.npy"
    np.save(again, frames)
    status, _, err = run(again, "--partition", result, "--frame-time", "1e-3", "--no-picture")
    assert status == 0, err
    with h5py.File(tmp_path / "out" / "again_results.hdf") as file, h5py.File(result) as before:
        np.testing.assert_array_equal(file["/xpcs/multitau/normalized_g2"][()], first)
        for name in ("static_roi_map", "dynamic_v_list_dim0", "mask"):
            np.testing.assert_allclose(
                file[f"/xpcs/qmap/{name}"][()], before[f"/xpcs/qmap/{name}"][()]
            )


def test_a_mask_leaves_pixels_out(tmp_path, run):
    np.save(tmp_path / "stack.npy", frames_of(30))
    mask = np.ones(SHAPE, int)
    mask[:5] = 0
    np.save(tmp_path / "mask.npy", mask)
    status, _, err = run(
        tmp_path / "stack.npy", *GEOMETRY, "--energy", "9", "--frame-time", "1e-3",
        "--mask", tmp_path / "mask.npy", "--no-picture",
    )  # fmt: skip
    assert status == 0, err
    with h5py.File(tmp_path / "out" / "stack_results.hdf") as file:
        assert not file["/xpcs/qmap/mask"][:5].any()


def test_given_bins_take_a_mask_and_the_geometry_of_the_options(tmp_path, run):
    labels = np.zeros(SHAPE, np.int32)
    labels[3:10], labels[12:20] = 1, 2
    facade = HDF5Facade()
    facade.write_partition(tmp_path / "bins.h5", PartitionSchema(labels, 2, (0.1, 0.2), (140, 160)))
    mask = np.ones(SHAPE, int)
    mask[:5] = 0
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "stack.npy", frames_of(30))
    words = [tmp_path / "stack.npy", "--partition", tmp_path / "bins.h5", "--frame-time", "1e-3"]
    status, _, err = run(*words)
    assert status == 1
    assert "--distance, --pixel, --beam, --energy" in err
    status, _, err = run(
        *words, *GEOMETRY, "--energy", "9", "--mask", tmp_path / "mask.npy", "--no-picture",
        "--two-time", "20", "--legacy",
    )  # fmt: skip
    assert status == 0, err
    with h5py.File(tmp_path / "out" / "stack_results.hdf") as file:
        np.testing.assert_array_equal(file["/xpcs/qmap/dynamic_roi_map"], labels * mask)
        assert file["/xpcs/qmap/detector_distance"][()] == pytest.approx(0.2)
        assert "g2_00001" in file["/exchange/C2T_all"]
    np.save(tmp_path / "stack.npy", np.ones((3, 5, 5)))
    status, _, err = run(*words)
    assert status == 1
    assert "of the shape (24, 20), the frames of" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.h5"], "there is no file"),
        (["stack.npy"], "the frame time of"),
        (["stack.npy", "--frame-time", "1e-3"], "--distance, --pixel, --beam, --energy"),
        (["flat.npy", "--frame-time", "1e-3"], "expected frames, (n, rows, columns)"),
        (["stack.npy", *GEOMETRY, "--energy", "9", "--frame-time", "0"], "positive time"),
        (
            ["stack.npy", *GEOMETRY, "--energy", "9", "--frame-time", "1", "--mask", "none.npy"],
            "none.npy: it can't be read as a mask",
        ),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path, run, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    np.save("stack.npy", frames_of(3))
    np.save("flat.npy", np.ones(4))
    status, _, err = run(*words)
    assert status == 1
    assert said in err
    assert err.startswith("beamline: ")
    assert "Traceback" not in err
