"""What the area detector refuses, holds back, and says about it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from ioc_stack import Stack, running
from simulated_beamline import reserved_port

from beamline.core.epics import client_environment

pytestmark = pytest.mark.system

SETUP = """
aput("cam1:AcquireTime", 0.02)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def test_settings_are_taken_during_an_acquisition_and_hold_afterwards(stack: Stack):
    found = stack.client(
        SETUP
        + """
aput("cam1:AcquireTime", 500.0)
pv("AD1:cam1:Acquire").put(1, wait=False)
until(lambda: aget("cam1:Acquire_RBV"))
for name, value in (("AcquireTime", 0.05), ("AcquirePeriod", 0.06), ("SimMode", 1),
                    ("Sparse", 1), ("Preload", 2)):
    aput("cam1:" + name, value)
names = ("AcquireTime", "AcquirePeriod", "SimMode", "Sparse", "Preload")
tell(acquiring=aget("cam1:Acquire_RBV"),
     shown=[aget(f"cam1:{n}_RBV") for n in names])
aput("cam1:Acquire", 0)
aput("cam1:NumImages", 3)
tell(second=aput("cam1:Acquire", 1), kept=[aget(f"cam1:{n}_RBV") for n in names],
     taken=aget("cam1:NumImagesCounter_RBV"), array=aget("cam1:DataType_RBV", as_string=True))
for name in ("SimMode", "Sparse", "Preload", "AcquirePeriod"):
    aput("cam1:" + name, 0)
"""
    )
    settings = [0.05, 0.06, 1, 1, 2]
    assert found["acquiring"] == 1
    assert found["shown"] == found["kept"] == settings
    assert found["second"] == 1
    assert (found["taken"], found["array"]) == (3, "UInt32")
    assert "BUSY" not in stack.log()


def test_refusals_name_the_value_and_what_is_allowed(stack: Stack):
    stack.client(
        SETUP
        + """
for name, value in (("AcquirePeriod", -1), ("AcquireTime", 5000.0), ("Preload", 5000)):
    aput("cam1:" + name, value)
aput("HDF1:FilePath", "/nowhere/at/all")
aput("HDF1:Capture", 1)
aput("HDF1:Capture", 0)
"""
    )
    log = stack.log()
    for sentence in (
        "AD1:cam1:AcquirePeriod can't be set to -1 s: expected 0 to 1e+06 s.",
        "AD1:cam1:AcquireTime can't be set to 5000 s: expected 0.0001 to 1000 s.",
        "AD1:cam1:Preload can't be set to 5000 frames: expected 0 to 1024 frames.",
        "AD1:HDF1: the directory /nowhere/at/all/ does not exist",
    ):
        assert sentence in log


@pytest.mark.parametrize("name", ["ünï çødé".encode(), b"l\xe4tin"], ids=["utf8", "latin1"])
def test_a_path_of_any_bytes_is_read_back_as_it_was_put(stack: Stack, tmp_path: Path, name: bytes):
    folder = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(folder)).mkdir()
    found = stack.client(
        SETUP
        + f"""
raw = list({folder!r} + b"/\\0")
epics.PV(P + "AD1:HDF1:FilePath").put(raw, wait=True)
tell(same=[int(b) for b in aget("HDF1:FilePath_RBV")][:len(raw) - 1] == raw[:-1],
     exists=aget("HDF1:FilePathExists_RBV"))
aput("HDF1:FileName", "frames")
aput("HDF1:FileNumber", 1)
aput("HDF1:NumCapture", 0)
aput("cam1:NumImages", 1)
aput("HDF1:Capture", 1)
aput("cam1:Acquire", 1)
aput("HDF1:Capture", 0)
tell(status=aget("HDF1:WriteStatus"), message=aget("HDF1:WriteMessage", as_string=True))
"""
    )
    assert found["same"]
    assert found["exists"] == 1
    assert (found["status"], found["message"]) == (0, "")
    with h5py.File(folder + b"/frames_000001.h5") as file:
        assert file["entry/data/data"].shape[0] == 1


