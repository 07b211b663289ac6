"""Turns a skipped test into a failed one where SFDDM_TEST_NO_SKIP=1.

Some tests skip where a program or data set is not installed, which suits a laptop. CI installs everything. There, a skip
means that nobody has run the test. The hooks work in one process and in the workers of pytest-xdist, which make the
reports.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

_VARIABLE = "SFDDM_TEST_NO_SKIP"
Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)


def _refuse_skip(report: Report) -> Report:
    """Return the report, failed if it is one of a skip; an expected failure (xfail) is left alone."""
    if os.environ.get(_VARIABLE) == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} ({_VARIABLE} is set: nothing may be skipped here)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Refuse the skip of one test."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse the skip of a whole file."""
    return _refuse_skip((yield))
