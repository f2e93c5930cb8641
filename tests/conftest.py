"""What holds for all tests."""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "second_run"]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile(
    "beamline", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True,
    max_examples=40,
)  # fmt: skip
settings.register_profile("thorough", settings.get_profile("beamline"), max_examples=400)
settings.load_profile("beamline")


def _forbid_skip(report):
    """Fail what is skipped where all must be there (``make viewers``, ``make queueserver``)."""
    if report.skipped and os.environ.get("FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which FORBID_SKIPS forbids: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    _forbid_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    _forbid_skip(outcome.get_result())
