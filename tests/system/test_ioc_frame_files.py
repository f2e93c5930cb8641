"""Kinds of frames and of files: panels, events, SWMR, lazy files, full disks, refusals."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ioc_stack import Stack, running

pytestmark = pytest.mark.system

SETUP = """
def take(images):
    aput("cam1:NumImages", images)
    aput("cam1:Acquire", 1)
put("SHUTTER:CMD", "Open")
aput("cam1:AcquireTime", 0.005)
aput("HDF1:FilePath", {folder!r})
aput("HDF1:NumCapture", 0)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    """A detector of three small panels."""
    folder = tmp_path_factory.mktemp("panels")
    config = folder / "server.conf"
    config.write_text("detector_nx = 96\ndetector_ny = 64\ndetector_panels = 3\n")
    with running(folder, time_scale=5.0, config=config) as stack:
        yield stack


def client(stack: Stack, folder: Path, code: str) -> dict:
    return stack.client(SETUP.format(folder=str(folder)) + code)


def test_panels_and_events_of_the_same_detector(stack: Stack, tmp_path: Path):
    found = client(
        stack, tmp_path,
        """
def sizes():
    return [int(aget(f"HDF1:ArraySize{i}_RBV")) for i in range(3)]
aput("HDF1:Capture", 1)
take(4)
aput("HDF1:Capture", 0)
tell(dense=aget("HDF1:FullFileName_RBV", as_string=True), sizes=sizes(),
     kind=aget("cam1:DataType_RBV", as_string=True))
aput("cam1:Sparse", "Events")
aput("HDF1:Capture", 1)
take(4)
until(lambda: aget("image1:UniqueId_RBV") == aget("HDF1:UniqueId_RBV"))
image = aget("image1:ArrayData")
tell(photons=float(image.sum()), image=[int(aget(f"image1:ArraySize{i}_RBV")) for i in range(3)],
     newest=aget("image1:UniqueId_RBV"))
aput("HDF1:Capture", 0)
aput("cam1:Sparse", "Dense")
tell(sparse=aget("HDF1:FullFileName_RBV", as_string=True), panels=aget("cam1:Panels_RBV"),
     dropped=aget("HDF1:DroppedArrays_RBV"))
""",
    )  # fmt: skip
    assert (found["sizes"], found["panels"], found["kind"]) == ([96, 64, 3], 3, "UInt16")
    assert (found["image"], found["dropped"]) == ([96, 192, 0], 0)
    with h5py.File(found["dense"]) as file:
        assert file["entry/data/data"].shape == (4, 3, 64, 96)
        assert file["entry/data/data"][()].any()
    with h5py.File(found["sparse"]) as file:
        events = file["entry/events"]
        assert list(events["frame_shape"]) == [3, 64, 96]
        ids, index = events["event_id"][()], events["event_index"][()]
        numbers = file["entry/instrument/NDAttributes/NDArrayUniqueId"][()]
        assert len(index) == 4
        last = ids[index[-1] :]
        assert len(last) > 0
        assert np.all(np.diff(last.astype(int)) >= 0)
        assert last.max() < 3 * 64 * 96
        assert (numbers[-1], len(last)) == (found["newest"], found["photons"])
        assert file.attrs["complete"] == 1


def test_a_file_in_swmr_mode_is_followed_by_a_reader(stack: Stack, tmp_path: Path):
    found = client(
        stack, tmp_path,
        """
import h5py
aput("HDF1:SWMRMode", "On")
aput("HDF1:NumFramesChunks", 2)
aput("HDF1:NumFramesFlush", 1)
aput("HDF1:Capture", 1)
name = aget("HDF1:FullFileName_RBV", as_string=True)
active = aget("HDF1:SWMRActive_RBV")
seen = []
with h5py.File(name, "r", swmr=True, locking=False) as file:
    data = file["entry/data/data"]
    for n in (1, 2, 3):
        take(n)
        data.refresh()
        seen.append([data.shape[0], bool(data[-1].any())])
aput("HDF1:Capture", 0)
tell(seen=seen, active=[active, aget("HDF1:SWMRActive_RBV")], name=name)
aput("HDF1:SWMRMode", "Off")
aput("HDF1:NumFramesChunks", 1)
aput("HDF1:NumFramesFlush", 0)
""",
    )  # fmt: skip
    assert found["seen"] == [[1, True], [3, True], [6, True]]
    assert found["active"] == [1, 0]
    with h5py.File(found["name"]) as file:
        assert (file["entry/data/data"].chunks[0], file.attrs["complete"]) == (2, 1)


def test_a_lazy_file_is_made_by_its_first_frame(stack: Stack, tmp_path: Path):
    found = client(
        stack, tmp_path,
        """
aput("HDF1:LazyOpen", "Yes")
number = aget("HDF1:FileNumber")
aput("HDF1:Capture", 1)
before = [aget("HDF1:Capture_RBV"), len(os.listdir(aget("HDF1:FilePath", as_string=True))),
          aget("HDF1:FileNumber") - number]
take(2)
after = [aget("HDF1:NumCaptured_RBV"), aget("HDF1:FileNumber") - number]
aput("HDF1:Capture", 0)
aput("HDF1:Capture", 1)
aput("HDF1:Capture", 0)  # without a frame there is no file
aput("HDF1:LazyOpen", "No")
tell(before=before, after=after)
""",
    )  # fmt: skip
    assert (found["before"], found["after"]) == ([1, 0, 0], [2, 1])
    (path,) = tmp_path.iterdir()
    with h5py.File(path) as file:
        assert (file["entry/data/data"].shape[0], file.attrs["complete"]) == (2, 1)


