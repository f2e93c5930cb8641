"""The search for peaks on an item of Q2, and every way in which an item can be wrong."""

import dataclasses
import math
import time

import numpy as np
import pytest
from q2_items import ENERGY, geometry_file, make

from beamline.crystallography.geometry import read_geometry
from beamline.streaming.batches import BatchError, BatchHeader, photon_energies, times_ns
from beamline.streaming.tasks import PeakSearch, process_samples


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return read_geometry(geometry_file(tmp_path_factory.mktemp("geometry") / "d.geom"))


@pytest.fixture
def search(detector):
    return PeakSearch(detector)


def run(item, search, span=None):
    header = BatchHeader.from_item(item)
    return process_samples(
        item.get_numpy_array(), item.get_images(), header, span, search
    )  # fmt: skip


def test_every_spot_is_found_where_it_is(search):
    item, truth = make(1)
    batch = run(item, search)
    assert [event.verdict for event in batch.events] == ["hit"] * 4
    for event, spots in zip(batch.events, truth.spots, strict=True):
        assert event.n_peaks == len(spots)
        assert event.photon_energy_eV == pytest.approx(ENERGY)
        assert event.time_ns == (1_790_000_001) * 1_000_000_000 + event.index
        found = np.stack([event.peaks.ss, event.peaks.fs], axis=1)
        apart = np.linalg.norm(found[:, None] - spots[None, :, 1:], axis=2).min(axis=0)
        assert np.sqrt(np.mean(apart**2)) < 0.12
        assert np.all(np.diff(event.peaks.total) <= 0)
        assert np.all(event.peaks.total > 1000)


def test_a_span_is_the_same_as_its_part_of_the_whole(search):
    item, _ = make(2)
    whole, part = run(item, search), run(item, search, (1, 3))
    assert [event.index for event in part.events] == [1, 2]
    for a, b in zip(whole.events[1:3], part.events, strict=True):
        np.testing.assert_array_equal(a.peaks.fs, b.peaks.fs)


@pytest.mark.parametrize("padding", ["bottom-right", "centred"])
def test_padding_is_where_the_setting_says(detector, padding):
    item, truth = make(3, events=1, padding=(6, 10))
    if padding == "centred":
        logits, images = item.predictions_ref, item.original_image_ref
        item.predictions_ref = np.roll(logits, (3, 5), axis=(2, 3))
        item.original_image_ref = np.roll(images, (3, 5), axis=(2, 3))
    event = run(item, PeakSearch(detector, padding=padding)).events[0]
    found = np.stack([event.peaks.ss, event.peaks.fs], axis=1)
    apart = np.linalg.norm(found[:, None] - truth.spots[0][None, :, 1:], axis=2).min(axis=0)
    assert apart.max() < 0.5


def test_few_peaks_are_no_hit_and_many_are_cut(detector):
    item, _ = make(4, spots=9)
    assert {event.verdict for event in run(item, PeakSearch(detector)).events} == {"not_hit"}
    least = PeakSearch(detector, min_num_peak=9, max_num_peak=9)
    assert {event.verdict for event in run(item, least).events} == {"hit"}
    cut = run(item, dataclasses.replace(least, min_num_peak=1, max_num_peak=4))
    assert {(e.n_peaks, len(e.peaks), e.truncated) for e in cut.events} == {(9, 4, 5)}


def nan_logits(item):
    item.predictions_ref[1, 1, 3, 3] = np.nan


def no_energy(item):
    del item.metadata["photon_wavelength"]


def zero_wavelength_of_one(item):
    item.metadata["photon_wavelength"] = [1.3, 0.0, 1.3, 1.3]


def year_2200(item):
    item.metadata["timestamp"][1] = 7_258_118_400 << 32


def nanoseconds_beyond_a_second(item):
    item.metadata["timestamp"][1] = (1_790_000_000 << 32) | 2_000_000_000


