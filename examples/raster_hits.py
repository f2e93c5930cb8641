"""Raster a sample through the beam and see where the crystals are.

    python examples/raster_hits.py [DIRECTORY] [--columns 15] [--rows 12] [--model spot-network]

A simulated beamline scans a sample whose map has thick grains with holes between them; stills show
a crystal where the grains are. Each frame goes from the detector's file by way of Ray through a
segmentation, its peaks are found, and the hits go into CXI files for CrystFEL. At the end there is
a hit map over x and y, as picture and as NXdata, beside the map that is true.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np

from beamline.core.config import load_settings
from beamline.crystallography.geometry import Detector
from beamline.daq import DeviceClient
from beamline.plans import mesh_scan
from beamline.session import simulated_beamline
from callbacks.raster import HitFinding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path("raster-hits"))
    parser.add_argument("--columns", type=int, default=15)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--model", default="local-background")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    settings = load_settings(
        data_dir=arguments.directory, sample=("Fe2O3-grains",), time_scale=20.0, seed=4
    )
    with simulated_beamline(settings, live_table=False, progress=False) as session:
        server = session.simulation.server.info
        with DeviceClient(server["host"], int(server["port"])) as client:
            truth = client.truth()
            grains = true_map(client.request("TRUTH:MAP:0"))
        found, sample = truth["detector"], truth["samples"][0]
        detector = Detector(
            shape=tuple(found["shape"]),
            distance_m=found["distance_m"],
            pixel_m=(found["pixel_m"],) * 2,
            beam_centre_px=tuple(found["beam_centre_px"]),
        )
        half_x, half_y = 0.45 * sample["width_um"], 0.45 * sample["height_um"]
        bl, engine = session.beamline, session.RE
        with HitFinding(
            arguments.directory / "hits",
            detector,
            model=arguments.model,
            workers=arguments.workers,
        ) as finding:
            token = engine.subscribe(finding)
            engine(
                mesh_scan(
                    [bl.area_detector],
                    *(bl.sample.y, sample["y_um"] - half_y, sample["y_um"] + half_y),
                    arguments.rows,
                    *(bl.sample.x, sample["x_um"] - half_x, sample["x_um"] + half_x),
                    arguments.columns,
                    exposure=0.1,
                )
            )
            engine.unsubscribe(token)
    print(f"frames: {json.dumps(finding.feeder.statistics)}")
    print(f"inference: {finding.report}")
    print(f"written: {json.dumps(finding.written, default=str)}")
    for path in finding.map.files:
        print(path)
    (made,) = finding.map.maps.values()
    expected = seen_by_the_beam(grains, sample, truth["beam"], made.x, made.y)
    measured = made.hit_fraction > 0.5
    print(f"cells with a hit where the sample is thin (< 5 %): {measured[expected < 0.05].sum()}")
    print(f"cells without one where it is thick (> 95 %): {(~measured[expected > 0.95]).sum()}")


def true_map(reply: str) -> np.ndarray:
    """Relative thickness (ny, nx)."""
    ny, nx, full, pixels = reply.split(";")
    return np.array(pixels.split(","), float).reshape(int(ny), int(nx)) / float(full)


def seen_by_the_beam(grains, sample, beam, x, y) -> np.ndarray:
    """Return the thickness under the beam at each cell of the map: a Gaussian mean."""

    def weights(centres, size, pixels, fwhm):
        middle = (np.arange(pixels) + 0.5) * size / pixels - 0.5 * size
        return np.exp(-4 * np.log(2) * ((middle - centres[:, None]) / fwhm) ** 2)

    ny, nx = grains.shape
    across = weights(x - sample["x_um"], sample["width_um"], nx, beam["fwhm_x_um"])
    down = weights(y - sample["y_um"], sample["height_um"], ny, beam["fwhm_y_um"])
    return (down @ grains @ across.T) / np.outer(down.sum(axis=1), across.sum(axis=1))


if __name__ == "__main__":
    main()
