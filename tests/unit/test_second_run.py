"""The second run of failed tests of the real stack, with a pytest of its own."""

from pathlib import Path

_CONFIG = f"""
[pytest]
pythonpath = {Path(__file__).parents[1]}
addopts = -p second_run -p no:cacheprovider
markers =
    system: real
timeout = 60
"""


_BROKEN_ONCE = """
import pytest
pytestmark = pytest.mark.system
made = []
@pytest.fixture(scope="module")
def beamline():
    made.append(1)
    return len(made)
def test_first(beamline): assert beamline == 1
def test_broken_beamline(beamline): assert beamline == 2, "the first one is broken"
def test_next(beamline): assert beamline == 2
"""

_BROKEN = """
import time, pytest
pytestmark = pytest.mark.system
@pytest.fixture
def broken(): raise OSError
@pytest.fixture
def unclean():
    yield
    raise OSError
def test_call(): assert 0
def test_setup(broken): pass
def test_teardown(unclean): pass
@pytest.mark.timeout(1)
def test_hang(): time.sleep(30)
"""


def test_a_failure_is_run_again_with_new_fixtures_and_told_and_fails_if_it_stays(
    pytester, monkeypatch
):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini(_CONFIG)
    pytester.makepyfile(
        test_a=_BROKEN_ONCE, test_b=_BROKEN, test_unit="def test_unit(): assert 0\n"
    )
    result = pytester.runpytest_subprocess(timeout=100)
    assert result.ret == 1
    # Of the broken module each test is run twice, of the units none; a teardown fails beside its
    # test, which has passed.
    assert result.parseoutcomes() == {"passed": 4, "failed": 3, "errors": 2, "rerun": 5}
    result.stdout.fnmatch_lines(["*run again: *test_broken_beamline (call)*", "*first one is bro*"])
    result.stdout.fnmatch_lines(["*FAILED *test_hang - Failed: Timeout*"])
