"""CXI files from processed batches: what is reported is on disk, under its name."""

import h5py
import numpy as np
import pytest
from q2_items import ENERGY, geometry_file, make

from beamline.core.errors import ConfigurationError
from beamline.crystallography import CXIFile, check_cxi
from beamline.crystallography.geometry import read_geometry
from beamline.streaming import file_writer
from beamline.streaming.batches import BatchHeader
from beamline.streaming.file_writer import CXIFileWriter
from beamline.streaming.receipts import FileSettings
from beamline.streaming.run_metadata import RunMetadata
from beamline.streaming.tasks import PeakSearch, process_samples


@pytest.fixture
def detector(tmp_path):
    return read_geometry(geometry_file(tmp_path / "d.geom"))


def settings(tmp_path, **more):
    return FileSettings(**{"directory": tmp_path / "out", "writer": "w1", **more})


def submit(writer, detector, number, **more):
    item, truth = make(number, **more)
    header = BatchHeader.from_item(item)
    batch = process_samples(
        item.get_numpy_array(), item.get_images(), header, None, PeakSearch(detector)
    )
    return writer.submit_processed_batch(number, batch, item.get_images()), batch, truth


def test_values_come_back(tmp_path, detector):
    writer = CXIFileWriter(settings(tmp_path), detector)
    receipt, batch, truth = submit(writer, detector, 1, run="r1", sample_x=2.5)
    assert not receipt.completed
    assert not list((tmp_path / "out").rglob("*.cxi"))
    made = writer.flush_final().completed
    assert [(f.run, f.rows) for f in made] == [("r1", [(1, (0, 1, 2, 3))])]
    assert made[0].path.parent.name == "r1"
    assert check_cxi(made[0].path) == []
    with h5py.File(made[0].path) as file:
        np.testing.assert_array_equal(file["/entry_1/data_1/data"][()], truth.images[:, 0])
        np.testing.assert_allclose(file["/LCLS/photon_energy_eV"][()], ENERGY)
        assert file["/entry_1/batch_id"].asstr()[0] == "batch00001"
        assert list(file["/entry_1/event_id"]) == [0, 1, 2, 3]
        assert list(file["/entry_1/scan/sample_x"]) == [2.5] * 4
        for row, event in enumerate(batch.events):
            n = file["/entry_1/result_1/nPeaks"][row]
            assert n == len(event.peaks)
            np.testing.assert_array_equal(
                file["/entry_1/result_1/peakXPosRaw"][row, :n], event.peaks.fs
            )
            np.testing.assert_array_equal(
                file["/entry_1/result_1/peakTotalIntensity"][row, :n], event.peaks.total
            )
    beside = sorted(p.suffix for p in made[0].path.parent.iterdir())
    assert beside == [".cxi", ".geom", ".lst"]
    assert writer.get_statistics()["events"] == 4


def test_files_have_at_most_so_many_events_and_every_one_is_in_one(tmp_path, detector):
    writer = CXIFileWriter(settings(tmp_path, buffer_size=6), detector)
    completed = []
    for number in range(1, 6):
        completed += submit(writer, detector, number)[0].completed
    completed += writer.flush_final().completed
    assert max(made.shape[0] for made in completed) <= 6
    rows = [(token, i) for made in completed for token, part in made.rows for i in part]
    assert sorted(rows) == [(token, i) for token in range(1, 6) for i in range(4)]
    assert len({made.path for made in completed}) == len(completed)


def test_old_files_are_completed_and_runs_have_their_own(tmp_path, detector):
    writer = CXIFileWriter(settings(tmp_path, max_file_seconds=1e-6), detector)
    first = [*submit(writer, detector, 1, run="a/b")[0].completed]
    first += submit(writer, detector, 2, run="..")[0].completed
    first += writer.flush_final().completed
    names = {made.run: made.path.parent for made in first}
    assert names.keys() == {"a/b", ".."}
    assert all(folder.parent == (tmp_path / "out").resolve() for folder in names.values())


def test_two_writers_never_share_a_name(tmp_path, detector):
    writers = [CXIFileWriter(settings(tmp_path, writer=f"w{i}"), detector) for i in range(2)]
    for number, writer in enumerate(writers, 1):
        submit(writer, detector, number)
    paths = [made.path for writer in writers for made in writer.flush_final().completed]
    assert len(set(paths)) == 2


def test_another_type_of_frames_or_another_number_begins_another_file(tmp_path, detector):
    writer = CXIFileWriter(settings(tmp_path), detector)
    made = [*submit(writer, detector, 1)[0].completed]
    made += submit(writer, detector, 2, sample_x=1.0)[0].completed
    item, _ = make(3, sample_x=1.0)
    item.original_image_ref = item.original_image_ref.astype(np.uint16)
    header = BatchHeader.from_item(item)
    batch = process_samples(
        item.get_numpy_array(), item.get_images(), header, None, PeakSearch(detector)
    )
    made += writer.submit_processed_batch(3, batch, item.get_images()).completed
    made += writer.flush_final().completed
    assert [f.dtype for f in made] == ["<f4", "<f4", "<u2"]
    assert [check_cxi(f.path) for f in made] == [[], [], []]


def test_a_full_disk_blocks_and_loses_nothing(tmp_path, detector, monkeypatch):
    writer = CXIFileWriter(settings(tmp_path, buffer_size=4), detector)
    usage = file_writer.shutil.disk_usage

    def full(path):
        return usage(path)._replace(free=1000)

    monkeypatch.setattr(file_writer.shutil, "disk_usage", full)
    for number in (1, 2, 3):
        receipt = submit(writer, detector, number)[0]
        assert "make room" in receipt.blocked
    assert writer.flush_final().completed == []
    monkeypatch.setattr(file_writer.shutil, "disk_usage", usage)
    receipt = writer.flush_final()
    assert receipt.blocked == ""
    rows = [(token, i) for made in receipt.completed for token, part in made.rows for i in part]
    assert sorted(rows) == [(token, i) for token in (1, 2, 3) for i in range(4)]


