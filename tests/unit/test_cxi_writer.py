"""CXIWriter: documents of any shape and order in, the same CXI files out, no event forgotten."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
import time
import uuid
from types import SimpleNamespace

import event_model
import h5py
import numpy as np
import pytest

from beamline.core.errors import ConfigurationError
from beamline.crystallography.cxi import EventRefusedError
from beamline.crystallography.cxi_check import check_cxi
from beamline.crystallography.geometry import Detector, Panel, read_geometry
from beamline.crystallography.peaks import PeakFinder
from beamline.documents.consumers import ConsumerError
from callbacks._frames import MissingFrameError
from callbacks.cxi import COUNTS, CXIWriter

SHAPE = (96, 120)
START = 1_735_732_800.0  # 2025-01-01 12:00:00 UTC
SPOTS = [(20.25, 30.5), (60.0, 70.75), (100.4, 15.1)]


def frame(number, spots=SPOTS):
    rng = np.random.default_rng(number)
    ss, fs = np.indices(SHAPE)
    mean = np.full(SHAPE, 2.0)
    for x, y in spots[: 1 + number % 3] if spots is SPOTS else spots:
        mean += 2000 / (2 * np.pi) * np.exp(-0.5 * ((fs - x) ** 2 + (ss - y) ** 2))
    return rng.poisson(mean).astype(np.uint16)


def frame_file(path, frames, *, energies=None, complete=1):
    frames = np.asarray(frames)
    with h5py.File(path, "w") as file:
        file.attrs["complete"] = complete
        file.create_dataset(
            "/entry/data/data",
            data=frames,
            chunks=(1, *frames.shape[1:]),
            maxshape=(None, *frames.shape[1:]),
        )
        if energies is not None:
            file["/entry/instrument/NDAttributes/PhotonEnergy"] = np.asarray(energies, float)
            stamps = START + 5 + np.arange(len(frames))
            file["/entry/instrument/NDAttributes/NDArrayTimeStamp"] = stamps
    return path


CONFIGURATION = {
    "ad1": {
        "data": {
            "ad1_distance": 100.0,
            "ad1_beam_x": 60.2,
            "ad1_beam_y": 47.9,
            "ad1_pixel_x": 150e-6,
            "ad1_pixel_y": 150e-6,
            "ad1_photon_energy": 9000.0,
            "ad1_model": "simulated",
        },
        "timestamps": dict.fromkeys(
            (
                *("ad1_distance", "ad1_beam_x", "ad1_beam_y", "ad1_pixel_x", "ad1_pixel_y"),
                *("ad1_photon_energy", "ad1_model"),
            ),
            START,
        ),
        "data_keys": {
            "ad1_distance": {"source": "", "dtype": "number", "shape": [], "units": "mm"},
            "ad1_beam_x": {"source": "", "dtype": "number", "shape": [], "units": "px"},
            "ad1_beam_y": {"source": "", "dtype": "number", "shape": [], "units": "px"},
            "ad1_pixel_x": {"source": "", "dtype": "number", "shape": [], "units": "m"},
            "ad1_pixel_y": {"source": "", "dtype": "number", "shape": [], "units": "m"},
            "ad1_photon_energy": {"source": "", "dtype": "number", "shape": [], "units": "eV"},
            "ad1_model": {"source": "", "dtype": "string", "shape": []},
        },
    }
}


def number_key(units=""):
    return {"source": "", "dtype": "number", "shape": [], "units": units}


class Run:
    """Documents of one run of stills, made event by event."""

    def __init__(
        self, path=None, *, shape=SHAPE, keys=None, configuration=None, moment=START, **md
    ):
        md = {"plan_name": "stills", "scan_id": 7, "sample": {"name": "lysozyme"}, **md}
        self.bundle = event_model.compose_run(metadata=md, time=moment, uid=str(uuid.uuid4()))
        usual = {"mono_energy": number_key("eV"), "sample_x": number_key("um")}
        self.keys = usual if keys is None else keys
        self.path, self.number, self.moment = path, 0, moment
        self.shape, self.configuration = shape, configuration or CONFIGURATION
        self.documents = [("start", self.bundle.start_doc)]
        self.stream = self.resource = None

    def add(self, name, doc):
        self.documents.append((name, doc))

    def baseline(self, **values):
        stream = self.bundle.compose_descriptor(
            name="baseline", data_keys={key: number_key(unit) for key, (_, unit) in values.items()}
        )
        self.add("descriptor", stream.descriptor_doc)
        self.add(
            "event",
            stream.compose_event(
                data={key: value for key, (value, _) in values.items()},
                timestamps=dict.fromkeys(values, self.moment),
                time=self.moment,
            ),
        )
        return self

    def begin(self, external="STREAM:"):
        image = {
            "source": "",
            "dtype": "array",
            "dtype_numpy": "<u2",
            "shape": list(self.shape),
            **({"external": external} if external else {}),
        }
        self.stream = self.bundle.compose_descriptor(
            name="primary",
            data_keys={**self.keys, "ad1_image": image},
            object_keys={"mono": list(self.keys), "ad1": ["ad1_image"]},
            configuration=self.configuration,
        )
        self.add("descriptor", self.stream.descriptor_doc)
        return self

    def refer(self, path=None):
        self.resource = self.bundle.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path or self.path}",
            data_key="ad1_image",
            parameters={"dataset": "/entry/data/data", "chunk_shape": (1, *self.shape)},
        )
        self.add("stream_resource", self.resource.stream_resource_doc)
        return self

    def datum(self, first, stop, row=None):
        row = first - 1 if row is None else row
        self.add(
            "stream_datum",
            self.resource.compose_stream_datum(
                indices={"start": row, "stop": row + stop - first},
                seq_nums={"start": first, "stop": stop},
                descriptor=self.stream.descriptor_doc,
            ),
        )

    def event(self, *, seq_num=None, image=None, **changes):
        self.number = seq_num or self.number + 1
        data = {"mono_energy": 9500.0 + self.number, "sample_x": 10.0 * self.number, **changes}
        data = {key: value for key, value in data.items() if key in self.keys}
        filled = {}
        if image is not None:
            data["ad1_image"] = image
            filled = {"ad1_image": False} if isinstance(image, str) else {}
        self.add(
            "event",
            self.stream.compose_event(
                data=data,
                timestamps=dict.fromkeys(data, self.moment + self.number),
                time=self.moment + self.number,
                seq_num=self.number,
                filled=filled,
            ),
        )

    def stop(self, **kwargs):
        self.add("stop", self.bundle.compose_stop(time=self.moment + 60, **kwargs))
        return self.documents

    def points(self, number):
        for index in range(1, number + 1):
            self.datum(index, index + 1)
            self.event()
        return self


def stills(path, number, **options):
    return Run(path, **options).begin().refer().points(number).stop()


def feed(writer, documents):
    for name, doc in documents:
        writer(name, doc)
    return writer


def contents(path):
    """Every dataset and attribute of a file."""
    found = {}

    def visit(name, node):
        attributes = {key: str(value) for key, value in node.attrs.items()}
        value = node[()] if isinstance(node, h5py.Dataset) else None
        found[name] = (attributes, value)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def assert_same(a, b):
    left, right = contents(a), contents(b)
    assert left.keys() == right.keys()
    for name, (attributes, value) in left.items():
        assert attributes == right[name][0], name
        if value is not None:
            assert np.asarray(value).dtype == np.asarray(right[name][1]).dtype, name
            np.testing.assert_array_equal(value, right[name][1], err_msg=name)


@pytest.fixture
def frames(tmp_path):
    return frame_file(tmp_path / "frames.h5", [frame(n) for n in range(1, 8)])


def column(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def test_a_run_of_stills(tmp_path, frames):
    documents = stills(frames, 7)
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    writer = feed(CXIWriter(tmp_path / "cxi"), documents)
    (path,) = writer.files
    assert path.name == "beamline_20250101_120000_chunk0001.cxi"
    assert check_cxi(path) == []
    with h5py.File(path) as file:
        data = file["/entry_1/data_1/data"]
        assert data.dtype == np.uint16
        assert np.array_equal(data, [frame(n) for n in range(1, 8)])
        assert file["/entry_1/result_1/nPeaks"][()].tolist() == [2, 3, 1, 2, 3, 1, 2]
        x, y = file["/entry_1/result_1/peakXPosRaw"][1], file["/entry_1/result_1/peakYPosRaw"][1]
        found = sorted(zip(x[:3].tolist(), y[:3].tolist(), strict=True))
        assert np.allclose(found, sorted(SPOTS), atol=0.15)
        assert file["/LCLS/photon_energy_eV"][()].tolist() == [9500.0 + n for n in range(1, 8)]
        assert file["/LCLS/machineTime"][()].tolist() == [int(START) + n for n in range(1, 8)]
        assert file["/LCLS/detector_1/EncoderValue"][()] == pytest.approx([100.0] * 7)
        entry = file["/entry_1"]
        assert entry["instrument_1/detector_1/distance"][()] == 0.1
        assert entry["instrument_1/detector_1/beam_center_x"][()] == 60.2
        assert entry["event_id"][()].tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert entry["frame_index"][()].tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert set(entry["run_uid"].asstr()[()]) == {documents[0][1]["uid"]}
        assert set(entry["batch_id"].asstr()[()]) == {"primary"}
        assert entry["scan/sample_x"][()].tolist() == [10.0 * n for n in range(1, 8)]
        assert entry["scan/sample_x"].attrs["units"] == "um"
        assert entry["sample_1/geometry_1/translation"][:, 0] == pytest.approx(
            [1e-5 * n for n in range(1, 8)]
        )
        text = {key: entry[key].asstr()[()] for key in ("exit_status", "start_time", "end_time")}
        assert text == {
            "exit_status": "success",
            "start_time": "2025-01-01T12:00:00+00:00",
            "end_time": "2025-01-01T12:01:00+00:00",
        }
        assert entry["sample_1/name"].asstr()[()] == "lysozyme"
        counts = {key: int(entry[f"process_1/counts/{key}"][()]) for key in COUNTS}
    assert counts == dict(writer.statistics)
    assert counts["frames"] == counts["written"] == 7
    assert counts["peaks"] == 14
    assert not writer.errors
    geometry = path.with_name("beamline_20250101_120000.geom")
    found = read_geometry(geometry, distance_m=0.1)
    assert found == Detector(SHAPE, 0.1, (150e-6, 150e-6), (60.2, 47.9)) or (
        found.beam_centre_px == pytest.approx((60.2, 47.9))
    )
    assert path.with_name("beamline_20250101_120000.lst").read_text() == f"{path}\n"
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".cxi", ".geom", ".lst"]


def test_replay_gives_the_same_file(tmp_path, frames):
    documents = stills(frames, 7)
    live = feed(CXIWriter(tmp_path / "a"), documents).files[0]
    again = feed(CXIWriter(tmp_path / "b"), documents).files[0]
    assert live.name == again.name
    assert_same(live, again)
    with pytest.raises(ConsumerError, match="exists: move it away"):
        feed(CXIWriter(tmp_path / "a"), documents)
    assert_same(live, again)


def as_pages(documents):
    """Events as one page, stream_datums as one range: a flyer, or a catalogue."""
    events = [doc for name, doc in documents if name == "event"]
    datums = [doc for name, doc in documents if name == "stream_datum"]
    last = datums[-1]
    whole = {
        **datums[0],
        "indices": {"start": 0, "stop": last["indices"]["stop"]},
        "seq_nums": {"start": 1, "stop": last["seq_nums"]["stop"]},
    }
    rest = [pair for pair in documents if pair[0] not in ("event", "stream_datum", "stop")]
    page = ("event_page", event_model.pack_event_page(*events))
    return rest, page, ("stream_datum", whole), documents[-1]


@pytest.mark.parametrize("order", ["events first", "frames first"])
def test_pages_and_ranges_give_the_same_file(tmp_path, frames, order):
    documents = stills(frames, 7)
    live = feed(CXIWriter(tmp_path / "a"), documents).files[0]
    rest, page, datum, stop = as_pages(documents)
    middle = [page, datum] if order == "events first" else [datum, page]
    other = feed(CXIWriter(tmp_path / "b"), [*rest, *middle, stop]).files[0]
    assert_same(live, other)


def test_classic_datums_and_frames_in_events_give_the_same_peaks(tmp_path, frames):
    stream = feed(CXIWriter(tmp_path / "a"), stills(frames, 4)).files[0]
    run = Run(frames).begin("FILESTORE:")
    resource = run.bundle.compose_resource(
        spec="AD_HDF5",
        root=str(frames.parent),
        resource_path=frames.name,
        resource_kwargs={"frame_per_point": 1},
    )
    run.add("resource", resource.resource_doc)
    for point in range(4):
        datum = resource.compose_datum(datum_kwargs={"point_number": point})
        run.add("datum", datum)
        run.event(image=datum["datum_id"])
    classic = feed(CXIWriter(tmp_path / "b"), run.stop()).files[0]
    run = Run().begin(external=None)
    for number in range(1, 5):
        run.event(image=frame(number) if number % 2 else frame(number).tolist())
    inside = feed(CXIWriter(tmp_path / "c"), run.stop()).files[0]
    for name in ("data_1/data", "result_1/peakXPosRaw", "result_1/peakTotalIntensity", "event_id"):
        expected = column(stream, f"/entry_1/{name}")
        for other in (classic, inside):
            found = column(other, f"/entry_1/{name}")
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
    assert column(inside, "/entry_1/frame_index").tolist() == [-1] * 4
    assert check_cxi(classic) == check_cxi(inside) == []


def test_several_frames_per_event(tmp_path):
    path = frame_file(tmp_path / "frames.h5", [frame(n) for n in range(6)])
    documents = stills(path, 3, shape=(2, *SHAPE))
    (out,) = feed(CXIWriter(tmp_path / "cxi"), documents).files
    assert column(out, "/entry_1/event_id").tolist() == [1, 1, 2, 2, 3, 3]
    assert column(out, "/entry_1/frame_index").tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(column(out, "/entry_1/data_1/data"), [frame(n) for n in range(6)])


def test_frames_without_event_documents(tmp_path):
    frames = [frame(n) for n in range(1, 5)]
    path = frame_file(tmp_path / "frames.h5", frames, energies=[9100, 9200, 9300, 9400])
    run = Run(path, keys={}).begin().refer()
    run.datum(1, 5)
    (out,) = feed(CXIWriter(tmp_path / "cxi"), run.stop()).files
    assert column(out, "/LCLS/photon_energy_eV").tolist() == [9100, 9200, 9300, 9400]
    assert column(out, "/LCLS/machineTime").tolist() == [int(START) + 5 + n for n in range(4)]
    assert column(out, "/entry_1/event_id").tolist() == [1, 2, 3, 4]


def test_where_the_photon_energy_comes_from(tmp_path, frames):
    def energy(name, path=frames, keys=None, baseline=None):
        run = Run(path, keys=keys or {}, moment=START + len(name))
        if baseline:
            run.baseline(mono_energy=baseline)
        run.begin().refer().points(1)
        return column(
            feed(CXIWriter(tmp_path / name), run.stop()).files[0], "LCLS/photon_energy_eV"
        )

    stored = frame_file(tmp_path / "stored.h5", [frame(1)], energies=[9300.0])
    event = {"mono_energy": number_key("eV")}
    assert energy("event", stored, event, (9200.0, "eV")) == [9501.0]
    assert energy("kilo", stored, {"mono_energy": number_key("keV")}) == [9501.0e3]
    assert energy("stored", stored, None, (9200.0, "eV")) == [9300.0]
    assert energy("baseline", frames, None, (9.2, "keV")) == [9200.0]
    assert energy("configuration") == [9000.0]


def test_sample_position_from_the_baseline(tmp_path, frames):
    run = Run(frames).baseline(sample_y=(-0.25, "mm"), sample_z=(3.0, "deg"))
    documents = run.begin().refer().points(1).stop()
    out = feed(CXIWriter(tmp_path), documents).files[0]
    x, y, z = column(out, "/entry_1/sample_1/geometry_1/translation")[0]
    assert (x, y) == pytest.approx((1e-5, -2.5e-4))
    assert np.isnan(z)  # degrees are no length


@pytest.mark.parametrize("energy", [0.0, float("nan"), -1.0])
def test_an_event_without_photon_energy_is_refused_and_the_next_is_written(
    tmp_path, frames, energy, caplog
):
    run = Run(frames).begin().refer()
    for index in (1, 2, 3):
        run.datum(index, index + 1)
        run.event(**({"mono_energy": energy} if index == 2 else {}))
    writer = feed(CXIWriter(tmp_path), run.stop())
    (path,) = writer.files
    assert column(path, "/entry_1/event_id").tolist() == [1, 3]
    assert (writer.statistics["written"], writer.statistics["refused"]) == (2, 1)
    (error,) = writer.errors
    assert isinstance(error, EventRefusedError)
    assert "event 2 of primary" in str(error)
    assert any("photon energy" in r.message for r in caplog.records if r.levelno == logging.ERROR)
    with h5py.File(path) as file:
        process = file["/entry_1/process_1"]
        assert process["lost_event_id"][()].tolist() == [2]
        assert "photon energy must be positive" in process["lost_reason"].asstr()[0]
        assert process["counts/refused"][()] == 1
    assert check_cxi(path) == []


def test_an_unknown_geometry_refuses_the_events_by_name(tmp_path, frames):
    incomplete = {"ad1": {**CONFIGURATION["ad1"]}}
    data = dict(incomplete["ad1"]["data"])
    del data["ad1_distance"]
    incomplete["ad1"]["data"] = data
    documents = stills(frames, 3, configuration=incomplete)
    writer = feed(CXIWriter(tmp_path / "a"), documents)
    assert writer.files == []
    assert writer.statistics["refused"] == 3
    assert "configuration has no distance" in str(writer.errors[0])
    geometry = Detector(SHAPE, 0.2, (1e-4, 1e-4), (50.0, 40.0))
    (path,) = feed(CXIWriter(tmp_path / "b", geometry=geometry), documents).files
    assert column(path, "/LCLS/detector_1/EncoderValue") == pytest.approx([200.0] * 3)


def test_frames_of_another_shape_are_refused(tmp_path, frames):
    (tmp_path / "odd").mkdir()
    odd = frame_file(tmp_path / "odd" / "frames.h5", np.zeros((3, 96, 121), np.uint16))
    run = Run(frames).begin().refer()
    run.datum(1, 2)
    run.event()
    run.refer(odd)
    run.datum(2, 3, row=0)
    run.event()
    writer = feed(CXIWriter(tmp_path / "cxi"), run.stop())
    assert column(writer.files[0], "/entry_1/event_id").tolist() == [1]
    assert "uint16 (96, 121), expected uint16 (96, 120)" in str(writer.errors[0])


def test_hits_and_truncation_are_counted(tmp_path, frames):
    writer = CXIWriter(tmp_path, min_num_peak=2, max_num_peak=2)
    feed(writer, stills(frames, 7))
    (path,) = writer.files
    assert column(path, "/entry_1/event_id").tolist() == [1, 2, 4, 5, 7]
    assert column(path, "/entry_1/result_1/nPeaks").tolist() == [2] * 5
    counts = {key: writer.statistics[key] for key in COUNTS}
    assert counts == {
        "frames": 7,
        "written": 5,
        "not_hits": 2,
        "refused": 0,
        "truncated": 2,
        "missing": 0,
        "peaks": 10,
    }
    totals = column(path, "/entry_1/result_1/peakTotalIntensity")[1]
    three = PeakFinder()(frame(2))
    assert totals.tolist() == three.total[:2].tolist()


def test_a_run_without_hits_is_an_empty_sound_file(tmp_path, frames):
    (path,) = feed(CXIWriter(tmp_path, min_num_peak=99), stills(frames, 3)).files
    assert column(path, "/entry_1/data_1/data").shape == (0, *SHAPE)
    assert column(path, "/entry_1/process_1/counts/not_hits") == 3
    assert check_cxi(path) == []


def test_a_run_without_images_gives_no_file(tmp_path):
    run = Run().baseline(sample_x=(1.0, "um"))
    writer = feed(CXIWriter(tmp_path / "cxi"), run.stop())
    assert writer.files == []
    assert not (tmp_path / "cxi").exists()


def test_a_further_file_after_so_many_events(tmp_path, frames):
    writer = feed(CXIWriter(tmp_path, events_per_file=3), stills(frames, 7))
    assert [p.name[-13:] for p in writer.files] == [f"chunk000{n}.cxi" for n in (1, 2, 3)]
    ids = [column(path, "/entry_1/event_id").tolist() for path in writer.files]
    assert ids == [[1, 2, 3], [4, 5, 6], [7]]
    status = [column(path, "/entry_1/exit_status").decode() for path in writer.files]
    assert status == ["continued", "continued", "success"]
    counted = [int(column(path, "/entry_1/process_1/counts/written")) for path in writer.files]
    assert counted == [3, 3, 1]
    listed = (tmp_path / "beamline_20250101_120000.lst").read_text().splitlines()
    assert listed == [str(path) for path in writer.files]
    assert all(check_cxi(path) == [] for path in writer.files)


@pytest.mark.parametrize("status", ["fail", "abort"])
def test_a_failed_run_closes_a_valid_labelled_file(tmp_path, frames, status):
    run = Run(frames).begin().refer().points(2)
    documents = run.stop(exit_status=status, reason="the shutter did not open")
    (path,) = feed(CXIWriter(tmp_path), documents).files
    assert column(path, "/entry_1/exit_status").decode() == status
    assert column(path, "/entry_1/reason").decode() == "the shutter did not open"
    assert column(path, "/entry_1/event_id").tolist() == [1, 2]
    assert check_cxi(path) == []


def test_interleaved_runs_of_one_second_have_different_files(tmp_path, frames):
    a, b = stills(frames, 3), stills(frames, 3, scan_id=8)
    writer = CXIWriter(tmp_path)
    for one, other in zip(a, b, strict=True):
        writer(*one)
        writer(*other)
    assert [p.name for p in writer.files] == [
        "beamline_20250101_120000_chunk0001.cxi",
        "beamline_20250101_120000_chunk0002.cxi",
    ]
    for path, documents in zip(writer.files, (a, b), strict=True):
        assert set(column(path, "/entry_1/run_uid")) == {documents[0][1]["uid"].encode()}
        assert check_cxi(path) == []
    assert (tmp_path / "beamline_20250101_120000_chunk0002.lst").read_text() == (
        f"{writer.files[1]}\n"
    )


# Frames that are late, or never come


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("callbacks._frame_feed.time", made)
    return made


def test_nobody_waits_for_a_late_frame_during_the_run(tmp_path, clock):
    run = Run(tmp_path / "none yet.h5").begin().refer().points(4)
    writer = CXIWriter(tmp_path / "cxi", frame_timeout=20.0)
    feed(writer, run.stop()[:-1])
    assert clock.now == 0.0
    assert writer.statistics["frames"] == 0


def test_a_frame_that_is_late_holds_the_order_and_is_not_lost(tmp_path, frames):
    growing = tmp_path / "growing.h5"
    run = Run(growing).begin().refer().points(4)
    documents = run.stop()
    writer = CXIWriter(tmp_path / "cxi", frame_timeout=60.0)
    feed(writer, documents[:-3])  # three events, no file yet
    assert writer.statistics["frames"] == 0

    with h5py.File(growing, "w", locking=False) as file:
        data = file.create_dataset(
            "/entry/data/data", (0, *SHAPE), "<u2", maxshape=(None, *SHAPE), chunks=(1, *SHAPE)
        )
        file.flush()

        def grow():
            for number in range(1, 5):
                time.sleep(0.15)
                data.resize(number, axis=0)
                data[number - 1] = frame(number)
                file.flush()

        thread = threading.Thread(target=grow)
        thread.start()
        feed(writer, documents[-3:])
        thread.join()
    (path,) = writer.files
    assert column(path, "/entry_1/event_id").tolist() == [1, 2, 3, 4]
    assert np.array_equal(column(path, "/entry_1/data_1/data"), [frame(n) for n in range(1, 5)])
    assert not writer.errors


def test_a_missing_frame_is_named_and_the_wait_is_bounded(tmp_path, caplog, clock):
    short = frame_file(tmp_path / "short.h5", [frame(1), frame(2)], complete=0)
    writer = CXIWriter(tmp_path / "cxi", frame_timeout=0.4)
    feed(writer, stills(short, 5))
    assert 0.4 <= clock.now < 0.6  # once, not once per frame
    assert column(writer.files[0], "/entry_1/event_id").tolist() == [1, 2]
    assert writer.statistics["missing"] == 3
    assert all(isinstance(error, MissingFrameError) for error in writer.errors)
    assert "frame 2 is missing" in str(writer.errors[0])
    assert str(short) in str(writer.errors[0])
    assert column(writer.files[0], "/entry_1/process_1/lost_event_id").tolist() == [3, 4, 5]
    told = [r.message for r in caplog.records if "is missing" in r.message]
    assert len(told) == 2  # the first, and how many there are
    assert "3 events are not stored" in told[1]


def test_a_complete_file_is_not_waited_for(tmp_path, clock):
    short = frame_file(tmp_path / "short.h5", [frame(1)], complete=1)
    writer = feed(CXIWriter(tmp_path / "cxi", frame_timeout=60.0), stills(short, 3))
    assert clock.now == 0.0
    assert writer.statistics["missing"] == 2


def test_a_row_that_was_never_written_is_missing_not_dark(tmp_path):
    path = frame_file(tmp_path / "frames.h5", [frame(1), frame(2)])
    with h5py.File(path, "r+") as file:
        file["/entry/data/data"].resize(3, axis=0)
    writer = feed(CXIWriter(tmp_path / "cxi"), stills(path, 3))
    assert column(writer.files[0], "/entry_1/event_id").tolist() == [1, 2]
    assert "has its row, but nothing in it" in str(writer.errors[0])


def test_an_event_without_its_stream_datum_is_named(tmp_path, frames):
    run = Run(frames).begin().refer()
    for index in (1, 2, 3):
        if index != 2:
            run.datum(index, index + 1)
        run.event()
    writer = feed(CXIWriter(tmp_path, frame_timeout=60.0), run.stop())
    assert column(writer.files[0], "/entry_1/event_id").tolist() == [1, 3]
    assert "event 2 of primary has no frame: no stream_datum" in str(writer.errors[0])


@pytest.mark.parametrize("kind", ["no file", "no data set", "not HDF5", "remote", "other type"])
def test_frames_that_can_not_be_read_are_named(tmp_path, kind):
    path = tmp_path / "frames.h5"
    if kind == "no data set":
        with h5py.File(path, "w"):
            pass
    elif kind == "not HDF5":
        path.write_bytes(b"nothing")
    run = Run(path).begin()
    run.refer()
    name, doc = run.documents[-1]
    if kind == "remote":
        run.documents[-1] = (name, {**doc, "uri": "s3://bucket/frames.h5"})
    elif kind == "other type":
        run.documents[-1] = (name, {**doc, "mimetype": "image/tiff"})
    writer = feed(CXIWriter(tmp_path / "cxi", frame_timeout=0.2), run.points(2).stop())
    assert writer.statistics["missing"] == 2
    assert "can't be read" in str(writer.errors[0])
    (path,) = writer.files
    assert check_cxi(path) == []
    assert column(path, "/entry_1/process_1/counts/missing") == 2


def test_a_point_taken_twice_after_a_pause_keeps_both_frames(tmp_path, frames):
    run = Run(frames).begin().refer()
    for seq_num, row in ((1, 0), (2, 1), (2, 2), (3, 3)):
        run.datum(seq_num, seq_num + 1, row=row)
        run.event(seq_num=seq_num)
    writer = feed(CXIWriter(tmp_path), run.stop())
    assert column(writer.files[0], "/entry_1/event_id").tolist() == [1, 2, 2, 3]
    assert column(writer.files[0], "/entry_1/frame_index").tolist() == [0, 1, 2, 3]


def test_a_reader_with_locks_in_this_process_is_no_obstacle(tmp_path, frames):
    with h5py.File(frames, "r"):
        writer = feed(CXIWriter(tmp_path, frame_timeout=0.2), stills(frames, 2))
    assert writer.statistics["written"] == 2


# Failures of others


def test_a_finder_that_fails_on_a_frame_costs_that_frame_only(tmp_path, frames):
    calls = []

    def finder(image, valid):
        calls.append(image)
        if len(calls) == 2:
            raise ZeroDivisionError("NaN logits")
        return PeakFinder()(image, valid)

    writer = feed(CXIWriter(tmp_path, finder=finder), stills(frames, 3))
    assert column(writer.files[0], "/entry_1/event_id").tolist() == [1, 3]
    assert "event 2" in str(writer.errors[0])
    assert "ZeroDivisionError: NaN logits" in str(writer.errors[0])


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, monkeypatch):
    path = frame_file(tmp_path / "frames.h5", [frame(n) for n in range(1, 41)])
    documents = stills(path, 40)
    writer = feed(CXIWriter(tmp_path / "cxi"), documents[:20])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
        refused = []
        for name, doc in documents[20:60]:
            try:
                writer(name, doc)
            except ConsumerError as error:
                refused.append(str(error))
    assert refused
    assert all("MB to grow, found 1 MB free" in message for message in refused)
    feed(writer, documents[60:])
    assert column(writer.files[0], "/entry_1/event_id").tolist() == list(range(1, 41))
    assert check_cxi(writer.files[0]) == []


@pytest.mark.parametrize("count", [9, 40])
def test_a_disk_that_stays_full_until_the_end_is_told(tmp_path, monkeypatch, caplog, count):
    path = frame_file(tmp_path / "frames.h5", [frame(n) for n in range(1, count + 1)])
    documents = stills(path, count)
    writer = feed(CXIWriter(tmp_path / "cxi"), documents[:5])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    for name, doc in documents[5:-1]:
        with contextlib.suppress(ConsumerError):
            writer(name, doc)
    short = documents[0][1]["uid"][:8]
    words = (
        rf"the CXI file of run {short} is incomplete, {count} events are missing from .*"
        rf"inprogress .*MB to grow.*'beamline replay {short} --to cxi DIR' makes it again"
    )
    with pytest.raises(ConsumerError, match=words):
        writer(*documents[-1])
    assert writer.files == []
    assert re.search(words, str(writer.errors[-1]))
    assert any(re.search(words, r.message) for r in caplog.records if r.levelno == logging.ERROR)
    monkeypatch.undo()
    again = feed(CXIWriter(tmp_path / "again"), documents).files[0]
    assert len(column(again, "/entry_1/event_id")) == count


def test_closing_writes_what_came_of_a_run_that_has_not_stopped(tmp_path, frames, caplog):
    documents = stills(frames, 7)
    writer = feed(CXIWriter(tmp_path / "cxi"), documents[:-1])
    writer.close()
    (growing,) = (tmp_path / "cxi").glob("*.inprogress")
    assert column(growing, "/entry_1/event_id").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert "incomplete, 0 events are missing" in caplog.text
    assert "before the run had stopped" in caplog.text
    caplog.clear()
    feed(CXIWriter(tmp_path / "other"), documents).close()
    assert caplog.text == ""


def test_arrays_of_which_nobody_says_that_they_are_frames_are_left_alone(tmp_path, caplog):
    run = Run(shape=(3, 5), configuration={"ad1": {"data": {}, "timestamps": {}, "data_keys": {}}})
    run.begin(external=None)
    for _ in range(3):
        run.event(image=np.zeros((3, 5), "<u2"))
    documents = run.stop()
    geometry = Detector(SHAPE, 0.2, (1e-4, 1e-4), (50.0, 40.0))
    for number, options in enumerate(({}, {"geometry": geometry})):
        writer = feed(CXIWriter(tmp_path / str(number), **options), documents)
        assert writer.files == []
        assert set(writer.statistics.values()) == {0}
    assert caplog.text == ""
    writer = feed(CXIWriter(tmp_path / "named", image_key="ad1_image"), documents)
    assert writer.statistics["refused"] == len(writer.errors) == 3
    # One reason: said at the first event, and counted at the end.
    assert [r.message.count("geometry of ad1_image") for r in caplog.records][:2] == [1, 1]
    assert "3 events are not stored" in caplog.records[1].message
    small = Detector((3, 5), 0.2, (1e-4, 1e-4), (2.0, 1.0))
    assert feed(CXIWriter(tmp_path / "known", geometry=small), documents).files


@pytest.mark.parametrize("as_slabs", [False, True])
def test_panels_of_a_stack_are_one_frame(tmp_path, as_slabs):
    panels = [
        Panel(
            name=f"p{unit}",
            origin=(96 * unit, 0),
            shape=SHAPE,
            corner=(0.0, 100.0 * unit, 0.0),
            fs=(1.0, 0.0, 0.0),
            ss=(0.0, 1.0, 0.0),
            pitch_m=150e-6,
            unit=unit,
        )
        for unit in range(3)
    ]
    detector = Detector((288, 120), 0.1, (150e-6, 150e-6), None, panels=tuple(panels))
    # A spot across the border of two panels of the slab is on neither of them.
    spots = [[*SPOTS, (80.0, 95.4)], [(60.0, 50.0), (80.0, -0.6)], [(30.25, 20.5)]]
    stacks = np.array([[frame(5 * n + p, spots[p]) for p in range(3)] for n in (1, 2)])
    frames = stacks.reshape(2, 288, 120) if as_slabs else stacks
    path = frame_file(tmp_path / "frames.h5", frames)
    run = Run(path, shape=frames.shape[1:])
    documents = run.begin().refer().points(2).stop()
    writer = feed(CXIWriter(tmp_path / "cxi", geometry=detector), documents)
    assert not writer.errors
    (made,) = writer.files
    assert check_cxi(made) == []
    assert column(made, "/entry_1/event_id").tolist() == [1, 2]
    assert np.array_equal(column(made, "/entry_1/data_1/data"), stacks.reshape(2, 288, 120))
    assert column(made, "/entry_1/result_1/nPeaks").tolist() == [5, 5]
    for row in (0, 1):
        y, x, segment = (
            column(made, f"/entry_1/result_1/{name}")[row, :5]
            for name in ("peakYPosRaw", "peakXPosRaw", "peakSegPosRaw")
        )
        wanted = [(p, x, y + 96 * p) for p in range(3) for x, y in spots[p] if 0 < y < 95]
        found = sorted(zip(segment.tolist(), x.tolist(), y.tolist(), strict=True))
        assert np.allclose(found, sorted(wanted), atol=0.2)
    geometry = read_geometry(next((tmp_path / "cxi").glob("*.geom")), distance_m=0.1)
    assert geometry.panels == detector.panels


def test_bad_pixels_are_in_the_file_and_in_the_geometry(tmp_path, frames):
    valid = np.ones(SHAPE, dtype=bool)
    valid[60:80, :] = False
    (path,) = feed(CXIWriter(tmp_path, valid=valid), stills(frames, 2)).files
    mask = column(path, "/entry_1/instrument_1/detector_1/mask")
    assert mask.dtype == np.uint32
    assert np.array_equal(mask == 0, valid)
    assert column(path, "/entry_1/result_1/nPeaks").tolist() == [1, 2]
    geometry = tmp_path / "beamline_20250101_120000.geom"
    assert "mask = /entry_1/instrument_1/detector_1/mask" in geometry.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"events_per_file": 0}, "at least 1"),
        ({"max_num_peak": 0}, "at least 1"),
        ({"min_num_peak": -1}, "at least 0"),
        ({"prefix": "a/b"}, "part of a file name"),
        ({"prefix": ""}, "part of a file name"),
        ({"compression": "zip"}, "none, gzip, bitshuffle, found 'zip'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, options, words):
    with pytest.raises(ConfigurationError, match=words):
        CXIWriter(tmp_path, **options)


@pytest.mark.parametrize("refer_first", [True, False])
def test_events_are_not_searched_for_peaks_and_give_no_file(tmp_path, frames, caplog, refer_first):
    documents = stills(frames, 3)
    for name, doc in documents:
        if name == "stream_resource":
            doc["parameters"] |= {
                "dataset": "/entry/events/event_index",
                "event_id": "/entry/events/event_id",
            }
    if not refer_first:
        last = ("stream_resource", "stream_datum", "stop")
        documents.sort(key=lambda item: last.index(item[0]) if item[0] in last else -1)
    with caplog.at_level(logging.INFO):
        writer = feed(CXIWriter(tmp_path / "cxi", frame_timeout=60.0), documents)
    assert not list(tmp_path.glob("cxi/*"))
    assert not writer.files
    assert not writer.errors
    assert caplog.text.count("which are not searched for peaks") == 1
