"""Tests against the viewers that people use; skipped where those are not installed.

With ``REQUIRE_VIEWERS=1`` (``make xpcs-viewers``) a skip is a failure.
"""

import os

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_VIEWERS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which REQUIRE_VIEWERS forbids: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_VIEWERS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which REQUIRE_VIEWERS forbids: {report.longrepr}"
