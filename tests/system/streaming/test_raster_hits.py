"""A raster scan of a sample with thick and thin places through Ray: CXI files and a hit map."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from simulated_beamline import SPARE_PORT, TIME_SCALE, Documents, Stack

from beamline.core.config import load_settings
from beamline.crystallography.cxi_check import check_cxi
from beamline.crystallography.geometry import Detector
from beamline.daq import DeviceClient
from beamline.plans import mesh_scan
from beamline.simulation import start_ioc, start_server
from beamline.streaming.config import RaySettings
from callbacks.raster import HitFinding

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROWS, COLUMNS = 5, 6


@pytest.fixture
def chip(tmp_path):
    """A beamline whose sample has grains with holes between them."""
    settings = load_settings(
        environment={}, prefix="CHIP:", device_port=0, ioc_port=SPARE_PORT,
        time_scale=TIME_SCALE, sample=("Fe2O3-grains",), seed=4,
    )  # fmt: skip
    folder = tmp_path / "chip"
    server = start_server(settings, folder)
    try:
        ioc = start_ioc(settings, f"127.0.0.1:{server.info['port']}", folder)
    except BaseException:
        server.stop()
        raise
    stack = Stack(settings, folder, server, ioc)
    yield stack
    stack.stop()


@pytest.fixture
def chip_bl(chip, tmp_path):
    from devices import Beamline

    beamline = Beamline(chip.prefix, frames_dir=tmp_path / "frames")
    beamline.connect(timeout=30)
    yield beamline
    beamline.destroy()


def thickness_in_the_beam(client, sample, beam, x, y):
    """What the beam covers at each cell: a Gaussian mean over the sample's map."""
    ny, nx, full, pixels = client.request("TRUTH:MAP:0").split(";")
    grains = np.array(pixels.split(","), float).reshape(int(ny), int(nx)) / float(full)

    def weights(positions, middle, size, number, fwhm):
        centres = (np.arange(number) + 0.5) * size / number - 0.5 * size
        return np.exp(-4 * np.log(2) * ((centres - (positions - middle)[:, None]) / fwhm) ** 2)

    across = weights(x, sample["x_um"], sample["width_um"], int(nx), beam["fwhm_x_um"])
    down = weights(y, sample["y_um"], sample["height_um"], int(ny), beam["fwhm_y_um"])
    return (down @ grains @ across.T) / np.outer(down.sum(axis=1), across.sum(axis=1))


@pytest.mark.slow
def test_the_hit_map_shows_where_the_crystals_are(chip, chip_bl, engine, docs, namespace, tmp_path):
    made = Documents()
    with DeviceClient(chip.server.info["host"], int(chip.server.info["port"])) as client:
        truth = client.truth()
        found, sample = truth["detector"], truth["samples"][0]
        detector = Detector(
            tuple(found["shape"]), found["distance_m"], (found["pixel_m"],) * 2,
            tuple(found["beam_centre_px"]),
        )  # fmt: skip
        half_x, half_y = 0.45 * sample["width_um"], 0.45 * sample["height_um"]
        with HitFinding(
            tmp_path / "hits", detector, workers=1, consumers=[made],
            ray=RaySettings.model_validate({"namespace": namespace}),
        ) as finding:  # fmt: skip
            engine.subscribe(finding)
            engine(
                mesh_scan(
                    [chip_bl.area_detector],
                    *(chip_bl.sample.y, sample["y_um"] - half_y, sample["y_um"] + half_y, ROWS),
                    *(chip_bl.sample.x, sample["x_um"] - half_x, sample["x_um"] + half_x, COLUMNS),
                    exposure=0.1,
                )
            )
        (hit_map,) = finding.map.maps.values()
        thickness = thickness_in_the_beam(client, sample, truth["beam"], hit_map.x, hit_map.y)
        crystals = [
            client.request(f"TRUTH:AD1:{number}:CRYSTAL").startswith("1")
            for number in range(ROWS * COLUMNS)
        ]
    assert docs.stop["exit_status"] == "success"
    statistics = finding.feeder.statistics
    assert statistics["frames"] == ROWS * COLUMNS
    assert not any(statistics[key] for key in ("dropped", "missing", "refused"))

    assert hit_map.frames.tolist() == np.ones((ROWS, COLUMNS)).tolist()
    # Every second row was walked backwards.
    true = np.array(crystals).reshape(ROWS, COLUMNS)
    true[1::2] = true[1::2, ::-1]
    assert np.array_equal(hit_map.hit_fraction, true)
    thin, thick = thickness < 0.05, thickness > 0.4
    assert min(thin.sum(), thick.sum()) >= 4
    assert hit_map.hit_fraction[thin].mean() < 0.1
    assert hit_map.hit_fraction[thick].mean() > 0.4

    # The documents of the inference run say where each frame was taken, hit or not.
    taken = {event["seq_num"]: event["data"] for event in docs.events("primary")}
    (primary,) = [d for d in made.all("descriptor") if d["name"] == "primary"]
    pages = [page for page in made.all("event_page") if page["descriptor"] == primary["uid"]]
    seen = 0
    for page in pages:
        data = page["data"]
        for number, x, y in zip(data["seq_num"], data["sample_x"], data["sample_y"], strict=True):
            assert (x, y) == (taken[number]["sample_x"], taken[number]["sample_y"])
            seen += 1
    assert seen == ROWS * COLUMNS
    assert primary["data_keys"]["sample_x"]["units"] == "um"
    assert made.start["source_run"] == docs.start["uid"]

    files = sorted((tmp_path / "hits").rglob("*.cxi"))
    hits = int(hit_map.hit_fraction.sum())
    assert files
    written = 0
    for path in files:
        assert check_cxi(path) == []
        with h5py.File(path) as file:
            written += len(file["/entry_1/data_1/data"])
            assert (file["/entry_1/result_1/nPeaks"][()] >= 10).all()
    assert written == hits
    assert {path.suffix for path in finding.map.files} == {".png", ".h5"}
