"""Frames from the device server to the file, through the PVs of the area detector."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ioc_stack import Stack, running

pytestmark = pytest.mark.system


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running(tmp_path, time_scale=5.0) as stack:
        yield stack


SETUP = """
def severity(name):
    return pv("AD1:" + name).severity
put("SHUTTER:CMD", "Open")
aput("cam1:AcquireTime", 0.02)
"""


def writer_pid(stack: Stack) -> int:
    (pid,) = Path(f"/proc/{stack.ioc.pid}/task/{stack.ioc.pid}/children").read_text().split()
    return int(pid)


def test_frames_reach_the_file_in_order_and_none_is_lost(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + f"""
aput("cam1:NumImages", 7)
aput("cam1:Acquire", 1)  # no file is open: frames are taken and go nowhere
tell(free=[aget("cam1:ArrayCounter_RBV"), aget("HDF1:NumCaptured_RBV")])
aput("cam1:ArrayCounter", 0)
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:FileName", "run")
aput("HDF1:NumCapture", 0)
aput("HDF1:Capture", 1)
name = aget("HDF1:FullFileName_RBV", as_string=True)
import h5py
shapes = []
for _ in range(3):
    aput("cam1:Acquire", 1)
    with h5py.File(name, "r") as file:  # readable while it grows
        shapes.append([file["entry/data/data"].shape[0], int(file.attrs["complete"])])
aput("cam1:NumImages", 200)
aput("cam1:AcquireTime", 0.0005)
aput("cam1:Acquire", 1)
tell(counters=[aget("cam1:ArrayCounter_RBV"), aget("HDF1:NumCaptured_RBV"),
               aget("HDF1:DroppedArrays_RBV"), aget("cam1:Acquire_RBV")])
aput("HDF1:Capture", 0)
tell(name=name, shapes=shapes, capture=aget("HDF1:Capture_RBV"), size=[aget("cam1:SizeY_RBV"),
     aget("cam1:SizeX_RBV")], energy=aget("cam1:PhotonEnergy_RBV"),
     distance=aget("cam1:DetDist_RBV"), state=aget("cam1:DetectorState_RBV", as_string=True))
"""
    )
    assert found["free"] == [7, 0]
    assert found["shapes"] == [[7, 0], [14, 0], [21, 0]]
    assert found["counters"] == [221, 221, 0, 0]
    assert found["name"] == f"{tmp_path}/run_000001.h5"
    assert found["capture"] == 0
    assert found["state"] == "Idle"
    assert found["energy"] == 9000.0
    assert found["distance"] > 0
    with h5py.File(found["name"]) as file:
        assert file.attrs["complete"] == 1
        data = file["entry/data/data"]
        assert data.shape == (221, *found["size"])
        numbers = file["entry/instrument/NDAttributes/NDArrayUniqueId"][()]
        np.testing.assert_array_equal(numbers, np.arange(7, 228))
        # Frames are all different, so none was written twice in place of another.
        assert len({image.tobytes() for image in data[:21]}) == 21
        assert set(file["entry/instrument/NDAttributes/PhotonEnergy"][()]) == {9000.0}


def test_frames_that_were_exposed_late_are_told(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:Capture", 1)
aput("cam1:SimMode", "Speckle")
aput("cam1:NumImages", 30)
aput("cam1:AcquireTime", 0.001)
aput("cam1:AcquirePeriod", 0.002)
def outcome():
    return [aget("cam1:LateFrames_RBV"), aget("cam1:StatusMessage_RBV", as_string=True),
            severity("cam1:DetectorState_RBV"), severity("cam1:Acquire")]
aput("cam1:Acquire", 1)
late = outcome()
aput("HDF1:Capture", 0)
aput("cam1:NumImages", 1)
aput("cam1:Acquire", 1)
tell(late=late, punctual=outcome(), name=aget("HDF1:FullFileName_RBV", as_string=True))
"""
    )
    count, message, *severities = found["late"]
    assert 0 < count < 30
    assert message.startswith(f"{count} of 30 frames were exposed late")
    assert severities == [1, 0]
    assert found["punctual"] == [0, "", 0, 0]
    with h5py.File(found["name"]) as file:
        stamps = file["entry/instrument/NDAttributes/NDArrayTimeStamp"][()]
    np.testing.assert_allclose(np.diff(stamps), 0.002 / 5, atol=2e-6)


