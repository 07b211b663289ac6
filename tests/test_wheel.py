"""The wheel: it holds what a server needs, installs into an empty environment, and serves from outside the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from models.catalogue import default_zoo
from models.manifest import GRAPH
from tests.e2e.conftest import PATIENCE_S, ROOT, serving

pytestmark = pytest.mark.e2e

PACKAGES = ("models", "service", "training")
ZOO = "models/zoo/"


def run(*command: str | Path) -> str:
    """Return what a command printed; it must succeed."""
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as a release does: from the sdist, which proves that the sdist is complete too."""
    source = tmp_path_factory.mktemp("source")  # setuptools writes beside what it builds
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    run(sys.executable, "-m", "build", "--no-isolation", source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a new environment and return its `bin`; dependencies come from this environment."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, symlinks=True)
    run(sys.executable, "-m", "pip", "--python", environment, "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/*/site-packages")
    # A path file adds one folder, not the path files in it. The editable install of this checkout is one of those.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def test_it_holds_the_shipped_zoo_once(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = Counter(archive.namelist())
        shipped = {
            path.relative_to(ROOT).as_posix(): path.stat().st_size for path in default_zoo().rglob("*") if path.is_file()
        }
        assert {name: archive.getinfo(name).file_size for name in names if name.startswith(ZOO)} == shipped
    assert max(names.values()) == 1
    assert sum(name.endswith(f"/{GRAPH}") for name in names) == len(list(default_zoo().rglob(GRAPH)))


def test_it_holds_the_three_packages_with_their_types_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    (metadata,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, metadata}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {"service/page/index.html", f"{metadata}/licenses/LICENSE"} <= set(names)
    configurations = {f"training/configs/{path.name}" for path in (ROOT / "training" / "configs").glob("*.toml")}
    assert configurations
    assert configurations <= set(names)


def test_its_version_is_that_of_pyproject(wheel: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert wheel.name.startswith(f"sfddm_serve-{version}-")


def test_it_serves_the_shipped_models_from_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = "import models, service; print(models.__file__, service.__file__)"
    for file in run(installed / "python", "-I", "-c", where).split():
        assert Path(file).is_relative_to(installed.parent)
    program = [str(installed / "sfddm")]
    quick = ("--max-batch", "2", "--threads", "1")  # fewer batch sizes to calibrate
    with serving(tmp_path / "log", *quick, program=program, PYTHONPATH="") as server:  # ready: /readyz answered 200
        body = {"model": "fashion-mnist/student-004", "seed": 1}
        image = httpx.post(
            f"{server.url}/v1/images/generations", json=body, headers={"accept": "image/png"}, timeout=PATIENCE_S
        )
        assert image.status_code == 200
        assert image.content.startswith(b"\x89PNG")
