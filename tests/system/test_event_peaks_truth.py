"""Simulated stills to logits, peaks, CXI files and a geometry, against the simulation's truth."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree

from beamline.core.units import HC
from beamline.crystallography.cxi import CXIEvent, CXIFile
from beamline.crystallography.cxi_check import check_cxi
from beamline.crystallography.event_peaks import find_event_peaks
from beamline.crystallography.geometry import read_geometry, write_geometry
from beamline.crystallography.segmentation import LocalThreshold
from ioc.stills import SimulatedStills

pytestmark = pytest.mark.system

DETECTORS = {
    "one panel": {},
    "nine panels": {
        "detector_panels": 9,
        "detector_nx": 192,
        "detector_ny": 176,
        "panel_gap_px": 7,
    },
}


@pytest.fixture(params=DETECTORS, scope="module")
def written(request, tmp_path_factory):
    """A CXI file and a geometry, the stills they come from, and what the simulator says of them."""
    folder = tmp_path_factory.mktemp("stills")
    segment = LocalThreshold()
    with SimulatedStills(seed=11, settings=DETECTORS[request.param]) as simulator:
        detector, truth = simulator.detector, simulator.truth
        stills = list(simulator.take(16))
    write_geometry(folder / "a.geom", detector)
    file = CXIFile(
        folder / "a.cxi",
        detector=detector,
        dtype=np.uint16,
        max_num_peak=512,
        compression="gzip",
    )
    for still in stills:
        stack = still.image.reshape(detector.stack_shape)
        logits = np.zeros((len(stack), 2, *stack.shape[1:]), np.float32)
        for panel, image in zip(logits, stack, strict=True):
            panel[1] = segment(image)
        file.append(
            CXIEvent(
                image=still.image,
                peaks=find_event_peaks(logits, stack, min_pixels=2),
                photon_energy_eV=still.energy_eV,
                time_ns=still.time_ns,
                run_uid="run",
                batch_id="batch",
                event_id=still.number,
                distance_m=detector.distance_m,
            )
        )
        file.flush_if_due()
    return file.close(end_time="", exit_status="success"), folder / "a.geom", stills, truth


def positions(path):
    """Return the peaks of each event in the slab, (fs, ss)."""
    with h5py.File(path) as file:
        result = file["/entry_1/result_1"]
        x, y, number = (result[key][()] for key in ("peakXPosRaw", "peakYPosRaw", "nPeaks"))
    return [np.c_[x[i, :n], y[i, :n]].astype(float) for i, n in enumerate(number)]


def test_the_true_spots_are_found_where_they_are(written):
    path, _, stills, _ = written
    assert check_cxi(path) == []
    true = found = false = 0
    errors = []
    for still, peaks in zip(stills, positions(path), strict=True):
        distance, nearest = cKDTree(peaks).query(still.spots[:, :2])
        errors.append((peaks[nearest] - still.spots[:, :2])[distance < 1.0])
        away, _ = cKDTree(still.all_spots[:, :2]).query(peaks)
        true, found = true + len(still.spots), found + len(peaks)
        false += int(np.count_nonzero(away > 1.0))
    error = np.concatenate(errors)
    assert true > 800
    assert len(error) >= 0.99 * true
    assert false <= 0.01 * found
    assert np.sqrt((error**2).sum(axis=1).mean()) <= 0.12
    assert np.abs(error.mean(axis=0)).max() <= 0.01


def test_peaks_and_geometry_give_the_simulated_crystal(written):
    path, geometry, stills, truth = written
    detector = read_geometry(geometry, distance_m=truth["detector"]["distance_m"])
    crystal = truth["crystal"]
    a, b, c = (crystal[key] for key in ("a", "b", "c"))
    offsets, indices = [], []
    for still, peaks in zip(stills, positions(path), strict=True):
        place = np.array(detector.to_laboratory(peaks[:, 1], peaks[:, 0]))
        direction = place / np.linalg.norm(place, axis=0)
        q = (direction - np.array([[0.0], [0.0], [1.0]])) * still.energy_eV / HC
        axes = np.diag([a, b, c])  # tetragonal
        hkl = axes @ still.rotation.T @ q
        near = np.rint(hkl)
        indices.append(np.abs(hkl - near).max(axis=0))
        back = still.rotation @ (near / np.diag(axes)[:, None])
        offsets.append((q - back)[:2].T * HC / still.energy_eV)
    # A spot of a thick reciprocal point lies off by that thickness, in all directions alike.
    shift = np.concatenate(offsets) * detector.distance_m / detector.pixel_m[0]
    assert np.mean(np.concatenate(indices) < 0.15) > 0.98
    assert np.abs(np.median(shift, axis=0)).max() < 0.05
