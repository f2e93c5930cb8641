"""The layout of CXI files, row by row of the contract, and that the check of it can fail."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import resource
import signal

import h5py
import hdf5plugin  # noqa: F401  (to read bitshuffle)
import numpy as np
import pytest

from beamline.core.errors import ConfigurationError
from beamline.crystallography import _cxi_disk
from beamline.crystallography.cxi import (
    CXIEvent,
    CXIFile,
    DiskFullError,
    EventRefusedError,
    FileTakenError,
)
from beamline.crystallography.cxi_check import check_cxi
from beamline.crystallography.event_peaks import EventPeaks
from beamline.crystallography.geometry import Detector, Panel
from beamline.crystallography.peaks import Peaks

DETECTOR = Detector(
    shape=(40, 50), distance_m=0.1, pixel_m=(75e-6, 75e-6), beam_centre_px=(24.5, 20.0)
)
RUN = "0d7c9b7e-7f0e-4f7e-9f2d-6d3a1f1c8a11"
TABLES = (
    ("peakXPosRaw", "float32"),
    ("peakYPosRaw", "float32"),
    ("peakTotalIntensity", "float32"),
    ("peakMaximumValue", "float32"),
    ("peakSNR", "float32"),
    ("peakProbability", "float32"),
    ("peakNPixels", "int32"),
    ("peakSegPosRaw", "int32"),
)


def peaks(number, seed=0):
    rng = np.random.default_rng(seed)
    return Peaks(
        fs=rng.uniform(0, 49, number).astype(np.float32),
        ss=rng.uniform(0, 39, number).astype(np.float32),
        total=np.sort(rng.uniform(10, 1000, number))[::-1].astype(np.float32),
        maximum=rng.uniform(10, 100, number).astype(np.float32),
        snr=rng.uniform(5, 50, number).astype(np.float32),
        n_pixels=rng.integers(1, 20, number).astype(np.int32),
        probability=rng.uniform(0.5, 1, number).astype(np.float32),
    )


def event(number, n_peaks=3, **changes):
    image = np.random.default_rng(number).poisson(3, (40, 50)).astype(np.uint16)
    made = CXIEvent(
        image=image,
        peaks=peaks(n_peaks, number),
        photon_energy_eV=9500.25,
        time_ns=1_700_000_000_123_456_789 + number,
        run_uid=RUN,
        batch_id="primary",
        event_id=number,
        distance_m=0.1,
        frame_index=number - 1,
        translation_m=(1e-6 * number, -2e-6, np.nan),
        scan={"sample_x": float(number), "stage-x": 2.0},
    )
    return dataclasses.replace(made, **changes)


def modules():
    """Three panels of two pieces in a slab with gaps between the pieces."""
    panels = [
        Panel(
            name=f"p{unit}a{asic}",
            origin=(10 * unit, 12 * asic),
            shape=(10, 10),
            corner=(12.0 * asic, 15.0 * unit, 0.0),
            fs=(0.8, 0.6, 0.0),
            ss=(-0.6, 0.8, 0.0),
            pitch_m=75e-6,
            unit=unit,
            unit_origin=(0, 10 * asic),
        )
        for unit in range(3)
        for asic in range(2)
    ]
    return Detector((30, 22), 0.1, (75e-6, 75e-6), None, panels=tuple(panels))


def on_panels(*places):
    panel, ss, fs = np.array(places).T
    ones = np.ones(len(places), np.float32)
    return EventPeaks(
        fs=fs.astype(np.float32),
        ss=ss.astype(np.float32),
        total=5 * ones,
        maximum=ones,
        snr=ones,
        n_pixels=ones.astype(np.int32),
        probability=ones,
        panel=panel.astype(np.int32),
    )


def write(path, events, **options):
    options = {
        "detector": DETECTOR,
        "dtype": np.uint16,
        "max_num_peak": 8,
        "scan_units": {"sample_x": "um", "stage-x": ""},
        "entry": {"start_time": "2025-01-01T00:00:00+00:00", "sample_1/name": "lysozyme"},
        **options,
    }
    file = CXIFile(path, **options)
    for one in events:
        file.append(one)
        file.flush_if_due()
    return file.close(end_time="2025-01-01T00:01:00+00:00", exit_status="success")


@pytest.fixture
def sound(tmp_path):
    return write(tmp_path / "a.cxi", [event(n, n) for n in range(1, 6)])


def test_every_row_of_the_layout(sound):
    with h5py.File(sound) as file:
        assert file["cxi_version"][()] == 160
        data = file["/entry_1/instrument_1/detector_1/data"]
        assert data.shape == (5, 40, 50)
        assert data.dtype == np.uint16
        assert data.chunks == (1, 40, 50)
        assert data.maxshape == (None, 40, 50)
        assert np.array_equal(data[2], event(3).image)
        detector = file["/entry_1/instrument_1/detector_1"]
        for name, value in (("distance", 0.1), ("x_pixel_size", 75e-6), ("y_pixel_size", 75e-6)):
            assert detector[name][()] == value
            assert detector[name].attrs["units"] == "m"
        assert detector["mask"].dtype == np.uint32
        assert detector["mask"].shape == (40, 50)
        assert not detector["mask"][()].any()
        assert file["/entry_1/data_1/data"] == data
        assert isinstance(file.get("/entry_1/data_1/data", getlink=True), h5py.SoftLink)
        result = file["/entry_1/result_1"]
        assert result["nPeaks"][()].tolist() == [1, 2, 3, 4, 5]
        assert result["nPeaks"].dtype.kind == "i"
        for name, dtype in TABLES:
            assert result[name].shape == (5, 8), name
            assert result[name].dtype == dtype, name
        third = peaks(3, 3)
        assert result["peakXPosRaw"][2].tolist() == [*third.fs.tolist(), 0, 0, 0, 0, 0]
        assert result["peakYPosRaw"][2, :3].tolist() == third.ss.tolist()
        assert result["peakTotalIntensity"][2, :3].tolist() == third.total.tolist()
        assert result["peakNPixels"][2, :3].tolist() == third.n_pixels.tolist()
        energy = file["/LCLS/photon_energy_eV"]
        assert energy.dtype == np.float64
        assert energy[()].tolist() == [9500.25] * 5
        assert file["/LCLS/detector_1/EncoderValue"][()] == pytest.approx([100.0] * 5)
        seconds = file["/LCLS/machineTime"][()]
        nanoseconds = file["/LCLS/machineTimeNanoSeconds"][()]
        assert seconds.tolist() == [1_700_000_000] * 5
        assert nanoseconds.tolist() == [123_456_789 + n for n in range(1, 6)]
        stamp = file["/LCLS/detector_1/timestamp"]
        assert stamp.dtype == np.uint64
        assert (stamp[()] >> np.uint64(32)).tolist() == seconds.tolist()
        assert (stamp[()] & np.uint64(0xFFFFFFFF)).tolist() == nanoseconds.tolist()
        entry = file["/entry_1"]
        assert entry["event_id"][()].tolist() == [1, 2, 3, 4, 5]
        assert entry["run_uid"].asstr()[()].tolist() == [RUN] * 5
        assert entry["batch_id"].asstr()[()].tolist() == ["primary"] * 5
        assert entry["frame_index"][()].tolist() == [0, 1, 2, 3, 4]
        joule = entry["instrument_1/source_1/energy"]
        assert joule[()] == pytest.approx([9500.25 * 1.602176634e-19] * 5, rel=1e-12)
        assert joule.attrs["units"] == "J"
        assert entry["sample_1/name"].asstr()[()] == "lysozyme"
        assert entry["sample_1/geometry_1/translation"][1, :2].tolist() == [2e-6, -2e-6]
        assert entry["scan/sample_x"][()].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert entry["scan/sample_x"].attrs["units"] == "um"
        assert entry["scan/stage_x"].attrs["original_name"] == "stage-x"
        assert entry["exit_status"].asstr()[()] == "success"
    assert check_cxi(sound) == []


def test_libraries_of_the_1_10_series_can_read_it(sound):
    with h5py.File(sound) as file:
        assert file.libver[1] in ("v110", "v200", "latest")  # of this handle, not of the file
        access = file.id.get_create_plist()
        # Superblock 0, 2 and 3 are known to HDF5 1.10; 4 came with 2.0.
        assert access.get_version()[0] <= 3
    assert sound.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"


def test_frames_keep_the_type_of_the_detector(tmp_path):
    for dtype in (np.uint8, np.uint32, np.int16, np.float32):
        image = np.arange(2000).reshape(40, 50).astype(dtype)
        path = write(tmp_path / f"{np.dtype(dtype)}.cxi", [event(1, image=image)], dtype=dtype)
        with h5py.File(path) as file:
            data = file["/entry_1/data_1/data"]
            assert data.dtype == dtype
            assert np.array_equal(data[0], image)
        assert check_cxi(path) == []


def test_float64_frames_are_a_wrong_configuration(tmp_path):
    with pytest.raises(ConfigurationError, match=r"integer type or float32, found float64"):
        write(tmp_path / "a.cxi", [], dtype=np.float64)
    assert list(tmp_path.iterdir()) == []


def test_gzip_gives_the_same_frames(tmp_path, sound):
    path = write(tmp_path / "z.cxi", [event(n) for n in range(1, 6)], compression="gzip")
    with h5py.File(path) as packed, h5py.File(sound) as plain:
        assert packed["/entry_1/data_1/data"].compression == "gzip"
        assert np.array_equal(packed["/entry_1/data_1/data"], plain["/entry_1/data_1/data"])
    assert check_cxi(path) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("compression", ["gzip", "bitshuffle"])
def test_compressed_frames_are_the_same_to_the_last_bit(tmp_path, compression, dtype):
    rng = np.random.default_rng(3)
    frames = [rng.poisson(n, (40, 50)).astype(dtype) for n in (0, 3, 90)]
    if dtype == np.float32:
        frames[1] = rng.normal(size=(40, 50)).astype(dtype)
        frames[2][3, 4:7] = [np.nan, np.inf, -0.0]
    path = write(
        tmp_path / "z.cxi",
        [event(n, image=frame) for n, frame in enumerate(frames)],
        dtype=dtype,
        compression=compression,
    )
    with h5py.File(path) as file:
        data = file["/entry_1/data_1/data"]
        filters = [
            data.id.get_create_plist().get_filter(n)[0]
            for n in range(data.id.get_create_plist().get_nfilters())
        ]
        assert filters == (
            [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE] if compression == "gzip" else [32008]
        )
        for stored, frame in zip(data, frames, strict=True):
            assert stored.tobytes() == frame.tobytes()
    assert check_cxi(path) == []


def test_an_unknown_compression_is_a_wrong_configuration(tmp_path):
    with pytest.raises(ConfigurationError, match="none, gzip or bitshuffle, found 'lzw'"):
        write(tmp_path / "a.cxi", [], compression="lzw")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compression", ["none", "gzip", "bitshuffle"])
def test_stacks_of_panels_are_stored_as_slabs(tmp_path, compression):
    detector = modules()
    rng = np.random.default_rng(0)
    stacks = rng.poisson(4, (3, 3, 10, 20)).astype(np.uint16)
    logits = rng.normal(size=(3, 2, 10, 20)).astype(np.float32)
    found = on_panels((2, 3.25, 4.5), (0, 9.25, 10.75), (1, -0.5, -0.5))
    events = [
        event(1, image=stacks[0], peaks=found),
        event(2, image=detector.to_slab(stacks[1]), logits=logits),
        event(3, image=stacks[2][:, ::-1], peaks=found),
    ]
    events[1] = dataclasses.replace(events[1], peaks=peaks(0))
    path = write(tmp_path / "a.cxi", events, detector=detector, compression=compression, maps=True)
    assert check_cxi(path) == []
    with h5py.File(path) as file:
        data, result = file["/entry_1/data_1/data"][()], file["/entry_1/result_1"]
        assert data.shape == (3, 30, 22)
        assert np.array_equal(detector.to_stack(data)[:2], stacks[:2])
        assert np.array_equal(detector.to_stack(data[2]), stacks[2][:, ::-1])
        assert result["peakSegPosRaw"][0, :4].tolist() == [2, 0, 1, 0]
        # The second half of a module lies two columns further in the slab.
        assert result["peakXPosRaw"][0, :3].tolist() == [4.5, 12.75, -0.5]
        assert result["peakYPosRaw"][0, :3].tolist() == [23.25, 9.25, 9.5]
        segmentation = detector.to_stack(result["segmentation_map"][()])
        assert np.array_equal(segmentation[1], logits[:, 1] > logits[:, 0])
        assert not segmentation[[0, 2]].any()
        for place in (0, 1):
            stored = detector.to_stack(result[f"logit_map_class{place}"][1])
            assert np.array_equal(stored, logits[:, place])
        mask = file["/entry_1/instrument_1/detector_1/mask"]
        assert mask.dtype == np.uint32
        assert np.array_equal(mask, detector.mask())
        assert "beam_center_x" not in file["/entry_1/instrument_1/detector_1"]


def test_more_peaks_than_fit_leave_the_strongest(tmp_path):
    path = write(tmp_path / "a.cxi", [event(1, 30)])
    with h5py.File(path) as file:
        assert file["/entry_1/result_1/nPeaks"][0] == 8
        stored = file["/entry_1/result_1/peakTotalIntensity"][0]
        assert stored.tolist() == peaks(30, 1).total[:8].tolist()
    assert check_cxi(path) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"photon_energy_eV": 0.0}, "photon energy must be positive, found 0.0 eV"),
        ({"photon_energy_eV": np.nan}, "photon energy must be positive, found nan eV"),
        ({"photon_energy_eV": np.inf}, "photon energy must be positive, found inf eV"),
        ({"photon_energy_eV": -9500.0}, "photon energy must be positive"),
        ({"distance_m": np.nan}, "detector distance must be positive, found nan m"),
        (
            {"image": np.zeros((40, 51), np.uint16)},
            r"uint16 \(40, 51\), expected uint16 \(40, 50\)",
        ),
        ({"image": np.zeros((40, 50), np.int32)}, r"int32 \(40, 50\), expected uint16"),
        ({"time_ns": -1}, "must be from 1970 to 2106, found -1 ns"),
        ({"time_ns": 7_258_118_400 * 10**9}, "must be from 1970 to 2106"),
        ({"peaks": on_panels((0, 3.0, 4.0), (0, 40.0, 4.0))}, "position .* is on no panel"),
        ({"peaks": on_panels((0, 3.0, np.nan))}, "fs of a peak is not finite"),
        ({"peaks": dataclasses.replace(peaks(1), fs=np.float32([50.0]))}, "is on no panel"),
    ],
)
def test_what_indexing_would_make_nonsense_of_is_refused(tmp_path, changes, words):
    file = CXIFile(tmp_path / "a.cxi", detector=DETECTOR, dtype=np.uint16, max_num_peak=8)
    with pytest.raises(EventRefusedError, match=f"event 7 of primary in run 0d7c9b7e.*{words}"):
        file.append(event(7, **changes))
    file.append(event(8))
    path = file.close(end_time="", exit_status="success")
    with h5py.File(path) as done:
        assert done["/entry_1/event_id"][()].tolist() == [8]


def test_two_writers_never_share_a_name(tmp_path):
    path = tmp_path / "a.cxi"
    first = CXIFile(path, detector=DETECTOR, dtype=np.uint16, max_num_peak=8)
    with pytest.raises(FileTakenError, match=r"a\.cxi\.inprogress exists"):
        CXIFile(path, detector=DETECTOR, dtype=np.uint16, max_num_peak=8)
    first.append(event(1))
    first.close(end_time="", exit_status="success")
    with pytest.raises(FileTakenError, match=r"a\.cxi exists"):
        CXIFile(path, detector=DETECTOR, dtype=np.uint16, max_num_peak=8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.cxi"]
    assert check_cxi(path) == []


def test_the_name_is_final_only_when_the_file_is(tmp_path):
    file = CXIFile(
        tmp_path / "a.cxi", detector=DETECTOR, dtype=np.uint16, max_num_peak=8, block_size=2
    )
    for number in (1, 2, 3):
        file.append(event(number))
        file.flush_if_due()
    growing = tmp_path / "a.cxi.inprogress"
    assert [p.name for p in tmp_path.iterdir()] == [growing.name]
    with h5py.File(growing, locking=False) as seen:
        assert seen["/entry_1/event_id"][()].tolist() == [1, 2]
    assert len(file) == 3
    problems = check_cxi(growing)
    assert any("in progress" in problem for problem in problems)
    assert any("no exit status" in problem for problem in problems)
    assert len(problems) == 2
    file.close(end_time="", exit_status="success")
    assert [p.name for p in tmp_path.iterdir()] == ["a.cxi"]


def _write_and_die(path):
    file = CXIFile(path, detector=DETECTOR, dtype=np.uint16, max_num_peak=8, block_size=4)
    for number in range(1, 11):
        file.append(event(number))
        file.flush_if_due()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_every_flushed_row(tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=_write_and_die, args=(tmp_path / "a.cxi",)
    )
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    with h5py.File(tmp_path / "a.cxi.inprogress") as file:
        assert file["/entry_1/event_id"][()].tolist() == list(range(1, 9))
        assert file["/entry_1/data_1/data"].shape == (8, 40, 50)
        assert np.array_equal(file["/entry_1/data_1/data"][7], event(8).image)


def test_a_block_that_could_not_be_written_goes_out_later(tmp_path, monkeypatch):
    file = CXIFile(
        tmp_path / "a.cxi", detector=DETECTOR, dtype=np.uint16, max_num_peak=8, block_size=2
    )
    real = h5py.Dataset.__setitem__

    def full(self, *args):
        if self.name.endswith("photon_energy_eV"):
            raise OSError(28, "No space left on device")
        real(self, *args)

    for number in (1, 2):
        file.append(event(number))
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__setitem__", full)
        with pytest.raises(OSError, match="No space left"):
            file.flush_if_due()
    file.append(event(3))
    path = file.close(end_time="", exit_status="success")
    assert check_cxi(path) == []
    with h5py.File(path) as done:
        assert done["/entry_1/event_id"][()].tolist() == [1, 2, 3]


def _write_while_the_disk_is_full(path, compression, room, result):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = CXIFile(
        path,
        detector=DETECTOR,
        dtype=np.uint16,
        max_num_peak=8,
        block_size=4,
        compression=compression,
        scan_units={"sample_x": "um", "stage-x": ""},
    )
    messages = []
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(1, 31):
        if number == 10:
            limit = file.growing.stat().st_size + room
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        if number == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        file.append(event(number))
        try:
            file.flush_if_due()
        except DiskFullError as error:
            messages.append(str(error))
    file.close(end_time="", exit_status="success")
    result.put(messages)


@pytest.mark.parametrize("compression", ["none", "gzip", "bitshuffle"])
@pytest.mark.parametrize("room", [0, 5000])
def test_writes_that_the_disk_refuses_lose_nothing(tmp_path, compression, room):
    # HDF5 itself loses rows after a write that failed: it must not come to that.
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    path = tmp_path / "a.cxi"
    process = context.Process(
        target=_write_while_the_disk_is_full, args=(path, compression, room, result)
    )
    process.start()
    messages = result.get(timeout=100)
    process.join(100)
    assert process.exitcode == 0
    assert len(messages) == 8  # events 12 to 19
    assert all("MB to grow, and does not get them (File too large)" in text for text in messages)
    assert "11 events wait in memory" in messages[-1]
    assert check_cxi(path) == []
    with h5py.File(path) as done:
        assert done["/entry_1/event_id"][()].tolist() == list(range(1, 31))
        for row, image in enumerate(done["/entry_1/data_1/data"], 1):
            assert np.array_equal(image, event(row).image)
    # What was set aside is given back.
    assert path.stat().st_size < 1_000_000


# The check must be able to fail: every damage is named.


def _change(path, damage):
    with h5py.File(path, "r+") as file:
        damage(file)
    return " ".join(check_cxi(path))


def _replace(name, value):
    def damage(file):
        del file[name]
        if value is not None:
            file[name] = value

    return damage


def _set(name, where, value):
    def damage(file):
        file[name][where] = value

    return damage


DATA = "/entry_1/instrument_1/detector_1/data"
RESULT = "/entry_1/result_1"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_replace("cxi_version", 140), "/cxi_version must be 160, found 140"),
        (_replace(DATA, None), f"{DATA} is missing"),
        (_replace(DATA, np.zeros((5, 1, 40, 50), np.uint16)), "must be a slab"),
        (_replace("/entry_1/data_1/data", np.zeros((5, 40, 50))), "must be a link"),
        (_replace("/entry_1/data_1/data", None), "/entry_1/data_1/data is missing"),
        (_replace(f"{RESULT}/peakTotalIntensity", None), "peakTotalIntensity is missing"),
        (_set(f"{RESULT}/peakTotalIntensity", ..., 0), "15 peaks have no intensity"),
        (_set(f"{RESULT}/peakTotalIntensity", (1, 0), np.nan), "1 peaks have no intensity"),
        (_set(f"{RESULT}/peakXPosRaw", (2, 1), 50.0), "1 peaks lie outside"),
        (_set(f"{RESULT}/peakYPosRaw", (2, 1), np.nan), "1 peaks lie outside"),
        (_set(f"{RESULT}/nPeaks", 1, 9), "nPeaks must be 0 to 8"),
        (_set(f"{RESULT}/nPeaks", 4, 4), "1 entries beyond nPeaks"),
        (_replace(f"{RESULT}/peakSNR", np.zeros((5, 7))), "one width, found [7, 8]"),
        (_replace(f"{RESULT}/peakSNR", np.zeros((4, 8))), "peakSNR must have 5 rows"),
        (_set("/LCLS/photon_energy_eV", 3, 0), "no usable photon energy, the first in row 3: 0.0"),
        (_set("/LCLS/photon_energy_eV", 0, np.nan), "1 of 5 events have no usable photon energy"),
        (_set("/LCLS/detector_1/EncoderValue", ..., -1), "5 of 5 events have no usable distance"),
        (_replace("/LCLS/detector_1/timestamp", np.zeros(4)), "timestamp must have 5 rows"),
        (_replace("/entry_1/run_uid", None), "/entry_1/run_uid is missing"),
        (_replace("/entry_1/instrument_1/detector_1/distance", 0.0), "one positive number"),
        (
            _replace("/entry_1/instrument_1/detector_1/mask", np.zeros((40, 50), np.int8)),
            "mask must be uint32 (40, 50), found int8",
        ),
    ],
)
def test_the_check_names_the_damage(sound, damage, words):
    assert words in _change(sound, damage)


def test_files_that_are_no_files(tmp_path):
    (tmp_path / "text.cxi").write_text("not HDF5")
    assert "can't be read" in check_cxi(tmp_path / "text.cxi")[0]
    assert "can't be read" in check_cxi(tmp_path / "none.cxi")[0]
    with h5py.File(tmp_path / "empty.cxi", "w"):
        pass
    assert any("data is missing" in problem for problem in check_cxi(tmp_path / "empty.cxi"))


def test_an_empty_run_is_a_sound_file(tmp_path):
    assert check_cxi(write(tmp_path / "a.cxi", [])) == []


def test_file_systems_that_can_not_set_room_aside_are_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(_cxi_disk, "_allocate", refuse)
    assert check_cxi(write(tmp_path / "a.cxi", [event(n) for n in range(1, 6)])) == []
