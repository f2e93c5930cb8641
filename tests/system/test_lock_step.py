"""In lock step a seed gives the same data through IOC and RunEngine, bit for bit."""

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import pytest

pytestmark = [pytest.mark.system, pytest.mark.slow]

# XAFS, a mesh, a flight and stills: all that moves, counts, exposes and opens shutters.
SESSION = """
    import json, sys
    from pathlib import Path
    from beamline.core.config import load_settings
    from beamline.session import simulated_beamline
    settings = load_settings(
        data_dir=Path("data"), lock_step=True, seed=int(sys.argv[1]), sample="Cu",
        environment={},
    )
    found, flight = [], {}
    def keep(name, doc):
        if name == "event":
            found.append(doc["data"])
        elif name == "event_page":
            # How a flight is cut into pages depends on when it is asked for them.
            for key, values in doc["data"].items():
                flight.setdefault(key, []).extend(values)
        elif name == "stop":
            found.append([doc["exit_status"], doc["num_events"]])
        elif name == "stream_resource":
            print("FRAMES", doc["uri"].removeprefix("file://localhost"))
    with simulated_beamline(settings, live_table=False, progress=False) as session:
        bl, plans = session.beamline, session.plans
        session.RE.subscribe(keep)
        session.RE(plans.xafs_scan(bl, "Cu", regions=[(-40, 40, 2, 0.5), (40, 200, 20, 1)]))
        session.RE(plans.mesh_scan(
            [bl.counters], bl.sample.y, -400, 0, 4, bl.sample.x, 300, 500, 6, exposure=0.1))
        session.RE(plans.fly_scan(bl.sample.x, 300, 500, 100, dwell=0.05))
        session.RE(plans.stills(bl.area_detector, 4, exposure=0.1, detectors=[bl.counters]))
    print("DATA", json.dumps([*found, flight]))
"""


def run(folder: Path, seed: int) -> "subprocess.Popen[str]":
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SESSION), str(seed)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(process: "subprocess.Popen[str]") -> tuple[list, str]:
    """What the events hold, and a digest of the frames."""
    with process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    lines = dict(line.split(" ", 1) for line in out.splitlines() if line[:5] in ("FRAME", "DATA "))
    with h5py.File(lines["FRAMES"], "r") as file:
        frames = file["/entry/data/data"][()]
    assert frames.shape[0] == 4
    assert frames.max() > 0
    return json.loads(lines["DATA"]), hashlib.sha256(frames.tobytes()).hexdigest()


def test_a_seed_repeats_a_session_exactly(tmp_path):
    processes = [run(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 5))]
    first, again = (outcome(process) for process in processes)
    events = [entry for entry in first[0] if isinstance(entry, dict)]
    assert len(events) > 49 + 24 + 4
    assert [entry[0] for entry in first[0] if isinstance(entry, list)] == ["success"] * 4
    assert len(first[0][-1]["itrans"]) == 100
    assert first == again