def test_event_frames_that_lack_photons_are_told(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + """
aput("cam1:Sparse", "Events")
aput("cam1:SimMode", "Still")
aput("cam1:AcquirePeriod", 0.2)
def outcome(exposure):
    aput("cam1:AcquireTime", exposure)
    aput("cam1:NumImages", 3)
    aput("cam1:Acquire", 1)
    return [aget("cam1:OverflowFrames_RBV"), aget("cam1:StatusMessage_RBV", as_string=True),
            severity("cam1:DetectorState_RBV"), severity("cam1:Acquire")]
tell(bright=outcome(1.0), dim=outcome(0.002))
"""
    )
    assert found["bright"] == [
        3,
        "3 frames had more photons than an event frame holds; use dense frames or less light",
        2,
        0,
    ]
    count, message, severity, _ = found["dim"]
    assert count == 0
    assert "photons" not in message
    assert severity < 2
    assert "3 frames had more photons" in stack.log()


def test_the_file_closes_by_itself_after_num_capture(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path / "new" / "folder")!r})
aput("HDF1:CreateDirectory", -2)
aput("HDF1:FileTemplate", "%s%s_%3.3d.hdf")
aput("HDF1:Compression", "zlib")
aput("HDF1:NumCapture", 3)
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 5)
aput("cam1:Acquire", 1)
tell(name=aget("HDF1:FullFileName_RBV", as_string=True), number=aget("HDF1:FileNumber"),
     counters=[aget("cam1:ArrayCounter_RBV"), aget("HDF1:NumCaptured_RBV")],
     capture=aget("HDF1:Capture_RBV"))
"""
    )
    assert found["name"] == f"{tmp_path}/new/folder/frames_001.hdf"
    assert found["number"] == 2
    assert found["counters"] == [5, 3]
    assert found["capture"] == 0
    with h5py.File(found["name"]) as file:
        assert file.attrs["complete"] == 1
        assert file["entry/data/data"].shape[0] == 3
        assert file["entry/data/data"].compression == "gzip"


def test_a_file_that_cannot_be_written_is_an_alarm_and_not_a_hang(stack: Stack, tmp_path: Path):
    (tmp_path / "frames_000001.h5").write_bytes(b"precious")
    found = stack.client(
        SETUP
        + f"""
def attempt(path):
    aput("HDF1:FilePath", path)
    aput("HDF1:Capture", 1)
    ended = aput("cam1:Acquire", 1)
    return dict(ended=ended, capture=aget("HDF1:Capture_RBV"),
                status=aget("HDF1:WriteStatus", as_string=True),
                message=aget("HDF1:WriteMessage", as_string=True),
                severity=[severity("HDF1:Capture_RBV"), severity("HDF1:WriteStatus"),
                          severity("cam1:Acquire_RBV")],
                state=aget("cam1:DetectorState_RBV", as_string=True),
                acquire=aget("cam1:Acquire_RBV"), taken=aget("cam1:ArrayCounter_RBV"))
tell(missing=attempt("/nowhere/at/all"), denied=attempt("/proc"), relative=attempt("here"),
     existing=attempt({str(tmp_path)!r}))
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:FileNumber", 2)
aput("HDF1:Capture", 1)
aput("cam1:Acquire", 1)
tell(good=[aget("HDF1:WriteStatus"), severity("HDF1:Capture_RBV"), severity("cam1:Acquire_RBV"),
           aget("HDF1:NumCaptured_RBV"), aget("HDF1:WriteMessage", as_string=True)])
"""
    )
    for case, reason in (
        ("missing", "does not exist"),
        ("denied", "No such file"),
        ("existing", "File exists"),
        ("relative", "absolute"),
    ):
        outcome = found[case]
        assert reason in outcome["message"], case
        assert outcome["status"] == "Write error"
        assert outcome["severity"] == [3, 3, 3]
        assert outcome["state"] == "Error"
        assert (outcome["capture"], outcome["acquire"], outcome["taken"]) == (0, 0, 0)
        assert outcome["ended"] == 1
    assert found["good"] == [0, 0, 0, 1, ""]
    assert (tmp_path / "frames_000001.h5").read_bytes() == b"precious"


def test_the_frame_writer_is_killed_during_an_acquisition(stack: Stack, tmp_path: Path):
    client = stack.start_client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:NumCapture", 0)
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 100000)
pv("AD1:cam1:Acquire").put(1, use_complete=True, callback=lambda **_: tell(ended=1))
while aget("HDF1:NumCaptured_RBV") < 10:
    time.sleep(0.02)
tell(under_way=1)
while aget("cam1:Acquire_RBV"):
    time.sleep(0.02)
tell(message=aget("HDF1:WriteMessage", as_string=True), severity=severity("HDF1:WriteStatus"),
     state=aget("cam1:DetectorState_RBV", as_string=True))
# A new writer is there before long.
aput("cam1:NumImages", 2)
def capturing():
    aput("HDF1:Capture", 1)
    return aget("HDF1:Capture_RBV")
until(capturing)
aput("cam1:Acquire", 1)
aput("HDF1:Capture", 0)
tell(second=aget("HDF1:NumCaptured_RBV"), name=aget("HDF1:FullFileName_RBV", as_string=True))
"""
    )
    with client:
        assert client.stdout is not None
        assert "under_way" in client.stdout.readline()
        os.kill(writer_pid(stack), signal.SIGKILL)
        out, err = client.communicate(timeout=100)
    assert client.returncode == 0, err
    assert '"ended": 1' in out
    assert "the frame writer ended with status -9" in out
    assert '"severity": 3, "state": "Error"' in out
    assert '"second": 2' in out
    # What had been flushed is there, in a file that says it is not complete.
    with h5py.File(tmp_path / "frames_000001.h5") as file:
        assert file.attrs["complete"] == 0
        numbers = file["entry/instrument/NDAttributes/NDArrayUniqueId"][()]
        assert len(numbers) >= 10
        assert file["entry/data/data"].shape[0] >= len(numbers)
        assert file["entry/data/data"][len(numbers) - 1].shape == (512, 512)
    with h5py.File(tmp_path / "frames_000002.h5") as file:
        assert file.attrs["complete"] == 1


