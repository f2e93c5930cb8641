"""XPCS on the simulated beamline: g2 while frames come, and the diffusion constant at the end.

Run with ``python examples/xpcs_live.py [FRAMES] [FOLDER]`` (2000 xpcs-example). It takes a series
of photon events of spheres that diffuse with a known constant, prints g2 of some bins while the run
goes on, and compares D with the truth. In FOLDER/example are the result file and its picture.
"""

import sys

import numpy as np

from beamline.core.config import load_settings
from beamline.daq import DeviceClient
from beamline.session import simulated_beamline
from callbacks.xpcs import XPCSWriter


def show(name: str, doc: dict) -> None:
    """Take the documents of g2."""
    if name != "event":
        return
    data = doc["data"]
    if "g2" in data:
        g2 = np.array(data["g2"])[0]
        print(f"{data['frames']:6d} frames   g2(first lag) of the first bins: {g2[:4].round(3)}")
    elif "D" in data:
        print(f"D = {data['D']:.1f} ± {data['D_err']:.1f} Å²/s from {data['n_bins']} bins")


def main() -> None:
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    folder = sys.argv[2] if len(sys.argv) > 2 else "xpcs-example"
    writer = XPCSWriter(
        f"{folder}/example",
        n_dynamic=12,
        n_static=60,
        q_range=(0.5, 3.0),
        interval=1.0,
        sinks=[show],
    )
    settings = load_settings(data_dir=folder, time_scale=2.0)
    with simulated_beamline(settings, live_table=False, progress=False) as session:
        detector = session.beamline.area_detector
        detector.sim_mode.set("Speckle").wait(10)
        session.RE.subscribe(writer)
        session.RE(
            session.plans.xpcs_series(
                detector, frames, exposure=0.002, period=0.01, attenuation=0.0015, sparse=True
            )
        )
        server = session.simulation.server.info
        with DeviceClient(server["host"], int(server["port"])) as client:
            truth = client.truth()["detector"]["speckle"]["diffusion_A2_per_s"]
    print(f"truth: {truth:.1f} Å²/s")
    for path in (*writer.files, *writer.pictures):
        print(path)


if __name__ == "__main__":
    main()
