"""XPCS through the whole path: server → IOC → files → documents → g2 → diffusion constant."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from nexus_validators import COMMUNITY, OFFICIAL
from simulated_beamline import Documents, Stack, start_speckle_stack

from beamline.daq import DeviceClient
from beamline.documents import Journal, JournalWriter
from beamline.documents.replay import replay
from beamline.plans import xpcs_series
from callbacks._xpcs_plot import digest
from callbacks.xpcs import XPCSWriter

pytestmark = pytest.mark.system

#: Where the detector has light, 1/nm: from behind the beam stop on.
BINS = {"n_dynamic": 10, "n_static": 50, "q_range": (0.9, 4.5)}
FRAMES = {"dense": 1200, "sparse": 2400}


def g2_of(path):
    with h5py.File(path) as file:
        return file["/xpcs/multitau/normalized_g2"][()]


def truth_of(stack: Stack) -> float:
    info = stack.server.info
    with DeviceClient(info["host"], int(info["port"])) as client:
        return client.truth()["detector"]["speckle"]["diffusion_A2_per_s"]


@pytest.mark.timeout(400)  # the correlator is compiled in it
@pytest.mark.parametrize("kind", ["dense", pytest.param("sparse", marks=pytest.mark.slow)])
def test_the_diffusion_constant_comes_back(
    speckle, speckle_bl, engine, docs, tmp_path, kind, validators
):
    g2_docs = Documents()
    journal = JournalWriter(tmp_path / "journal")
    live = XPCSWriter(tmp_path / "live", interval=0.1, plot_interval=0.5, sinks=[g2_docs], **BINS)
    engine.subscribe(journal)
    engine.subscribe(live)
    engine(
        xpcs_series(
            speckle_bl.area_detector, FRAMES[kind], exposure=0.002, period=0.01,
            attenuation=0.3 if kind == "sparse" else 1.0, sparse=kind == "sparse",
        )
    )  # fmt: skip
    assert not live.errors
    (diffusion,) = live.diffusions
    truth = truth_of(speckle)
    assert abs(diffusion.D - truth) < 0.03 * truth
    assert abs(diffusion.D - truth) < 5 * diffusion.D_err
    assert diffusion.D_err < 0.02 * truth
    # g2 is there during the run, and its last is that of the file and of the picture.
    (path,) = live.files
    events = g2_docs.events("g2")
    frames = [event["data"]["frames"] for event in events]
    assert len(frames) >= 2
    assert frames[0] < frames[-1] == FRAMES[kind]
    g2 = g2_of(path)
    np.testing.assert_array_equal(np.array(events[-1]["data"]["g2"])[: len(g2)], g2)
    (picture,) = live.pictures
    assert digest(g2).encode() in picture.read_bytes()
    assert g2_docs.events("diffusion")[0]["data"]["D"] == diffusion.D
    # A replay gives the same.
    again = XPCSWriter(tmp_path / "again", plot_interval=0, **BINS)
    record = Journal(tmp_path / "journal")
    replay(record.documents(record.find("-1")), [again])
    assert [p.name for p in again.files] == [path.name]
    np.testing.assert_array_equal(g2_of(again.files[0]), g2)
    again.close()
    if kind == "sparse":
        for definitions in (OFFICIAL, COMMUNITY):
            assert not validators[definitions].application(path, "NXxpcs").errors


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_twenty_seeds_scatter_as_their_errors_say(tmp_path, kind, engine_of):
    """Pulls (found − true)/error have mean 0 ± 0.5 and width 1 ± 0.3; D is right within 3 %."""
    pulls, ratios = [], []
    for seed in range(1, 21):
        found, truth = engine_of(seed, kind)
        pulls.append((found.D - truth) / found.D_err)
        ratios.append(found.D / truth)
    assert abs(np.mean(pulls)) < 0.5, pulls
    assert 0.7 < np.std(pulls, ddof=1) < 1.3, pulls
    assert np.abs(np.array(ratios) - 1).max() < 0.03, ratios


@pytest.fixture
def engine_of(tmp_path):
    """What measures D once, on a beamline of its own, with a seed."""
    from bluesky import RunEngine

    from devices import Beamline

    def measure(seed, kind):
        folder = tmp_path / f"{kind}{seed}"
        stack = start_speckle_stack(
            folder, time_scale=50, seed=seed, detector_nx=128, detector_ny=128,
            beam_centre_x_px=60.4, beam_centre_y_px=66.7, beam_stop_px=6,
            detector_distance_m=0.05, diffusion_A2_per_s=400, flux_counts_per_s=1e5,
        )  # fmt: skip
        beamline = Beamline(stack.prefix, frames_dir=folder / "frames")
        try:
            beamline.connect(timeout=30)
            beamline.area_detector.sim_mode.set("Speckle").wait(10)
            engine = RunEngine({}, context_managers=[])
            writer = XPCSWriter(folder / "xpcs", plot_interval=0, sinks=[], **BINS)
            engine.subscribe(writer)
            engine(
                xpcs_series(
                    beamline.area_detector, FRAMES[kind], exposure=0.002, period=0.01,
                    attenuation=0.3 if kind == "sparse" else 1.0, sparse=kind == "sparse",
                )
            )  # fmt: skip
            return writer.diffusions[0], truth_of(stack)
        finally:
            beamline.destroy()
            stack.stop()

    return measure