def test_an_acquisition_can_be_stopped(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:NumCapture", 0)
aput("HDF1:Capture", 1)
aput("cam1:ImageMode", "Continuous")
ended = []
pv("AD1:cam1:Acquire").put(1, use_complete=True, callback=lambda **_: ended.append(1))
while aget("HDF1:NumCaptured_RBV") < 5:
    time.sleep(0.02)
aput("cam1:Acquire", 0)
until(lambda: not aget("cam1:Acquire_RBV"))
tell(taken=aget("cam1:NumImagesCounter_RBV"), captured=aget("HDF1:NumCaptured_RBV"),
     acquire=aget("cam1:Acquire_RBV"), severity=severity("cam1:Acquire_RBV"))
until(lambda: ended)
aput("HDF1:Capture", 0)
"""
    )
    assert found["taken"] == found["captured"] >= 5
    assert (found["acquire"], found["severity"]) == (0, 0)
    with h5py.File(tmp_path / "frames_000001.h5") as file:
        assert file["entry/data/data"].shape[0] == found["captured"]
        assert file.attrs["complete"] == 1


def test_the_ioc_dies_during_an_acquisition(stack: Stack, tmp_path: Path):
    client = stack.start_client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:NumCapture", 0)
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 100000)
pv("AD1:cam1:Acquire").put(1, wait=False)
while aget("HDF1:NumCaptured_RBV") < 5:
    time.sleep(0.02)
tell(under_way=1)
"""
    )
    with client:
        assert client.stdout is not None
        assert "under_way" in client.stdout.readline()
        writer = writer_pid(stack)
        stack.ioc.kill()
        client.communicate(timeout=60)
    end = time.monotonic() + 60
    while Path(f"/proc/{writer}/fd/1").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    with h5py.File(tmp_path / "frames_000001.h5") as file:
        assert file.attrs["complete"] == 0
        assert file["entry/data/data"].shape[0] >= 5


def test_frames_are_counted_anew_after_a_restart_of_the_device_server(stack: Stack, tmp_path: Path):
    client = stack.start_client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:NumCapture", 0)
aput("cam1:NumImages", 30)
aput("cam1:Acquire", 1)
tell(first=aget("cam1:NumImagesCounter_RBV"))
until(lambda: severity("cam1:Acquire") and severity("HDF1:Capture"))
tell(lost=1)
until(lambda: not (severity("cam1:Acquire") or severity("HDF1:Capture")))
until(lambda: aget("cam1:AcquireTime_RBV") == 0.02)
tell(settings=[aget("cam1:AcquireTime_RBV"), aget("cam1:NumImages_RBV")])
aput("cam1:NumImages", 3)
aput("HDF1:Capture", 1)
aput("cam1:Acquire", 1)
tell(second=[aget("cam1:NumImagesCounter_RBV"), aget("HDF1:NumCaptured_RBV"),
     aget("HDF1:DroppedArrays_RBV")])
aput("HDF1:Capture", 0)
"""
    )
    with client:
        assert client.stdout is not None
        assert '"first": 30' in client.stdout.readline()
        stack.server.kill()
        assert "lost" in client.stdout.readline()
        stack.restart_server()
        out, err = client.communicate(timeout=100)
    assert client.returncode == 0, err
    assert '"settings": [0.02, 30]' in out
    assert '"second": [3, 3, 0]' in out
    with h5py.File(tmp_path / "frames_000001.h5") as file:
        assert list(file["entry/instrument/NDAttributes/NDArrayUniqueId"]) == [0, 1, 2]