def test_a_second_ioc_on_the_same_device_server_says_so(stack: Stack, tmp_path: Path):
    second = Stack.__new__(Stack)
    second.__dict__.update(stack.__dict__)
    second.directory = tmp_path
    second.port = reserved_port()
    second.environment = client_environment(second.port)
    second.start_ioc()
    try:
        found = second.client(
            SETUP
            + """
until(lambda: get("IOC:WRITER_STATE", as_string=True) == "Occupied")
edges = []
watched = pv("AD1:cam1:Acquire_RBV")
watched.add_callback(lambda value, **_: edges.append(value))
aput("cam1:Acquire", 1)
until(lambda: edges[-2:] == [1, 0])
tell(message=aget("HDF1:WriteMessage", as_string=True),
     severity=pv("AD1:HDF1:WriteMessage").severity,
     status=aget("cam1:StatusMessage_RBV", as_string=True), acquire=aget("cam1:Acquire_RBV"))
"""
        )
    finally:
        second.ioc.stop()
    for text in (found["message"], found["status"], second.log()):
        assert "another IOC takes the frames of the device server" in text
        assert "stop that IOC" in text
    assert (found["severity"], found["acquire"]) == (3, 0)
    assert second.log().count("HDF1: another IOC") == 1


def kill_writer(stack: Stack) -> None:
    children = Path(f"/proc/{stack.ioc.pid}/task/{stack.ioc.pid}/children").read_text()
    (pid,) = children.split()
    os.kill(int(pid), signal.SIGKILL)


def test_puts_wait_for_a_frame_writer_that_is_started_again(stack: Stack, tmp_path: Path):
    client = stack.start_client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:FileNumber", 1)
aput("HDF1:NumCapture", 0)
aput("cam1:NumImages", 2)
tell(ready=1)
sys.stdin.readline()
aput("HDF1:Capture", 1)
aput("cam1:Acquire", 1)
aput("HDF1:Capture", 0)
tell(captured=aget("HDF1:NumCaptured_RBV"), status=aget("HDF1:WriteStatus"),
     severity=pv("AD1:cam1:Acquire_RBV").severity)
"""
    )
    with client:
        assert client.stdout is not None
        assert "ready" in client.stdout.readline()
        kill_writer(stack)
        out, err = client.communicate("\n", timeout=60)
    assert '"captured": 2, "status": 0, "severity": 0' in out, err
    (file,) = tmp_path.iterdir()
    with h5py.File(file) as written:
        assert written.attrs["complete"] == 1


def test_a_file_that_lacks_frames_says_so_when_it_is_closed(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + f"""
aput("HDF1:FilePath", {str(tmp_path)!r})
aput("HDF1:NumCapture", 0)
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 1)
aput("cam1:Acquire", 1)
import socket
with socket.create_connection(("127.0.0.1", {stack.server_port})) as server:
    def tell_server(line):
        server.sendall(line + b"\\n")
        return server.recv(1000)
    tell_server(b"FAULT:BL02:AD1:DEAD")
    aput("cam1:Acquire", 1)
    tell_server(b"FAULT:BL02:AD1:NONE")
aput("HDF1:Capture", 0)
tell(status=aget("HDF1:WriteStatus"), message=aget("HDF1:WriteMessage", as_string=True),
     name=aget("HDF1:FullFileName_RBV", as_string=True))
aput("HDF1:FilePath", {str(tmp_path)!r})
tell(after=aget("HDF1:WriteStatus"))
"""
    )
    assert found["status"] == 1
    assert "is incomplete: the detector delivers no frames" in found["message"]
    assert found["after"] == 0
    with h5py.File(found["name"]) as file:
        assert file.attrs["complete"] == 0
        assert file["entry/data/data"].shape[0] == 1


def test_a_failed_capture_does_not_outlive_its_client(stack: Stack, tmp_path: Path):
    found = stack.client(
        SETUP
        + """
aput("HDF1:FilePath", "/nowhere/at/all")
aput("HDF1:Capture", 1)
aput("cam1:NumImages", 1)
aput("cam1:Acquire", 1)
tell(refused=[pv("AD1:cam1:Acquire_RBV").severity, aget("cam1:NumImagesCounter_RBV")])
aput("HDF1:EnableCallbacks", 1)
aput("cam1:Acquire", 1)
tell(taken=[pv("AD1:cam1:Acquire_RBV").severity, aget("cam1:NumImagesCounter_RBV"),
            aget("HDF1:WriteStatus")])
aput("HDF1:FilePath", "/")
tell(after=[aget("HDF1:WriteStatus"), aget("HDF1:WriteMessage", as_string=True)])
"""
    )
    assert found["refused"][0] == 3
    assert found["taken"] == [0, 1, 1]  # the last file's fate stays to be seen
    assert found["after"] == [0, ""]
