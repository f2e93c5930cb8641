"""Stills from the simulated detector to CXI files: spots against the simulation's truth, replay."""

from __future__ import annotations

from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree

from beamline.crystallography.cxi_check import check_cxi
from beamline.daq import DeviceClient
from beamline.documents import Journal, JournalWriter
from beamline.documents.replay import replay
from beamline.plans import stills
from callbacks.cxi import CXIWriter

pytestmark = pytest.mark.system

STILLS = 12


@pytest.fixture
def recorded(bl, engine, docs, tmp_path):
    """A run of stills: its CXI file as written live, and the journal."""
    journal, writer = JournalWriter(tmp_path / "journal"), CXIWriter(tmp_path / "live")
    engine.subscribe(journal)
    engine.subscribe(writer)
    engine(stills(bl.area_detector, STILLS, exposure=0.1, detectors=[bl.counters]))
    assert not writer.errors
    (path,) = writer.files
    return path, tmp_path / "journal"


def test_the_simulated_spots_are_found(recorded, simulated, docs):
    path, _ = recorded
    assert check_cxi(path) == []
    (resource,) = docs.all("stream_resource")
    with h5py.File(unquote(urlparse(resource["uri"]).path), locking=False) as file:
        numbers = file["/entry/instrument/NDAttributes/NDArrayUniqueId"][()]
        recorded_frames = file["/entry/data/data"][()]
    with h5py.File(path) as file:
        rows = file["/entry_1/frame_index"][()]
        assert np.array_equal(file["/entry_1/data_1/data"], recorded_frames[rows])
        result = file["/entry_1/result_1"]
        peaks = [
            np.column_stack([result["peakXPosRaw"][i, :n], result["peakYPosRaw"][i, :n]])
            for i, n in enumerate(result["nPeaks"][()])
        ]
        energies = file["/LCLS/photon_energy_eV"][()]
        distance = file["/LCLS/detector_1/EncoderValue"][()]
        beam = [file[f"/entry_1/instrument_1/detector_1/beam_center_{a}"][()] for a in "xy"]
    assert len(peaks) == STILLS
    with DeviceClient(simulated.server.info["host"], int(simulated.server.info["port"])) as client:
        detector = client.truth()["detector"]
        truth = [np.array(client.true_spots(int(numbers[row])))[:, :2] for row in rows]
    spots = sum(map(len, truth))
    found = sum(map(len, peaks))
    errors = []
    for true, seen in zip(truth, peaks, strict=True):
        distances, nearest = cKDTree(seen).query(true)
        errors.append((seen[nearest] - true)[distances < 2.0])
    error = np.concatenate(errors)
    assert spots > 20 * STILLS
    assert len(error) >= 0.95 * spots
    assert found - len(error) <= 0.05 * found
    assert np.sqrt((error**2).mean()) < 0.12
    assert np.abs(error.mean(axis=0)).max() < 4 * error.std() / np.sqrt(len(error))
    assert np.all((energies > 4000) & (energies < 20000))
    assert distance == pytest.approx([1e3 * detector["distance_m"]] * STILLS)
    assert beam == pytest.approx(detector["beam_centre_px"])


def test_a_replay_gives_the_same_datasets(recorded, tmp_path):
    path, folder = recorded
    journal = Journal(folder)
    again = CXIWriter(tmp_path / "again")
    replay(journal.documents(journal.find("-1")), [again])
    assert [p.name for p in again.files] == [path.name]
    names: list[str] = []
    with h5py.File(path) as live, h5py.File(again.files[0]) as late:
        live.visititems(lambda name, node: names.append(name))
        found: list[str] = []
        late.visititems(lambda name, node: found.append(name))
        assert names == found
        for name in names:
            assert dict(live[name].attrs) == dict(late[name].attrs)
            if isinstance(live[name], h5py.Dataset):
                assert live[name].dtype == late[name].dtype
                np.testing.assert_array_equal(live[name][()], late[name][()], err_msg=name)
