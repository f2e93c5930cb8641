"""Frame headers and frame files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from beamline.core.errors import DeviceServerError
from ioc.frames import DATASET, FrameFile, FrameHeader, parse_frame_header


def header(number: int = 3, shape: tuple[int, int] = (4, 6)) -> FrameHeader:
    return FrameHeader(number, 0, 12.5 + number, shape, 2 * shape[0] * shape[1], 9000.0, 0.1)


def pixels(seed: int, shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def test_a_header_is_understood():
    line = "FRAME:12:3,1700000000.5,uint16,512x1024,1048576,9000.25,0.1"
    assert parse_frame_header(line) == FrameHeader(
        12, 3, 1700000000.5, (512, 1024), 1048576, 9000.25, 0.1
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "FRAME:1:2",
        "FRAME:1:2,3,uint16,4x6,47,9000,0.1",
        "FRAME:1:2,3,uint16,4,6,48,9000,0.1",
        "FRAME:1:2,3,uint16,24,48,9000,0.1",
        "FRAME:1:2,3,uint16,4x,48,9000,0.1",
        "FRAME:1:2,3,float32,4x6,48,9000,0.1",
        "FRAME:1:2,3,uint16,-4x-6,48,9000,0.1",
        "FRAME:x:2,3,uint16,4x6,48,9000,0.1",
        "FRAME:1:2,3,uint16,100000x100000,20000000000,9000,0.1",
        "OK:FRAMES",
    ],
)
def test_a_broken_header_is_refused(line: str):
    with pytest.raises(DeviceServerError, match="can't be read"):
        parse_frame_header(line)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_frames_are_written_in_order_and_readable_while_it_grows(tmp_path: Path, compression: str):
    path = tmp_path / "a.h5"
    file = FrameFile(path, (4, 6), compression=compression)
    images = [pixels(i) for i in range(5)]
    for i in range(3):
        file.append(header(i), bytearray(images[i].tobytes()))
    file.flush()
    # Within one process HDF5 wants the same lock flag; from another, any will do.
    with h5py.File(path, locking=False) as reader:
        assert reader.attrs["complete"] == 0
        np.testing.assert_array_equal(reader[DATASET][()], images[:3])
    for i in range(3, 5):
        file.append(header(i), images[i].tobytes())
    file.close(complete=True)
    with h5py.File(path) as reader:
        assert reader.attrs["complete"] == 1
        np.testing.assert_array_equal(reader[DATASET][()], images)
        assert reader[DATASET].chunks == (1, 4, 6)
        assert reader[DATASET].dtype == np.dtype("<u2")
        attributes = reader["entry/instrument/NDAttributes"]
        np.testing.assert_array_equal(attributes["NDArrayUniqueId"], range(5))
        np.testing.assert_array_equal(attributes["NDArrayTimeStamp"], 12.5 + np.arange(5))
        np.testing.assert_array_equal(attributes["PhotonEnergy"], [9000.0] * 5)
        assert attributes["PhotonEnergy"].attrs["units"] == "eV"
        assert reader["entry/instrument/detector/data"] == reader[DATASET]


def test_an_existing_file_is_never_touched(tmp_path: Path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"precious")
    with pytest.raises(OSError, match="exists"):
        FrameFile(path, (4, 6))
    assert path.read_bytes() == b"precious"


def test_a_frame_of_another_size_is_refused(tmp_path: Path):
    file = FrameFile(tmp_path / "a.h5", (4, 6))
    with pytest.raises(ValueError, match=r"\(5, 6\)"):
        file.append(header(shape=(5, 6)), bytes(60))
    file.close(complete=False)
    with h5py.File(tmp_path / "a.h5") as reader:
        assert reader[DATASET].shape == (0, 4, 6)
        assert reader.attrs["complete"] == 0
