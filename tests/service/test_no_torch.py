"""The service runs without torch and without the training room."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SERVE_ONE_REQUEST = """
import importlib.abc, sys

FORBIDDEN = {"torch", "training", "diffusers", "accelerate", "transformers", "onnx"}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} does not exist here", name=name)

sys.meta_path.insert(0, Refuse())

import asyncio, httpx
import service.cli.main, service.cli.local
from service.api.app import create_app
from service.settings.model import Settings
from pathlib import Path

async def main():
    app = create_app(Settings(zoos=(Path(sys.argv[1]),), threads=1))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        answer = await client.post("/v1/images/generations", json={"prompt": "dog", "model": "tiny/student-004"})
        assert answer.status_code == 200, answer.text

asyncio.run(main())
assert not FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
print("served")
"""


def test_it_serves_a_request_without_torch(tiny_zoo: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SERVE_ONE_REQUEST, str(tiny_zoo)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "served"


def test_no_file_of_the_service_imports_torch_or_training() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "service").rglob("*.py")
        for name in _imports(path)
        if name.partition(".")[0] in {"torch", "training", "diffusers"}
    }
    assert not found


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names
