"""The second run of failed tests of the real stack, with a pytest of its own."""

from pathlib import Path

import pytest

_CONFIG = f"""
[pytest]
pythonpath = {Path(__file__).parents[1]}
addopts = -p second_run -p no:cacheprovider
markers =
    system: real
timeout = 2
"""


@pytest.fixture
def project(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini(_CONFIG)
    return pytester


def run(project, body):
    project.makepyfile("import pathlib, time, pytest\n" + body)
    return project.runpytest_subprocess(timeout=60)


def test_a_failure_is_run_again_with_fixtures_made_anew_and_is_told(project):
    result = run(
        project,
        """
made = []
@pytest.fixture(scope="module")
def beamline():
    made.append(1)
    return len(made)
@pytest.mark.system
def test_first(beamline): assert beamline == 1
@pytest.mark.system
def test_broken_beamline(beamline): assert beamline == 2, "the first one is broken"
@pytest.mark.system
def test_next(beamline): assert beamline == 2
""",
    )
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 3, "rerun": 1}
    result.stdout.fnmatch_lines(["*run again: *test_broken_beamline (call)*", "*first one is bro*"])


def test_what_fails_twice_fails(project):
    result = run(
        project,
        """
@pytest.mark.system
def test_call(): assert 0
@pytest.fixture
def broken(): raise OSError
@pytest.mark.system
def test_setup(broken): pass
@pytest.fixture
def unclean():
    yield
    raise OSError
@pytest.mark.system
def test_teardown(unclean): pass
@pytest.mark.system
def test_hang():
    time.sleep(30)
""",
    )
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["errors"], outcomes["rerun"]) == (2, 2, 4)
    result.stdout.fnmatch_lines(["*FAILED *test_hang - Failed: Timeout*"])


def test_units_are_run_once(project):
    result = run(project, "def test_unit(): assert 0\n")
    assert result.ret == 1
    assert result.parseoutcomes() == {"failed": 1}
