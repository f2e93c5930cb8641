"""The main job, as a user runs it: `beamline demo` in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from nexus_validators import COMMUNITY, OFFICIAL, Validators, default_plot

from beamline.nexus.compare import compare_files

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "data" / "Cu_Foil_rt_2016Foils.xdi"


def demo(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beamline", "demo", "--output-dir", str(output), *arguments],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that inherited the mark of a test."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"TEST_MARK={folder}" in environment:
                found.append(line)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "out"
    done = demo(output)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def test_everything_found_agrees_with_the_truth(finished: Path):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["passed"]
    names = {item["name"] for item in summary["findings"]}
    assert {"Cu K edge energy", "edge step", "spots found", "false spots"} <= names
    assert all(item["passed"] for item in summary["findings"])
    assert summary["replay"]["equal"]
    assert [run["plan_name"] for run in summary["runs"]] == [
        "linear_scan", "linear_scan", "mesh_scan", "xafs_scan", "stills",
    ]  # fmt: skip


def test_every_file_of_the_summary_is_there(finished: Path):
    summary = json.loads((finished / "summary.json").read_text())
    assert len([name for name in summary["files"] if name.endswith(".nxs")]) >= 6
    assert any(name.endswith(".cxi") for name in summary["files"])
    assert len([name for name in summary["files"] if name.endswith(".png")]) == 5
    for name in summary["files"]:
        assert (finished / name).stat().st_size > 0
    assert not list(finished.rglob("*.part"))
    assert not list(finished.rglob("*.inprogress"))


def test_the_files_are_open_to_plain_h5py(finished: Path):
    for path in finished.rglob("*.nxs"):
        with h5py.File(path, "r") as file:
            assert file.attrs["default"] == "entry"
            default = file["entry"][file["entry"].attrs["default"]]
            assert default.attrs["signal"] in default


@pytest.mark.parametrize("definitions", [OFFICIAL, COMMUNITY])
def test_the_xafs_file_is_valid_under_both_definitions(
    finished: Path, definitions: str, validators: dict[str, Validators]
):
    (path,) = (finished / "nexus").glob("*xafs_scan*.nxs")
    assert validators[definitions].application(path, "NXxas").errors == []


def test_silx_finds_every_default_plot(finished: Path):
    kinds = {}
    for path in (finished / "nexus").glob("*.nxs"):
        plot = default_plot(path)
        kinds[path.name.split("_", 1)[1].rsplit("_", 1)[0]] = plot["signal"].ndim
    assert kinds == {"linear_scan": 1, "mesh_scan": 2, "xafs_scan": 1, "stills": 3}


def test_a_fresh_process_writes_every_file_again(finished: Path, tmp_path: Path):
    for live in sorted((finished / "nexus").glob("*.nxs")):
        scan_id = str(int(live.name.split("_")[0]))
        done = subprocess.run(
            [*(sys.executable, "-m", "beamline", "replay", scan_id, "--to", "nexus"),
             str(tmp_path), "--data-dir", str(finished)],
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert compare_files(live, tmp_path / live.name) == []


@pytest.mark.slow
def test_a_measured_spectrum_comes_back(tmp_path: Path):
    if not MEASURED.exists():
        pytest.skip(f"needs the measured copper foil {MEASURED.name}, which is not in the project")
    done = demo(tmp_path / "out", "--sample", str(MEASURED))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out" / "nexus").glob("*xafs_scan*.nxs")
    with h5py.File(path, "r") as file:
        energy, mut = file["entry/data/energy"][()], file["entry/data/intensity"][()]
    measured = np.loadtxt(MEASURED)
    truth = np.log(measured[:, 2] / measured[:, 1])
    from beamline.analysis.xafs import XAFSProcessor

    found, expected = (
        XAFSProcessor().normalize(energy, mut),
        XAFSProcessor().normalize(measured[:, 0], truth, e0=8980.1),
    )
    assert found.e0 == pytest.approx(8980.1, abs=0.5)
    inside = (energy > measured[0, 0]) & (energy < measured[-1, 0])
    overlay = np.interp(energy[inside], measured[:, 0], expected.norm)
    assert np.sqrt(np.mean((found.norm[inside] - overlay) ** 2)) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "seconds"),
    [("Starting", 0.7),
     pytest.param("Line scan of sample_y", 1.0, marks=pytest.mark.slow),
     pytest.param("Starting", 3.0, marks=pytest.mark.slow),
     pytest.param("XAFS scan", 0.5, marks=pytest.mark.slow),
     pytest.param("Replay", 0.2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_an_interrupt_leaves_no_process_and_valid_files(tmp_path: Path, line: str, seconds: float):
    process = subprocess.Popen(
        [sys.executable, "-m", "beamline", "demo", "--output-dir", str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TEST_MARK": str(tmp_path)},
        # A shell lets its background jobs, and so the tests in one, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    while line not in (told := process.stdout.readline()):
        assert told, f"the demo ended before {line!r}"
    time.sleep(seconds)
    assert len(processes_of(tmp_path)) >= 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    deadline = time.monotonic() + 60
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
    assert not list((tmp_path / "out" / "nexus").glob("*.part"))
    assert not list((tmp_path / "out" / "cxi").glob("*.inprogress"))
    for path in (tmp_path / "out" / "nexus").glob("*.nxs"):
        with h5py.File(path, "r") as file:
            assert file["entry/exit_status"][()] in (b"success", b"abort")