def negative_time(item):
    item.metadata["timestamp"][1] = -1


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (nan_logits, "NaN"),
        (zero_wavelength_of_one, "photon energy"),
        (year_2200, "timestamp"),
        (nanoseconds_beyond_a_second, "timestamp"),
        (negative_time, "timestamp"),
    ],
)
def test_one_bad_event_is_refused_alone(search, spoil, word):
    item, _ = make(5)
    spoil(item)
    events = run(item, search).events
    assert [event.verdict for event in events] == ["hit", "refused", "hit", "hit"]
    assert word in events[1].reason
    assert "event 1 of batch batch00005" in events[1].reason


def no_image(item):
    item.original_image_ref = None


def image_of_another_shape(item):
    item.original_image_ref = item.original_image_ref[:, :, :50]


def image_without_an_event(item):
    item.original_image_ref = item.original_image_ref[:-1]


def three_classes(item):
    item.predictions_ref = np.concatenate([item.predictions_ref] * 2, axis=1)[:, :3]


def half_precision(item):
    item.predictions_ref = item.predictions_ref.astype(np.float16)


def another_detector(item):
    item.preprocessing_metadata.original_shape = (4, 2, 96, 80)


def infinite_wavelength(item):
    item.metadata["photon_wavelength"] = math.inf


def wavelength_in_metres(item):
    item.metadata["photon_wavelength"] = 1.3e-10


def wavelength_of_text(item):
    item.metadata["photon_wavelength"] = "1.3 A"


def wavelengths_of_other_events(item):
    item.metadata["photon_wavelength"] = [1.3, 1.3]


@pytest.mark.parametrize(
    "spoil",
    [
        no_image, image_of_another_shape, image_without_an_event, three_classes, half_precision,
        another_detector, no_energy, infinite_wavelength, wavelength_in_metres,
        wavelength_of_text, wavelengths_of_other_events,
    ],
)  # fmt: skip
def test_a_bad_item_is_refused_event_by_event_and_harms_no_other(search, spoil):
    item, _ = make(6)
    spoil(item)
    events = run(item, search).events
    assert [event.verdict for event in events] == ["refused"] * 4
    assert all("batch00006" in event.reason and event.reason.endswith(".") for event in events)
    good, _ = make(7)
    assert {event.verdict for event in run(good, search).events} == {"hit"}


def test_items_that_are_none_are_refused_at_the_door():
    item, _ = make(8)
    item.preprocessing_metadata.original_shape = (4, 96, 80)
    with pytest.raises(BatchError, match="original_shape"):
        BatchHeader.from_item(item)
    with pytest.raises(BatchError, match="PipelineOutput"):
        BatchHeader.from_item({"predictions": 1})


def test_without_preprocessing_metadata_the_geometry_tells(search):
    item, _ = make(9, padding=(0, 0))
    item.preprocessing_metadata = None
    assert len(run(item, search).hits) == 4


def test_energies_and_times_of_metadata():
    assert photon_energies({"photon_energy": 9500}, 2) == [9500.0, 9500.0]
    assert photon_energies({"photon_wavelength": np.float32(1.0)}, 1) == [12398.419843]
    assert times_ns({}, 2) == [0, 0]
    stamp = np.array([(1_700_000_000 << 32) | 5], dtype=np.uint64)
    assert times_ns({"timestamp": stamp}, 1) == [1_700_000_000_000_000_005]
    assert times_ns({"timestamp": int(time.time() + 1e6) << 32}, 1) == [None]


def test_numbers_of_the_metadata_are_passed_through(search):
    item, _ = make(10, sample_x=1.5, laser=[0, 1, 0, 1], note="text", odd=[1, 2])
    events = run(item, search).events
    assert [event.scan for event in events] == [
        {"sample_x": 1.5, "laser": float(i % 2)} for i in range(4)
    ]


def test_names_that_would_be_cut_off_are_refused():
    item, _ = make(11, run="r" * 37)
    with pytest.raises(BatchError, match="37"):
        BatchHeader.from_item(item)
