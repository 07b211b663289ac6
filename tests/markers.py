"""Marks tests by what they need, and lets the slowest files start first.

The markers are described in pyproject.toml. A test gets one in three ways, here wherever possible:

- by a fixture that it uses,
- by the folder or the name of its file,
- by `pytest.mark` in the file, where neither tells it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent
BY_FIXTURE = {"browser": "browser", "redis_server": "redis"}
BY_FOLDER = {"e2e": "e2e", "examples": "e2e", "training": "training"}
# The longest first: a worker that begins one of these files last would finish long after the others.
SLOWEST_FIRST = ("container", "prometheus", "training", "browser", "e2e", "redis")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in _needs(item):
            item.add_marker(marker)
    rank: dict[Path, int] = {}
    for item in items:
        rank[item.path] = min(rank.get(item.path, len(SLOWEST_FIRST)), _rank(item))
    items.sort(key=lambda item: rank[item.path])  # a stable sort: the tests of a file stay together


def _needs(item: pytest.Item) -> set[str]:
    """Return the markers that follow from a test's fixtures, parameters and file."""
    fixtures = getattr(item, "fixturenames", ())
    found = {marker for fixture, marker in BY_FIXTURE.items() if fixture in fixtures}
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if parameters.get("store") == "redis" or item.path.stem.startswith("test_redis"):
        found.add("redis")
    return found | {marker for folder, marker in BY_FOLDER.items() if item.path.is_relative_to(ROOT / folder)}


def _rank(item: pytest.Item) -> int:
    """Return the place of a test's slowest marker in SLOWEST_FIRST, or its length for a test without one."""
    names = {marker.name for marker in item.iter_markers()}
    return next((rank for rank, name in enumerate(SLOWEST_FIRST) if name in names), len(SLOWEST_FIRST))
