"""Simulated items of Q2: their truth, and their faults."""

from dataclasses import dataclass

import numpy as np
import pytest

from beamline.core.errors import ConfigurationError
from beamline.core.units import wavelength_to_energy
from beamline.streaming.models import load_model
from beamline.streaming.preprocessing import Preprocessor
from beamline.streaming.simulate import HOSTILE, Q2Simulator, Truth


@dataclass
class Frame:
    number: int
    image: np.ndarray
    energy_eV: float = 9500.0  # noqa: N815
    rotation: np.ndarray | None = None

    @property
    def spots(self):
        return np.array([[10.0 + self.number, 12.0, 500.0]])

    all_spots = spots


def simulator(hostile=(), every=2, batch=3):
    stills = [Frame(i, np.full((2, 30, 30), i, np.uint16)) for i in range(4)]
    truth = Truth({"a": 79.1}, {"shape": [2, 30, 30]}, stills)
    return Q2Simulator(
        stills, truth, load_model(), Preprocessor(pad_to_multiple=8),
        batch_size=batch, run="run", hostile=hostile, hostile_every=every,
    )  # fmt: skip


def test_items_are_as_the_contract_says_and_the_truth_knows_each_event(tmp_path):
    made = simulator()
    items = list(made.items(10))
    assert [len(item.get_numpy_array()) for item in items] == [6, 6, 6, 2]
    assert len({item.batch_id for item in items}) == 4
    item = items[1]
    assert item.get_numpy_array().shape == (6, 2, 32, 32)
    assert item.get_images().shape == item.preprocessing_metadata.preprocessed_shape
    assert item.preprocessing_metadata.original_shape == (3, 2, 30, 30)
    assert item.get_images()[:, 0, 0, 0].tolist() == [3, 3, 0, 0, 1, 1]
    assert wavelength_to_energy(item.metadata["photon_wavelength"]) == pytest.approx([9500.0] * 3)
    assert item.metadata["timestamp"].dtype == np.uint64
    made.truth.save(tmp_path / "truth.npz")
    with np.load(tmp_path / "truth.npz") as truth:
        assert truth["still"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
        assert truth["index"].tolist() == [0, 1, 2] * 3 + [0]
        assert truth["batch_id"][4] == item.batch_id
        stamps = item.metadata["timestamp"]
        seconds = (stamps >> np.uint64(32)).astype(np.int64)
        nanoseconds = (stamps & np.uint64(0xFFFFFFFF)).astype(np.int64)
        assert (seconds * 1_000_000_000 + nanoseconds).tolist() == truth["time_ns"][3:6].tolist()
        spots = truth["spots"][truth["first"][2] : truth["first"][3]]
        assert spots.tolist() == [[12.0, 12.0, 500.0]]


def test_every_fault_is_told_and_the_others_are_good():
    made = simulator(hostile=list(HOSTILE), every=2, batch=1)
    items = list(made.items(2 * len(HOSTILE)))
    by_batch = {item.batch_id: item for item in items}
    faults = dict(zip(made.truth.batch_id, made.truth.fault, strict=True))
    assert sorted(filter(None, faults.values())) == sorted(HOSTILE)
    bad = {fault: by_batch[batch] for batch, fault in faults.items() if fault}
    assert np.isnan(bad["nan"].get_numpy_array()).all()
    assert np.isnan(bad["nan-image"].get_images()).all()
    assert bad["wrong-shape"].get_numpy_array().shape[-1] == 29
    assert bad["no-image"].get_images() is None
    assert bad["wrong-wavelength"].metadata["photon_wavelength"] == 0
    assert bad["year-2200"].metadata["timestamp"][0] >> 32 == 7258118400
    assert [item.batch_id for item in items].count(bad["duplicate"].batch_id) == 2
    for batch, fault in faults.items():
        if not fault:
            assert np.isfinite(by_batch[batch].get_numpy_array()).all()


def test_an_unknown_fault_is_named():
    with pytest.raises(ConfigurationError, match="'nann'"):
        simulator(hostile=["nann"])
