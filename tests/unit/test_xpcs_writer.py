"""The XPCS consumer on documents and files made here: gaps, restarts, aborts, other bins."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from simulated_beamline import Documents
from xpcs_documents import SHAPE, Series, frames_of

from beamline.core.errors import ConfigurationError, CorrelationOverflowError, StorageError
from beamline.documents.consumers import ConsumerError
from beamline.xpcs.analysis import XPCSAnalysis
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.partitions import PartitionError
from beamline.xpcs.reference import ReferenceMultiTau
from beamline.xpcs.schemas import SchemaValidationError
from callbacks._frame_blocks import BlockSource
from callbacks._xpcs_plot import digest
from callbacks.xpcs import XPCSWriter


@pytest.fixture
def docs():
    return Documents()


@pytest.fixture
def writer(tmp_path, docs):
    made = XPCSWriter(
        tmp_path / "xpcs", n_dynamic=3, n_static=6, levels=3, interval=0, plot_interval=0,
        sinks=[docs], frame_timeout=0.3,
    )  # fmt: skip
    yield made
    made.close()


def stored(path):
    with h5py.File(path) as file:
        multitau = file["/xpcs/multitau"]
        return multitau["normalized_g2"][()], multitau["affected_by_gaps"][()].astype(bool)


def reference(path, parts, levels=3):
    """g2 by the plain correlator; parts are frames, or numbers of missing ones."""
    bins = HDF5Facade().read_q_partition(path, "/xpcs/qmap")
    plain = ReferenceMultiTau(bins.dynamic_roi_map, bins.static_roi_map, 0.005, levels=levels)
    for part in parts:
        if isinstance(part, int):
            plain.skip(part)
        else:
            plain.add(part)
    return plain.result()


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_frames_that_come_in_pieces_give_the_g2_of_all(tmp_path, writer, docs, sparse):
    frames = frames_of(90)
    series = Series(tmp_path, writer, sparse=sparse)
    for first in range(0, 90, 13):
        series.write(frames[first : first + 13])
        series.refer()
    series.stop()
    (path,) = writer.files
    g2, affected = stored(path)
    np.testing.assert_allclose(g2, reference(path, [frames]).g2, rtol=1e-12)
    assert not affected.any()
    assert not writer.errors
    with h5py.File(path) as file:
        np.testing.assert_allclose(
            file["/xpcs/temporal_mean/scattering_2d"][0], frames.mean(axis=0), rtol=1e-6
        )
        trace = file["/xpcs/spatial_mean/intensity_vs_time"][()]
        valid = file["/xpcs/qmap/mask"][()] > 0
        np.testing.assert_array_equal(trace[0], np.arange(90))
        np.testing.assert_allclose(trace[1], frames[:, valid].mean(axis=1))
        assert file["/entry/process/frames"][()] == 90
        assert file["/entry/instrument/detector_1/frame_time"][()] == 0.005
        assert file["/entry/instrument/detector_1/count_time"][()] == 0.004
    # The documents are a valid run of their own; its last g2 is that of the file.
    assert docs.start["analysis_of"] == series.uid
    events = docs.events("g2")
    assert len(events) > 1
    last = events[-1]["data"]
    assert last["frames"] == 90
    np.testing.assert_array_equal(np.array(last["g2"])[: len(g2)], g2)
    assert len(last["q"]) == g2.shape[1]
    assert last["delay"][:2] == [0.005, 0.01]
    assert last["newest_frame"] == pytest.approx(1000 + 0.005 * 89)
    assert len(docs.events("diffusion")) == 1
    assert docs.stop["exit_status"] == "success"


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_gap_in_frame_numbers_costs_its_pairs_only(tmp_path, writer, docs, sparse):
    frames = frames_of(60)
    numbers = np.r_[0:30, 33:63]
    series = Series(tmp_path, writer, sparse=sparse)
    series.write(frames, numbers)
    series.refer()
    series.stop()
    (path,) = writer.files
    g2, affected = stored(path)
    np.testing.assert_allclose(g2, reference(path, [frames[:30], 3, frames[30:]]).g2, rtol=1e-12)
    assert affected.all()
    assert "3 frames are missing after frame 30" in str(writer.errors[0])
    assert writer.statistics["missing"] == 3
    assert docs.events("g2")[-1]["data"]["missing_frames"] == 3
    with h5py.File(path) as file:
        assert file["/entry/process/missing_frames"][()] == 3


def test_nothing_is_correlated_across_a_restart_of_the_detector(tmp_path, writer):
    frames = frames_of(60)
    series = Series(tmp_path, writer)
    series.write(frames[:35])
    series.write(frames[35:], numbers=np.arange(25), begin=2000.0)
    series.refer()
    series.stop()
    (path,) = writer.files
    g2, affected = stored(path)
    # Far more frames than the longest lag between the two parts.
    expected = reference(path, [frames[:35], 200, frames[35:]])
    np.testing.assert_allclose(g2, expected.g2[: len(g2)], rtol=1e-12)
    assert affected.all()
    assert writer.statistics["restarts"] == 1
    assert writer.statistics["missing"] == 0


def test_a_pause_between_acquisitions_is_a_restart_too(tmp_path, writer):
    frames = frames_of(40)
    series = Series(tmp_path, writer)
    series.write(frames[:20])
    series.write(frames[20:], begin=1001.0)
    series.refer()
    series.stop()
    assert writer.statistics["restarts"] == 1


def test_frames_that_never_come_are_counted_as_missing(tmp_path, writer):
    frames = frames_of(30)
    series = Series(tmp_path, writer)
    series.write(frames)
    series.refer()
    series.refer(stop=36)
    series.stop(exit_status="fail", reason="the detector died", complete=False)
    (path,) = writer.files
    np.testing.assert_allclose(stored(path)[0], reference(path, [frames, 6]).g2)
    assert writer.statistics["missing"] == 6
    assert "frame 30 is missing" in str(writer.errors[-1])
    with h5py.File(path) as file:
        assert file["/entry/exit_status"].asstr()[()] == "fail"
        assert file["/entry/reason"].asstr()[()] == "the detector died"


def test_frames_that_hold_no_counts_are_left_out_as_missing(tmp_path, writer, monkeypatch):
    read = BlockSource.read_block

    def spoilt(self, start, stop):
        block = read(self, start, stop)
        frames = block.frames.astype(float)
        for row in {7, 23} & set(range(start, start + len(frames))):
            frames[row - start, 10, 10] = np.nan
        return dataclasses.replace(block, frames=frames)

    monkeypatch.setattr(BlockSource, "read_block", spoilt)
    frames = frames_of(40)
    series = Series(tmp_path, writer)
    series.write(frames)
    series.refer()
    series.stop()
    (path,) = writer.files
    parts = [frames[:7], 1, frames[8:23], 1, frames[24:]]
    g2, affected = stored(path)
    np.testing.assert_allclose(g2, reference(path, parts).g2)
    assert affected.all()
    assert writer.statistics["missing"] == 2
    (error,) = writer.errors
    assert "its frame 7 is left out" in str(error)
    assert "nan in the pixel ss 10, fs 10" in str(error)


def test_a_consumer_of_g2_that_fails_costs_no_frame(tmp_path, writer, docs):
    frames = frames_of(40)

    def full(name, doc):
        if name == "event":
            raise StorageError("the disk is full.")
        return docs(name, doc)

    writer = XPCSWriter(tmp_path / "xpcs", n_dynamic=3, n_static=6, levels=3, interval=0,
                        plot_interval=0, sinks=[full])  # fmt: skip
    series = Series(tmp_path, writer)
    numbers = [*range(10), *range(12, 42)]
    series.write(frames, numbers)
    with pytest.raises(ConsumerError, match="the disk is full"):
        series.refer()
    assert writer.statistics["frames"] == 40
    assert writer.statistics["missing"] == 2


def test_counts_that_are_too_large_end_the_analysis_and_say_so(tmp_path, writer, docs, monkeypatch):
    taken = []

    def take(self, frames, pixels, first):
        taken.append(len(frames))
        raise CorrelationOverflowError("too large.")

    monkeypatch.setattr(XPCSAnalysis, "take", take)
    series = Series(tmp_path, writer)
    series.write(frames_of(20))
    with pytest.raises(ConsumerError, match="too large"):
        series.refer(10)
    series.refer()
    series.stop()
    assert taken == [10]
    assert docs.stop["exit_status"] == "fail"
    assert not writer.files


def test_frames_that_are_late_are_waited_for(tmp_path, writer):
    frames = frames_of(30)
    series = Series(tmp_path, writer)
    series.write(frames[:10])
    series.refer()
    series.refer(stop=30)
    assert writer.statistics["frames"] == 10
    series.write(frames[10:])
    series.stop()
    assert writer.statistics["frames"] == 30
    np.testing.assert_allclose(stored(writer.files[0])[0], reference(writer.files[0], [frames]).g2)


def test_other_bins_in_mid_run_begin_a_new_stream_and_both_are_recorded(tmp_path, writer, docs):
    frames = frames_of(70)
    series = Series(tmp_path, writer)
    series.write(frames[:40])
    series.refer()
    mask = np.ones(SHAPE, int)
    mask[:8] = 0
    writer.use(mask=mask)
    series.write(frames[40:])
    series.refer()
    series.stop()
    first, second = writer.files
    assert second.name == first.name.replace("_results", "_part2_results")
    np.testing.assert_allclose(stored(first)[0], reference(first, [frames[:40]]).g2, rtol=1e-12)
    np.testing.assert_allclose(stored(second)[0], reference(second, [frames[40:]]).g2, rtol=1e-12)
    with h5py.File(first) as a, h5py.File(second) as b:
        assert "other bins were chosen after 40 frames" in a["/entry/reason"].asstr()[()]
        assert a["/xpcs/qmap"].attrs["hash"] != b["/xpcs/qmap"].attrs["hash"]
        assert not b["/xpcs/qmap/mask"][:8].any()
    names = [doc["name"] for doc in docs.all("descriptor")]
    assert names == ["g2", "diffusion", "g2_2", "diffusion_2"]
    assert docs.events("g2")[-1]["data"]["frames"] == 40
    assert docs.events("g2_2")[-1]["data"]["frames"] == 30


LABELS = np.zeros(SHAPE, np.int32)
LABELS[3:10], LABELS[12:20] = 1, 2
EXPORTED = {
    "partition_map": LABELS, "num_pts": 2, "val_list": [0.1, 0.2], "num_list": [140, 160],
}  # fmt: skip


def test_bins_of_the_mask_editor_are_taken_and_a_mask_leaves_pixels_out_of_them(tmp_path, writer):
    frames = frames_of(40)
    writer.use(partition=EXPORTED)
    mask = np.ones(SHAPE, bool)
    mask[:5] = False
    series = Series(tmp_path, writer)
    series.write(frames[:20])
    series.refer()
    writer.use(mask=mask)
    series.write(frames[20:])
    series.refer()
    series.stop()
    labels = [HDF5Facade().read_q_partition(f, "/xpcs/qmap") for f in writer.files]
    np.testing.assert_array_equal(labels[0].dynamic_roi_map, LABELS)
    np.testing.assert_array_equal(labels[1].dynamic_roi_map, LABELS * mask)
    assert labels[1].metadata.det_dist == 200.0
    np.testing.assert_allclose(labels[0].dynamic_q, [0.1, 0.2])


def test_bins_that_do_not_fit_are_refused_and_the_run_goes_on(tmp_path, writer):
    frames = frames_of(40)
    series = Series(tmp_path, writer)
    series.write(frames[:20])
    series.refer()
    with pytest.raises(SchemaValidationError, match="whole numbers"):
        writer.use(mask=np.full(SHAPE, np.nan))
    with pytest.raises(PartitionError, match="all of them are masked"):
        writer.use(mask=np.zeros(SHAPE))
    with pytest.raises(ConfigurationError, match="found neither"):
        writer.use()
    writer.use(mask=np.ones((3, 3)))
    series.write(frames[20:])
    series.refer()
    series.stop()
    (file,) = writer.files
    np.testing.assert_allclose(stored(file)[0], reference(file, [frames]).g2)
    (error,) = writer.errors
    assert "after 20 frames do not fit" in str(error)
    assert "(24, 20)" in str(error)
    assert "(3, 3)" in str(error)


def test_bins_of_another_detector_are_one_sentence(tmp_path):
    other = {**EXPORTED, "partition_map": LABELS.T}
    series = Series(tmp_path, XPCSWriter(tmp_path / "xpcs", partition=other, sinks=[]))
    series.write(frames_of(3))
    with pytest.raises(ConsumerError, match=r"frames are of the shape \(24, 20\)"):
        series.refer()


def test_pictures_change_with_the_frames_and_the_last_is_the_files_g2(tmp_path):
    writer = XPCSWriter(
        tmp_path / "xpcs", n_dynamic=3, n_static=6, levels=3, interval=0, plot_interval=1e-6,
        sinks=[],
    )  # fmt: skip
    frames = frames_of(60)
    series = Series(tmp_path, writer)
    seen = set()
    for first in (0, 20, 40):
        series.write(frames[first : first + 20])
        series.refer()
        (picture,) = writer.pictures
        run = writer._runs[series.uid]
        assert run._plot.drawn.wait(100)
        seen.add(picture.read_bytes())
        run._plot.drawn.clear()
        run._cost = 0.0  # that of the first one may be larger than the time for its picture
    series.stop()
    (path,) = writer.files
    assert len(seen) == 3
    assert digest(stored(path)[0]).encode() in picture.read_bytes()
    assert [p.name for p in picture.parent.glob("*.part")] == []
    writer.close()


def test_a_run_of_another_technique_is_left_alone(tmp_path, writer):
    series = Series(tmp_path, writer, technique="stills")
    series.write(frames_of(5))
    series.refer()
    series.stop()
    assert not writer.files


def test_one_frame_gives_no_result_and_no_error(tmp_path, writer, docs, caplog):
    series = Series(tmp_path, writer)
    series.write(frames_of(1))
    series.refer()
    series.stop(exit_status="abort")
    assert not writer.files
    assert docs.stop["exit_status"] == "abort"
    assert "1 frames have no pair" in caplog.text


def test_no_geometry_is_one_sentence_and_ends_the_g2_run(tmp_path, docs):
    writer = XPCSWriter(tmp_path / "xpcs", sinks=[docs], frame_time=0.0)
    series = Series(tmp_path, writer)
    series.write(frames_of(3))
    with pytest.raises(ConsumerError, match="expected more than 0 s"):
        series.refer()
    with pytest.raises(ConfigurationError, match="interval and plot_interval"):
        XPCSWriter(tmp_path, interval=-1)


def test_a_writer_that_is_closed_in_mid_run_leaves_a_labelled_file(tmp_path, writer):
    series = Series(tmp_path, writer)
    series.write(frames_of(20))
    series.refer()
    writer.close()
    with h5py.File(writer.files[0]) as file:
        assert file["/entry/exit_status"].asstr()[()] == "abort"
        assert "closed before the run had stopped" in file["/entry/reason"].asstr()[()]
