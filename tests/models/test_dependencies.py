"""Only the files that training and export reach import torch; models imports no other room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "models"
FILES = sorted(path.relative_to(MODELS).as_posix() for path in MODELS.rglob("*.py"))
WITH_TORCH = {"export.py", "network.py"}


def _imports(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("file", FILES)
def test_imports(file: str) -> None:
    imported = _imports(MODELS / file)
    assert ("torch" in imported) == (file in WITH_TORCH)
    assert not imported & {"service", "training"}
