"""A file that hides one of our packages is named."""

import subprocess
import sys
from pathlib import Path


def test_nothing_is_hidden_here():
    from beamline.core.shadowing import shadowed_packages

    assert shadowed_packages() == {}


def test_a_script_of_the_same_name_is_named(tmp_path: Path):
    (tmp_path / "devices.py").write_text("x = 1\n")
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.append({str(root)!r})\n"
        "from beamline.core.shadowing import check_packages\n"
        "check_packages()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"hidden by {tmp_path / 'devices.py'}" in done.stderr.splitlines()[-1]
