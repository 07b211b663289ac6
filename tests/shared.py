"""Folders that the worker processes of one test run share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of this test run, the same in each worker of pytest-xdist."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name`, filled by `make(folder)` in the first worker that asks; the others wait for it.

    What `make` writes must be read-only by agreement, and must not hold the folder's own path: the folder is renamed when
    it is complete, so that a failed attempt leaves nothing behind for the next worker.
    """
    folder = shared_root(factory) / name
    with FileLock(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            attempt = folder.with_name(f"{name}.attempt")
            shutil.rmtree(attempt, ignore_errors=True)
            attempt.mkdir()
            make(attempt)
            attempt.rename(folder)
    return folder
