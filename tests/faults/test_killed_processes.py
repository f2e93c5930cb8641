"""A killed IOC or device server ends a scan with a sentence, and its files say so."""

import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import pytest
from simulated_beamline import PROMISED

pytestmark = [pytest.mark.system, pytest.mark.faults]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", [pytest.param("ioc", marks=pytest.mark.slow), "server"])
def test_a_scan_fails_with_the_name_of_the_pv(tmp_path: Path, victim: str):
    code = f"""
        import time
        from pathlib import Path
        from beamline.core.config import load_settings
        from beamline.session import simulated_beamline
        settings = load_settings(data_dir=Path("data"), time_scale=50.0)
        with simulated_beamline(settings, live_table=False, progress=False) as session:
            bl = session.beamline
            killed = []
            def kill_in_the_middle(name, doc):
                if name == "event" and doc["seq_num"] == 20:
                    session.simulation.{victim}.kill()
                    killed.append(time.monotonic())
            session.RE.subscribe(kill_in_the_middle)
            try:
                session.RE(session.plans.linear_scan([bl.counters], bl.sample.x, -900, 900, 400))
            except Exception as error:
                print("ERROR", time.monotonic() - killed[0], str(error).replace(chr(10), " "))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=220,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert told, done.stdout + done.stderr
    _, seconds, text = told[0].split(" ", 2)
    assert float(seconds) < PROMISED
    assert "BL02:" in text
    (path,) = (tmp_path / "data" / "nexus").glob("*.nxs")
    with h5py.File(path, "r") as file:
        assert file["entry/exit_status"][()] == b"fail"
        assert b"BL02:" in file["entry/reason"][()]
        assert len(file["entry/data/i0"]) == 20
