"""Simulated stills to logits, peaks, CXI files and a geometry, against the simulation's truth."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree

from beamline.core.units import HC
from beamline.crystallography.cxi import CXIEvent, CXIFile
from beamline.crystallography.cxi_check import check_cxi
from beamline.crystallography.event_peaks import find_event_peaks
from beamline.crystallography.geometry import read_geometry, write_geometry, write_list
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


CELL = """CrystFEL unit cell file version 1.0

lattice_type = tetragonal
unique_axis = c
centering = P

a = {a} A
b = {b} A
c = {c} A
al = {alpha} deg
be = {beta} deg
ga = {gamma} deg
"""


def turn(axes, rotation):
    """Rotation vector from the true axes to those found, by the nearest of the equivalent ones."""
    found = (axes / np.linalg.norm(axes, axis=1)[:, None]).T
    turns = []
    for order in ([0, 1, 2], [1, 0, 2]):
        for signs in itertools.product((1, -1), repeat=3):
            step = (found[:, order] * signs) @ rotation.T
            if np.linalg.det(step) > 0:
                turns.append(step)
    best = max(turns, key=np.trace)
    return np.array([best[2, 1] - best[1, 2], best[0, 2] - best[2, 0], best[1, 0] - best[0, 1]]) / 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("indexamajig") is None, reason="CrystFEL is not installed")
def test_crystfel_finds_the_simulated_crystals(written, tmp_path):
    path, geometry, stills, truth = written
    write_list(tmp_path / "a.lst", [path])
    (tmp_path / "a.cell").write_text(CELL.format(**truth["crystal"]))
    command = ["indexamajig", "-i", "a.lst", "-g", str(geometry), "-o", "a.stream", "-p", "a.cell"]
    command += ["--peaks=cxi", "--indexing=asdf", "--no-check-peaks", "-j", "2"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=110, capture_output=True)
    cells, turns = [], []
    chunks = (tmp_path / "a.stream").read_text().split("----- Begin chunk -----")[1:]
    assert len(chunks) == len(stills)
    for chunk in chunks:
        event = int(re.search(r"Event: //(\d+)", chunk).group(1))
        lengths = re.search(r"Cell parameters ([\d.]+) ([\d.]+) ([\d.]+) nm", chunk)
        if lengths is None:
            continue
        cells.append([10 * float(value) for value in lengths.groups()])
        axes = [re.search(rf"{axis}star = (.+) nm\^-1", chunk).group(1) for axis in "abc"]
        turns.append(turn(np.array([axis.split() for axis in axes], float), stills[event].rotation))
    assert len(cells) >= 0.99 * len(stills)
    assert np.median(cells, axis=0) == pytest.approx(
        [truth["crystal"][key] for key in "abc"], rel=2e-4
    )
    error = np.std(turns, axis=0) / np.sqrt(len(turns))
    assert np.all(np.abs(np.mean(turns, axis=0)) < 4 * error)
    assert np.abs(np.mean(turns, axis=0)).max() < np.radians(0.02)
