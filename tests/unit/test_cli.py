"""The command line: help without heavy imports, errors as one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("bluesky", "ophyd", "epics", "caproto", "tiled", "databroker", "h5py", "matplotlib",
         "numpy", "ray", "torch", "jax")  # fmt: skip


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beamline", *arguments],
        capture_output=True, text=True, check=False, timeout=60, **options,
    )  # fmt: skip


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in ("demo", "ipython", "server", "ioc", "runs", "replay", "catalog", "doctor"):
        assert f"\n  {command} " in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom beamline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command", ["demo", "ipython", "server", "ioc", "runs", "replay", "catalog", "doctor"]
)
def test_every_command_has_help(command: str):
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: beamline" in done.stdout


def test_an_unknown_command_is_an_error():
    assert run("dance").returncode == 2


def test_an_unknown_setting_is_one_sentence(tmp_path: Path):
    (tmp_path / "settings.yaml").write_text("sampel: Cu\n")
    done = run("server", "--config", str(tmp_path / "settings.yaml"))
    assert done.returncode == 1
    assert done.stderr.startswith("beamline: unknown setting 'sampel' in ")
    assert len(done.stderr.splitlines()) == 1


def test_a_foreign_folder_is_not_emptied(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run("demo", "--output-dir", str(tmp_path))
    assert done.returncode == 1
    assert "was not made by 'beamline demo'" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_doctor_explains_the_settings():
    done = run("doctor")
    assert "time_scale" in done.stdout
    assert "✓ Python" in done.stdout