def test_what_the_run_management_knows_is_in_the_files(tmp_path, detector):
    metadata = RunMetadata(
        {
            "sample": {"name": "lysozyme"},
            "proposal": "p100",
            "source": {"name": "LCLS"},
            "runs": {"7": {"sample": "thaumatin", "beam": {"focus_um": 3}}},
        }
    )
    writer = CXIFileWriter(settings(tmp_path, metadata=metadata), detector)
    submit(writer, detector, 1, run="7")
    submit(writer, detector, 2)
    found = {made.run: made.path for made in writer.flush_final().completed}
    with h5py.File(found["7"]) as file:
        assert file["/entry_1/sample_1/name"].asstr()[()] == "thaumatin"
        assert file["/entry_1/run_metadata/proposal"].asstr()[()] == "p100"
        assert file["/entry_1/run_metadata/beam/focus_um"][()] == 3
        assert file["/entry_1/instrument_1/source_1/name"].asstr()[()] == "LCLS"
    with h5py.File(found[""]) as file:
        assert file["/entry_1/sample_1/name"].asstr()[()] == "lysozyme"


def test_what_a_bluesky_run_says_is_in_the_files_unless_the_run_management_knows_better(
    tmp_path, detector
):
    metadata = RunMetadata({"runs": {"r2": {"sample": "thaumatin"}}})
    writer = CXIFileWriter(settings(tmp_path, metadata=metadata), detector)
    for number in (1, 2):
        submit(writer, detector, number, run=f"r{number}", sample="lysozyme", plan_name="mesh_scan")
    found = {made.run: made.path for made in writer.flush_final().completed}
    for run, sample in (("r1", "lysozyme"), ("r2", "thaumatin")):
        with h5py.File(found[run]) as file:
            assert file["/entry_1/sample_1/name"].asstr()[()] == sample
            assert file["/entry_1/run_metadata/plan_name"].asstr()[()] == "mesh_scan"


HOSTILE = {
    "source": {"energy": 9.5, "name": "LCLS"},
    "instrument": {"detector_1": "Eiger", "source_1": {"x": 1}},
    "sample": {"geometry_1": "x", "": 1, "name": "a\0b", "list": [1, 2], "none": None},
    "a/b": 1, "a_b": {"c": 2}, "big": 2**70, "..": {".": True}, 5: {6: 7}, "title": {"t": 1},
}  # fmt: skip


def test_no_metadata_takes_the_place_of_what_the_file_holds(tmp_path, detector):
    writer = CXIFileWriter(settings(tmp_path, metadata=RunMetadata(HOSTILE)), detector)
    submit(writer, detector, 1)
    (made,) = writer.flush_final().completed
    assert check_cxi(made.path) == []
    with h5py.File(made.path) as file:
        entry = file["/entry_1"]
        assert entry["data_1/data"].shape == (4, 96, 80)
        assert entry["instrument_1/source_1/name"].asstr()[()] == "LCLS"
        np.testing.assert_allclose(
            entry["instrument_1/source_1/energy"][()], ENERGY * 1.602176634e-19
        )
        other = entry["run_metadata"]
        assert other["source/energy"][()] == 9.5
        assert other["instrument/detector_1"].asstr()[()] == "Eiger"
        assert other["sample/geometry_1"].asstr()[()] == "x"
        assert (other["a_b"][()], other["a_b_/c"][()]) == (1, 2)
        assert entry["sample_1/name"].asstr()[()] == "ab"
    with pytest.raises(ConfigurationError, match="what a CXI file holds itself"):
        CXIFile(tmp_path / "x.cxi", detector=detector, dtype="f4", max_num_peak=5,
                entry={"instrument_1/detector_1": "Eiger"})  # fmt: skip
    assert not list(tmp_path.glob("x.cxi*"))


def test_panels_and_maps_are_where_they_belong(tmp_path):
    shape = (3, 48, 40)
    detector = read_geometry(geometry_file(tmp_path / "p.geom", shape))
    writer = CXIFileWriter(settings(tmp_path, maps=True, compression="gzip"), detector)
    item, truth = make(1, shape=shape, spots=12)
    header = BatchHeader.from_item(item)
    logits = item.get_numpy_array()
    batch = process_samples(logits, item.get_images(), header, None, PeakSearch(detector))
    writer.submit_processed_batch(1, batch, item.get_images(), logits)
    (made,) = writer.flush_final().completed
    assert check_cxi(made.path) == []
    with h5py.File(made.path) as file:
        result = file["/entry_1/result_1"]
        for row in range(4):
            slab = truth.images[row].reshape(-1, shape[2])
            np.testing.assert_array_equal(file["/entry_1/data_1/data"][row], slab)
            spots = truth.spots[row].copy()
            spots[:, 1] += spots[:, 0] * shape[1]
            n = result["nPeaks"][row]
            assert n == len(spots)
            found = np.stack([result[f"peak{a}PosRaw"][row, :n] for a in "YX"], axis=1)
            apart = np.linalg.norm(found[:, None] - spots[None, :, 1:], axis=2)
            assert apart.min(axis=0).max() < 0.5
            np.testing.assert_array_equal(result["peakSegPosRaw"][row, :n], found[:, 0] // shape[1])
            marked = logits.reshape(4, 3, 2, 52, 44)[row, :, 1, :48, :40] > 1
            np.testing.assert_array_equal(
                result["segmentation_map"][row], marked.reshape(-1, shape[2])
            )
