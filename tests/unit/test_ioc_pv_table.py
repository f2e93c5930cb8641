"""The table of all PVs, on the command line and in the documentation."""

import subprocess
import sys
from pathlib import Path

import pytest

from beamline.core.pvs import PVS
from ioc.__main__ import main
from ioc.database import Database

PAGE = Path(__file__).parents[2] / "docs" / "pvs.md"


def test_the_page_in_the_documentation_is_what_the_database_says(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["--list-pvs", "--format", "md"]) == 0
    assert PAGE.read_text() == capsys.readouterr().out, "run: make docs-pvs"


def test_every_record_is_in_the_page_and_has_a_description():
    page = PAGE.read_text()
    for record in Database("", "127.0.0.1", 1).records:
        assert f"`{record.name}`" in page, f"{record.name}: run make docs-pvs"
        assert record.fields["DESC"].current, f"{record.name} has no DESC: see ioc/descriptions.py"


def test_the_table_tells_type_unit_range_and_description(capsys: pytest.CaptureFixture[str]):
    assert main(["--list-pvs", "--format", "table", "--prefix", "XY:"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["PV", "record", "unit", "range", "put", "description"]
    found = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert len(found) == len(lines) == len(Database("XY:", "h", 1).records)
    assert {f"XY:{row.suffix}" for row in PVS} <= found.keys()
    assert found["XY:SAMPLE:X"] == "motor um -10000 to 10000 w Sample horizontal"
    assert found["XY:RING:CURRENT"] == "ai mA 0 to 400 Storage ring current"
    assert found["XY:SHUTTER:CMD"] == "bo Close, Open w Photon shutter command"
    assert found["XY:SCALER1"] == "scaler counts w Counters"


def test_the_command_lists_pvs():
    done = subprocess.run(
        [sys.executable, "-m", "beamline", "ioc", "--list-pvs", "--prefix", "XY:"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    names = done.stdout.splitlines()
    assert names == sorted(record.name for record in Database("XY:", "h", 1).records)
