"""The session as people use it: a script or notebook, and the IPython profile."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# Each session runs in a Python of its own: Channel Access reads its environment once.
PREAMBLE = """
from pathlib import Path
from beamline.core.config import load_settings
from beamline.session import simulated_beamline
settings = load_settings(data_dir=Path("data"), time_scale=50.0)
"""


def script(code: str, folder: Path, timeout: float = 220) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip


def test_one_line_gives_a_beamline(tmp_path: Path):
    done = script(
        """
        session = simulated_beamline(settings, progress=False)
        RE, bl = session.RE, session.beamline
        from bluesky.plans import count
        starts = []
        RE(count([bl.counters]), lambda name, doc: name == "start" and starts.append(doc))
        print("count of", starts[0]["sample"], starts[0]["motors"], starts[0]["detectors"])
        print("at", starts[0]["instrument"]["monochromator"]["type"], starts[0]["plan_name"])
        (uid,) = RE(session.plans.linear_scan([bl.counters], bl.sample.x, -500, 500, 5))
        session.store.wait_for_catalog(uid, 60)
        run = session.catalog[-1]
        print("plan", run.metadata["start"]["plan_name"])
        print("points", run["primary"].read()["i0"].shape)
        print("documents", [name for name, _ in run.documents()][0])
        print("files", sorted(p.suffix for p in session.store.nexus.files))
        session.close()
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # Bluesky's own plans know no sample and no instrument: the session adds them.
    assert "count of {'name': 'Cu', 'formula': 'Cu'} [] ['counters']" in done.stdout
    assert "at Si count" in done.stdout
    assert "plan linear_scan" in done.stdout
    assert "points (5,)" in done.stdout
    assert "documents start" in done.stdout
    assert "files ['.nxs', '.nxs']" in done.stdout
    assert "sample_x" in done.stdout  # the live table


@pytest.mark.slow
def test_a_session_publishes_its_documents(tmp_path: Path):
    done = script(
        """
        from beamline.documents.network import DocumentSubscriber

        settings = settings.model_copy(update={"callbacks_address": "127.0.0.1:0"})
        with simulated_beamline(settings, live_table=False, progress=False) as session:
            emitted, received = [], []
            session.RE.subscribe(lambda name, doc: emitted.append((name, doc["uid"])))
            subscriber = DocumentSubscriber(session.publisher.address)
            bl = session.beamline
            session.RE(session.plans.linear_scan([bl.counters], bl.sample.x, 0, 1, 3))
            for _ in range(600):
                received += [(item.name, item.doc["uid"]) for item in subscriber.receive(0.1)]
                if len(received) == len(emitted):
                    break
            subscriber.close()
            print("received", received == emitted, len(received) > 6)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "received True True" in done.stdout


@pytest.mark.slow
def test_scan_numbers_go_on_after_a_restart(tmp_path: Path):
    code = """
        with simulated_beamline(settings, live_table=False, progress=False) as session:
            bl = session.beamline
            session.RE(session.plans.linear_scan([bl.counters], bl.sample.x, 0, 1, 2))
            print("scan", session.RE.md["scan_id"])
        """
    assert "scan 1" in script(code, tmp_path).stdout
    assert "scan 2" in script(code, tmp_path).stdout


def test_an_unwritable_data_directory_is_one_sentence(tmp_path: Path):
    (tmp_path / "data").write_text("a file stands in the way")
    done = subprocess.run(
        [sys.executable, "-m", "beamline", "demo", "--output-dir", str(tmp_path / "data")],
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode != 0
    assert "data" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_profile_opens_in_ipython(tmp_path: Path):
    magic = "get_ipython().run_line_magic('wa', '')"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "beamline", "ipython", "--data-dir", str(tmp_path)),
            *("--time-scale", "50", "--"),
            *("-c", f"RE(linear_scan([counters], sample.x, 0, 10, 3)); {magic}"),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=220,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "linear_scan" in done.stdout
    # The magic knows motors and detectors by their labels.
    where_all = done.stdout.split("End-of-run baseline readings")[-1]
    assert "sample_x" in where_all
    assert "mono_energy" in where_all
    assert "detectors" in where_all
