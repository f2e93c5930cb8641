"""ophyd's own area detector classes, unmodified, against the simulated detector."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from ophyd import Component as Cpt
from ophyd import Device, ImagePlugin, SimDetector, SingleTrigger
from ophyd.areadetector import cam, plugins
from ophyd.areadetector.filestore_mixins import (
    FileStoreHDF5IterativeWrite,
    FileStoreHDF5SingleIterativeWrite,
)
from ophyd.signal import EpicsSignalBase

pytestmark = pytest.mark.system


class StreamPlugin(plugins.HDF5Plugin, FileStoreHDF5IterativeWrite):
    """One file for all frames."""


class SinglePlugin(plugins.HDF5Plugin, FileStoreHDF5SingleIterativeWrite):
    """A file for each frame."""


class NewPlugin(plugins.HDF5Plugin_V34, FileStoreHDF5IterativeWrite):
    """As facilities use it."""


def detector(prefix: str, plugin: type, folder: Path, image: type = ImagePlugin):
    class Detector(SingleTrigger, SimDetector):
        hdf1 = Cpt(plugin, "HDF1:", write_path_template=str(folder))
        image1 = Cpt(image, "image1:")

    made = Detector(f"{prefix}AD1:", name="det")
    made.read_attrs = ["hdf1"]
    made.wait_for_connection(timeout=20)
    return made


@pytest.fixture
def stock(bl, simulated, tmp_path):
    """Make stock detectors; leave the beamline as it was."""
    made = []

    def make(plugin: type = StreamPlugin, image: type = ImagePlugin):
        found = detector(simulated.prefix, plugin, tmp_path, image)
        # 0.1 s of real time: ophyd's SingleTrigger forgets the status of an acquisition that is
        # over before `trigger` has returned.
        found.cam.acquire_time.set(5.0).wait(10)
        found.cam.acquire_period.set(0.0).wait(10)
        made.append(found)
        return found

    bl.shutter.set("Open").wait(10)
    yield make
    for found in made:
        found.unstage()
        found.cam.num_images.set(1).wait(10)
        found.cam.acquire_time.set(0.02).wait(10)
        found.hdf1.file_write_mode.set("Stream").wait(10)
        found.hdf1.capture.set(0).wait(10)
        found.destroy()
    bl.shutter.set("Close").wait(10)


def signals(device: Device):
    for name in device.component_names:
        item = getattr(device, name)
        if isinstance(item, Device):
            yield from signals(item)
        elif isinstance(item, EpicsSignalBase):
            yield item


def test_every_signal_of_the_stock_classes_is_there(simulated, monkeypatch):
    # All are waited for together.
    monkeypatch.setattr(Device, "lazy_wait_for_connection", False)
    # The newest versions have all that the older ones have.
    classes = {
        "cam1:": cam.SimDetectorCam,
        "HDF1:": plugins.HDF5Plugin_V35,
        "image1:": plugins.ImagePlugin_V35,
    }
    for suffix, cls in classes.items():
        device = cls(f"{simulated.prefix}AD1:{suffix}", name="x")
        everything = list(signals(device))
        assert len(everything) > 50
        device.wait_for_connection(all_signals=True, timeout=30)
        device.destroy()


@pytest.mark.parametrize("plugin", [StreamPlugin, NewPlugin])
def test_count_makes_a_file_that_the_documents_lead_to(stock, engine, docs, plugin):
    det = stock(plugin)
    det.cam.num_images.set(3).wait(10)
    engine(bp.count([det], 4))
    assert docs.stop["exit_status"] == "success"
    (resource,) = docs.all("resource")
    assert resource["spec"] == "AD_HDF5"
    assert resource["resource_kwargs"] == {"frame_per_point": 3}
    path = Path(resource["root"]) / resource["resource_path"]
    datums = {doc["datum_id"]: doc["datum_kwargs"] for doc in docs.all("datum")}
    events = docs.events("primary")
    points = [datums[event["data"]["det_image"]]["point_number"] for event in events]
    assert points == [0, 1, 2, 3]
    shape = docs.descriptor("primary")["data_keys"]["det_image"]["shape"]
    with h5py.File(path) as file:
        data = file["/entry/data/data"]
        assert file.attrs["complete"] == 1
        assert list(data.shape) == [12, *shape[1:]]
        frames = [data[3 * point : 3 * (point + 1)] for point in points]
    assert len({frame.tobytes() for frame in frames}) == 4
    assert all(frame.any() for frame in frames)


def test_single_mode_makes_a_file_for_every_frame(stock, engine, docs, tmp_path):
    det = stock(SinglePlugin)
    det.cam.num_images.set(2).wait(10)
    engine(bp.count([det], 3))
    (resource,) = docs.all("resource")
    assert resource["spec"] == "AD_HDF5_SINGLE"
    kwargs = resource["resource_kwargs"]
    folder = str(Path(resource["root"]) / resource["resource_path"]) + "/"
    points = [doc["datum_kwargs"]["point_number"] for doc in docs.all("datum")]
    assert points == [0, 1, 2]
    numbers = []
    for index in range(6):  # as the stock handler finds them: point by point, frame by frame
        name = kwargs["template"] % (folder, kwargs["filename"], index)
        with h5py.File(name) as file:
            assert file["/entry/data/data"].shape[0] == 1
            numbers += list(file["/entry/instrument/NDAttributes/NDArrayUniqueId"])
    assert numbers == list(range(numbers[0], numbers[0] + 6))
    assert len(list(tmp_path.iterdir())) == 6


def test_warm_up_leaves_the_settings_as_they_were(stock):
    det = stock()
    before = {signal: signal.get() for signal in (det.cam.acquire_time, det.cam.image_mode)}
    det.hdf1.warmup()
    assert {signal: signal.get() for signal in before} == before
    assert sum(det.hdf1.array_size.get()) > 0
    assert det.cam.acquire.get() == 0


def test_the_image_of_a_trigger_is_the_frame_in_the_file(stock, engine, docs):
    det = stock()
    images = []

    def look(name, doc):
        if name == "event":
            image1 = det.image1
            _, height, width = image1.array_size.get()
            pixels = image1.array_data.get()
            images.append((image1.unique_id.get(), pixels.reshape(height, width)))

    engine(bp.count([det], 3), look)
    (resource,) = docs.all("resource")
    with h5py.File(Path(resource["root"]) / resource["resource_path"]) as file:
        frames = file["/entry/data/data"][()]
        numbers = list(file["/entry/instrument/NDAttributes/NDArrayUniqueId"])
    assert [number for number, _ in images] == numbers
    for (_, image), frame in zip(images, frames, strict=True):
        np.testing.assert_array_equal(image, frame)


def test_a_folder_that_is_not_there_fails_and_does_not_hang(stock, engine, docs, tmp_path):
    det = stock()
    det.hdf1.write_path_template = "/proc/nowhere"
    with pytest.raises(OSError, match="does not exist on IOC"):
        engine(bp.count([det], 1))
    det.hdf1.warmup()
    assert det.cam.acquire.get() == 0
    det.hdf1.write_path_template = str(tmp_path)
    engine(bp.count([det], 1))
    assert docs.stop["exit_status"] == "success"


def test_a_frame_writer_that_dies_does_not_hang_the_scan_and_the_file_says_so(
    stock, engine, docs, simulated
):
    det = stock()
    killed = []

    def kill(name, doc):
        if name == "event" and doc["seq_num"] == 2:
            pid = simulated.ioc.pid
            (writer,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(writer), signal.SIGKILL)
            killed.append(writer)

    engine(bp.count([det], 4), kill)
    assert killed
    assert det.hdf1.write_status.get() == 1
    assert "status -9" in det.hdf1.write_message.get()
    (resource,) = docs.all("resource")
    with h5py.File(Path(resource["root"]) / resource["resource_path"]) as file:
        assert file.attrs["complete"] == 0
    docs.seen.clear()
    engine(bp.count([det], 2))
    assert det.hdf1.write_status.get() == 0
    (resource,) = docs.all("resource")
    with h5py.File(Path(resource["root"]) / resource["resource_path"]) as file:
        assert file.attrs["complete"] == 1
        assert file["/entry/data/data"].shape[0] == 2
