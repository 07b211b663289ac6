"""pyproject.toml names every distribution that the packages import, in `dependencies` or in the extra of the importing file."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "service", "training")

# ONNX Runtime. A server is installed with the extra cpu or gpu, and each of them brings one of these.
RUNTIME = {"onnxruntime", "onnxruntime-gpu"}
# Files that may import what an extra brings. The service does without each of them where the extra is not installed.
EXTRA_OF = {
    "models/export.py": "train",
    "models/network.py": "train",
    "models/runtime/half.py": "gpu",
    "models/runtime/openvino.py": "openvino",
    "service/observability/gpu.py": "gpu",
    "service/observability/tracing.py": "otel",
}
# Modules that the test environment lacks: the extra `gpu` cannot share an environment with `cpu`.
NOT_INSTALLED = {"pynvml": "nvidia-ml-py"}
# In no extra: the evaluation leaves FID out and says what to install.
UNNAMED = {("training/evaluation/features.py", "torch_fidelity")}

FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def canonical(requirement: str) -> str:
    """Return the normalised name of the distribution that a requirement names."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@cache
def named(extra: str | None = None) -> frozenset[str]:
    """Return the distributions of `dependencies`, or those of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return frozenset(map(canonical, requirements))


@cache
def distributions() -> dict[str, set[str]]:
    """Return the distributions that hold each top-level module."""
    installed = {module: set(map(canonical, names)) for module, names in packages_distributions().items()}
    return {module: {name} for module, name in NOT_INSTALLED.items()} | installed


def imported(file: str) -> set[str]:
    """Return the third-party top-level modules that a file imports anywhere: in functions and for the type checker too."""

    def modules() -> Iterator[str]:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module or ""

    return {module.partition(".")[0] for module in modules()} - sys.stdlib_module_names - set(PACKAGES)


def not_named(file: str, modules: set[str]) -> dict[str, set[str]]:
    """Return the modules that no distribution named for this file holds, with the distributions that do."""
    if file.startswith("training/"):
        allowed = named() | named("train")
    else:
        allowed = named() | RUNTIME | (named(EXTRA_OF[file]) if file in EXTRA_OF else set())
    found = {module: distributions().get(module, set()) for module in modules if (file, module) not in UNNAMED}
    return {module: holders for module, holders in found.items() if not holders & allowed}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_of_a_named_distribution(package: str) -> None:
    files = [file for file in FILES if file.startswith(f"{package}/")]
    assert files
    assert {file: missing for file in files if (missing := not_named(file, imported(file)))} == {}


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_extra_brings_onnx_runtime(extra: str) -> None:
    assert named(extra) & RUNTIME


@pytest.mark.parametrize(("file", "extra"), EXTRA_OF.items())
def test_a_file_with_an_extra_imports_something_of_it(file: str, extra: str) -> None:
    assert any(distributions()[module] & (named(extra) - named()) for module in imported(file))


def test_a_forgotten_distribution_is_noticed() -> None:
    assert not_named("service/cli/main.py", {"torch", "numpy", "no_such_module"}) == {
        "torch": {"torch"},
        "no_such_module": set(),
    }
    assert not_named("models/export.py", {"torch"}) == {}
