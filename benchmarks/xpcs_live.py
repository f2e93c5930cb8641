"""How far g2 is behind the detector: 200 frames/s of 512 × 512 through the whole path.

Device server, IOC with its file writer, RunEngine with the plan `xpcs_series` and the consumer
`callbacks.xpcs.XPCSWriter` in this process; 20 bins of q, 8 levels, a picture every 2 s. The lag of
a g2 document is the time from the end of the newest exposure in it until the document is out. Run
with ``python benchmarks/xpcs_live.py [SECONDS]`` (10).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from beamline.core.config import load_settings
from beamline.core.epics import client_environment
from beamline.core.processes import free_port

PORT = free_port()
os.environ.update(client_environment(PORT))

import numpy as np  # noqa: E402
from bluesky import RunEngine  # noqa: E402

from beamline.plans import xpcs_series  # noqa: E402
from beamline.simulation import start_ioc  # noqa: E402
from callbacks.xpcs import XPCSWriter  # noqa: E402
from devices import Beamline  # noqa: E402
from ioc.simulator import start_device_server  # noqa: E402

RATE, EXPOSURE = 200, 0.004


def measure(bl, engine, folder: Path, seconds: float, *, sparse: bool) -> None:
    lags, frames = [], []

    def note(name, doc):
        if name == "event" and "newest_frame" in doc["data"]:
            lags.append(time.time() - doc["data"]["newest_frame"] - EXPOSURE)
            frames.append(doc["data"]["frames"])

    writer = XPCSWriter(folder, q_range=(0.3, 5.0), sinks=[note])
    token = engine.subscribe(writer)
    number = int(seconds * RATE)
    began = time.time()
    engine(
        xpcs_series(
            bl.area_detector, number, exposure=EXPOSURE, period=1 / RATE, sparse=sparse,
            attenuation=0.0005 if sparse else 0.02,
        )
    )  # fmt: skip
    took = time.time() - began
    engine.unsubscribe(token)
    late = int(bl.area_detector.late_frames.get())
    during = np.array(lags[:-1])
    print(
        f"{'sparse' if sparse else 'dense ':7} {number} frames in {took:.1f} s ({late} late): "
        f"{len(during)} g2 documents during the run, lag median {np.median(during):.3f} s, "
        f"95 % {np.percentile(during, 95):.3f} s, largest {during.max():.3f} s; "
        f"{writer.statistics['missing']} frames missing",
        flush=True,
    )
    if writer.errors:
        print("  ", writer.errors[0])


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load_settings(environment={}, ioc_port=PORT)
        server = start_device_server(log=folder / "server.log")
        ioc = start_ioc(settings, f"127.0.0.1:{server.info['port']}", folder)
        try:
            bl = Beamline(settings.prefix, frames_dir=folder / "frames")
            bl.connect(timeout=30)
            bl.area_detector.sim_mode.set("Speckle").wait(10)
            # Drawing 200 frames of this size a second is too much; repeated ones cost nothing.
            bl.area_detector.preload.set(32).wait(10)
            engine = RunEngine({}, context_managers=[])
            for sparse in (True, False):
                # The first is for compiled functions and for the frames that are repeated.
                measure(bl, engine, folder / "warm", 1.0, sparse=sparse)
                measure(bl, engine, folder / "xpcs", seconds, sparse=sparse)
            bl.destroy()
        finally:
            ioc.stop()
            server.stop()


if __name__ == "__main__":
    main()
