"""Files of frames: stacks of pixels, and events."""

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from ioc.frame_file import FRAMES, Layout, create_frame_file
from ioc.frames import DENSE, EVENTS, FrameHeader


def header(number: int, nbytes: int = 48, dtype: str = DENSE, shape=(4, 6)) -> FrameHeader:
    return FrameHeader(number, 0, 12.5 + number, dtype, shape, nbytes, 9000.0, 0.1)


def pixels(seed: int, shape: tuple[int, ...] = (4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


@pytest.mark.parametrize("swmr", [False, True])
@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("level", [0, 1])
def test_frames_are_written_in_order_and_readable_while_it_grows(
    tmp_path: Path, level, chunk, swmr
):
    path = tmp_path / "a.h5"
    file = create_frame_file(path, Layout(DENSE, (4, 6), level=level, chunk=chunk, swmr=swmr))
    images = [pixels(i) for i in range(5)]
    for i in range(3):
        file.append(header(i), bytearray(images[i].tobytes()))
    file.flush()
    # Within one process HDF5 wants the same lock flag; from another, any will do.
    with h5py.File(path, locking=False, swmr=swmr) as reader:
        assert reader.attrs["complete"] == 0
        np.testing.assert_array_equal(reader[FRAMES][()], images[:3])
    for i in range(3, 5):
        file.append(header(i), images[i].tobytes())
    file.close(complete=True)
    with h5py.File(path) as reader:
        assert reader.attrs["complete"] == 1
        np.testing.assert_array_equal(reader[FRAMES][()], images)
        assert reader[FRAMES].chunks == (chunk, 4, 6)
        assert reader[FRAMES].dtype == np.dtype("<u2")
        attributes = reader["entry/instrument/NDAttributes"]
        np.testing.assert_array_equal(attributes["NDArrayUniqueId"], range(5))
        np.testing.assert_array_equal(attributes["NDArrayTimeStamp"], 12.5 + np.arange(5))
        np.testing.assert_array_equal(attributes["PhotonEnergy"], [9000.0] * 5)
        assert attributes["PhotonEnergy"].attrs["units"] == "eV"
        assert reader["entry/instrument/detector/data"] == reader[FRAMES]


def test_panels_are_a_dimension_of_the_stack(tmp_path: Path):
    file = create_frame_file(tmp_path / "a.h5", Layout(DENSE, (3, 4, 6)))
    images = [pixels(i, (3, 4, 6)) for i in range(2)]
    for i, image in enumerate(images):
        file.append(header(i, 144, shape=(3, 4, 6)), image.tobytes())
    file.close(complete=True)
    with h5py.File(tmp_path / "a.h5") as reader:
        np.testing.assert_array_equal(reader[FRAMES], images)


@pytest.mark.parametrize("level", [0, 1])
def test_events_keep_the_photons_of_every_frame(tmp_path: Path, level: int):
    frames = [[0, 0, 7], [], [23], [], []]
    file = create_frame_file(tmp_path / "a.h5", Layout(EVENTS, (4, 6), level=level))
    for i, ids in enumerate(frames):
        file.append(header(i, 4 * len(ids), EVENTS), np.array(ids, "<u4").tobytes())
        if i % 2:
            file.flush()
    file.close(complete=True)
    with h5py.File(tmp_path / "a.h5") as reader:
        events = reader["entry/events"]
        assert events.attrs["NX_class"] == "NXevent_data"
        index = [*events["event_index"][()], len(events["event_id"])]
        found = [list(events["event_id"][a:b]) for a, b in pairwise(index)]
        assert found == frames
        assert (events["event_id"].dtype, events["event_index"].dtype) == ("<u4", "<u8")
        assert list(events["frame_shape"]) == [4, 6]
        assert list(events["event_time_zero"]) == [12.5 + i for i in range(5)]
        assert list(reader["entry/data/photons"]) == [3, 0, 1, 0, 0]


def test_an_existing_file_is_never_touched(tmp_path: Path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"precious")
    with pytest.raises(OSError, match="exists"):
        create_frame_file(path, Layout(DENSE, (4, 6)))
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (header(3, 60, shape=(5, 6)), "frame 3 has 5x6 pixels, the file 4x6 pixels"),
        (header(3, 8, EVENTS), "frame 3 has 4x6 events, the file 4x6 pixels"),
    ],
)
def test_a_frame_of_another_kind_is_refused(tmp_path: Path, wrong: FrameHeader, words: str):
    file = create_frame_file(tmp_path / "a.h5", Layout(DENSE, (4, 6)))
    with pytest.raises(ValueError, match=words):
        file.append(wrong, bytes(wrong.nbytes))
    file.close(complete=False)
    with h5py.File(tmp_path / "a.h5") as reader:
        assert reader[FRAMES].shape == (0, 4, 6)
        assert reader.attrs["complete"] == 0


def test_a_photon_outside_of_the_frame_is_refused(tmp_path: Path):
    file = create_frame_file(tmp_path / "a.h5", Layout(EVENTS, (4, 6)))
    with pytest.raises(ValueError, match="pixel 24 of 24"):
        file.append(header(0, 8, EVENTS), np.array([1, 24], "<u4").tobytes())
    file.close(complete=False)