def test_what_is_not_available_is_refused_and_what_is_is_taken(stack: Stack, tmp_path: Path):
    wrong = {
        "cam1:BinX": 2, "cam1:Gain": 2.0, "cam1:TriggerMode": "External", "cam1:NumExposures": 2,
        "cam1:DataType": "Float64", "cam1:SizeX": 5, "cam1:NumImages": 0, "cam1:ReverseX": "Yes",
        "HDF1:FileWriteMode": "Capture", "HDF1:Compression": "LZ4", "HDF1:ZLevel": 10,
        "HDF1:NumRowChunks": 8, "HDF1:NDArrayPort": "OTHER", "HDF1:BlockingCallbacks": "No",
        "HDF1:NumFramesChunks": -1, "image1:NDArrayAddress": 3, "cam1:Preload": -1,
    }  # fmt: skip
    found = client(
        stack, tmp_path,
        f"""
wrong = {wrong!r}
before = {{name: aget(name) for name in wrong}}
for name, value in wrong.items():
    aput(name, value)
tell(changed=[name for name in wrong if aget(name) != before[name]])
for name, value in before.items():
    aput(name, value)
""",
    )  # fmt: skip
    assert found["changed"] == []
    log = stack.log()
    for name, value in wrong.items():
        (line,) = [line for line in log.splitlines() if f"BL02:AD1:{name} " in line or
                   f"BL02:AD1:{name}:" in line]  # fmt: skip
        assert str(value).rstrip("0").rstrip(".") in line, name


FILL = """
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 5000)
tell(ended=aput("cam1:Acquire", 1))
tell(message=aget("HDF1:WriteMessage", as_string=True),
     status=aget("HDF1:WriteStatus"), captured=aget("HDF1:NumCaptured_RBV"),
     name=aget("HDF1:FullFileName_RBV", as_string=True), state=aget("cam1:DetectorState_RBV"),
     dropped=aget("HDF1:DroppedArrays_RBV"), severity=pv("AD1:HDF1:WriteStatus").severity)
"""
AGAIN = """
aput("HDF1:Capture", 1)
take(2)
aput("HDF1:Capture", 0)
tell(again=[aget("HDF1:NumCaptured_RBV"), aget("HDF1:WriteStatus"), aget("cam1:Acquire_RBV"),
            aget("HDF1:WriteMessage", as_string=True),
            aget("cam1:StatusMessage_RBV", as_string=True)])
"""


def check_full(found: dict, words: str) -> None:
    assert words in found["message"]
    assert (found["status"], found["severity"], found["state"]) == (1, 3, 6)
    assert found["ended"] == 1
    assert found["dropped"] >= 1


def test_a_full_disk_is_an_error_before_a_frame_is_half_written(stack: Stack, tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        found = client(stack, small, FILL)
        check_full(found, "the disk is full")
        with h5py.File(found["name"]) as file:
            assert file.attrs["complete"] == 0
            assert file["entry/data/data"].shape[0] == found["captured"] > 20
            assert file["entry/data/data"][()].any(axis=(1, 2, 3)).all()
        again = client(stack, tmp_path, AGAIN)["again"]
        assert again[:3] == [2, 0, 0], again
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_file_that_cannot_grow_is_an_error_and_the_next_is_good(stack: Stack, tmp_path: Path):
    children = Path(f"/proc/{stack.ioc.pid}/task/{stack.ioc.pid}/children").read_text().split()
    writer = int(children[0])
    before = resource.prlimit(writer, resource.RLIMIT_FSIZE)
    resource.prlimit(writer, resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    found = client(stack, tmp_path, FILL)
    check_full(found, os.strerror(27))
    os.kill(writer, 0)
    resource.prlimit(writer, resource.RLIMIT_FSIZE, before)
    again = client(stack, tmp_path, AGAIN)["again"]
    assert again[:3] == [2, 0, 0], again


@pytest.mark.faults
def test_a_killed_writer_leaves_the_events_that_were_flushed(stack: Stack, tmp_path: Path):
    code = """
aput("cam1:Sparse", "Events")
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 100000)
pv("AD1:cam1:Acquire").put(1, wait=False)
while aget("HDF1:NumCaptured_RBV") < 20:
    time.sleep(0.02)
tell(name=aget("HDF1:FullFileName_RBV", as_string=True))
while aget("cam1:Acquire_RBV"):
    time.sleep(0.02)
while aget("HDF1:WriteStatus") == 0:
    time.sleep(0.02)
aput("cam1:Sparse", "Dense")
"""
    with stack.start_client(SETUP.format(folder=str(tmp_path)) + code) as process:
        assert process.stdout is not None
        name = json.loads(process.stdout.readline())["name"]
        children = Path(f"/proc/{stack.ioc.pid}/task/{stack.ioc.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    with h5py.File(name) as file:
        assert file.attrs["complete"] == 0
        index = file["entry/events/event_index"][()]
        assert len(index) >= 20
        assert np.all(np.diff(index.astype(int)) >= 0)
        assert index[-1] <= len(file["entry/events/event_id"])
