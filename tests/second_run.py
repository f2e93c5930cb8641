"""A failed test of the real stack is run once more, from fresh fixtures, and that is told.

Between a test and the device server lie libca, pyepics, ophyd and bluesky with their threads; on a
loaded machine one of them loses a callback once in thousands of tests. The first failure stays
visible: it is counted as ``rerun``, and its traceback is printed at the end.
"""

from __future__ import annotations

import contextlib

import pytest
from _pytest.runner import runtestprotocol

_SECOND = pytest.StashKey[bool]()
_OUTCOME = "rerun"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if item.get_closest_marker("system") is None or _SECOND in item.stash:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    failed = [report for report in reports if report.failed]
    for report in failed:
        report.outcome = _OUTCOME
    for report in failed or reports:
        item.ihook.pytest_runtest_logreport(report=report)
    if failed:
        # A beamline of the whole module may be what is broken.
        with contextlib.suppress(Exception):
            item.session._setupstate.teardown_exact(None)
        item.stash[_SECOND] = True
        item._initrequest()
        # As a whole, so that the time limit of the test begins anew.
        item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
    else:
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_report_teststatus(report):
    if report.outcome == _OUTCOME:
        return _OUTCOME, "R", ("RERUN", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get(_OUTCOME, ()):
        terminalreporter.section(f"run again: {report.nodeid} ({report.when})", yellow=True)
        terminalreporter.write_line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.section(title, sep="-")
            terminalreporter.write_line(text)
