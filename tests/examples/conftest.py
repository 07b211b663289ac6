"""Helpers that run the programs of examples/ as their readers do: each as a process, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.catalogue import default_zoo
from tests.e2e.conftest import PATIENCE_S, ROOT, Server, serving

EXAMPLES = ROOT / "examples"
SERVED = ("teacher", "student-016", "student-004")  # what the examples name; a server of few models starts sooner
EXPERIMENTS = {"fashion/steps": {"arms": {"fashion-mnist/student-016": 1, "fashion-mnist/student-004": 1}}}


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the shipped models that the examples name, with the experiment that examples/experiment.py needs."""
    folder = tmp_path_factory.mktemp("examples")
    family = folder / "zoo" / "fashion-mnist"
    family.mkdir(parents=True)
    for name in SERVED:
        (family / name).symlink_to(default_zoo() / "fashion-mnist" / name, target_is_directory=True)
    options = ("--zoo", str(folder / "zoo"), "--threads", "1")
    with serving(folder / "log", *options, SFDDM_EXPERIMENTS=json.dumps(EXPERIMENTS)) as server:
        yield server


def environment(server: Server) -> dict[str, str]:
    """Return the environment without settings of the server, and with SERVER_URL, its address."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SFDDM_")} | {"SERVER_URL": server.url}


def start(name: str, server: Server, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start one example in `folder`, where it writes its files."""
    program = ["sh"] if name.endswith(".sh") else [sys.executable]
    return subprocess.Popen(
        [*program, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=environment(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(example: subprocess.Popen[str]) -> list[str]:
    """Wait for an example and return the lines that it printed. It must succeed and write nothing to stderr."""
    try:
        printed, complaints = example.communicate(timeout=PATIENCE_S)
    finally:
        example.kill()
    assert (example.returncode, complaints) == (0, "")
    return printed.splitlines()


def run(name: str, server: Server, folder: Path) -> list[str]:
    """Run one example to its end and return the lines that it printed."""
    return finish(start(name, server, folder))
