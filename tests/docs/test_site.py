"""The documentation site builds strictly, loads nothing from another host, and its reference is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main

from models.manifest import Manifest
from service.cli.main import app as service_app
from service.settings.model import Settings
from training.cli import app as training_app

ROOT = Path(__file__).parents[2]
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site. Strictly: a broken link fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


class Loads(HTMLParser):
    """Collects what a browser loads by itself for a page: scripts, styles, fonts, images, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.classes |= set(given.get("class", "").split())
        if tag == "link" and LOADING_LINKS & set(given.get("rel", "").split()):
            self.urls.append(given.get("href", ""))
        if tag in {"script", "img", "source", "iframe", "video", "audio", "embed", "track", "input"}:
            self.urls += [
                given.get("src", ""),
                *(part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()),
            ]
        self.urls += styled(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.urls += styled(data)


def styled(css: str) -> list[str]:
    """Return the urls that a style sheet loads."""
    return [url for found in re.findall(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""", css) for url in found if url]


def pages(site: Path) -> Iterator[Path]:
    return (path for path in site.rglob("*.html"))


def elsewhere(urls: list[str]) -> list[str]:
    return [url for url in urls if re.match(r"(?:[a-z][a-z0-9+.-]*:)?//", url, re.IGNORECASE)]


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    found = 0
    for path in pages(site):
        loads = Loads()
        loads.feed(path.read_text())
        assert not elsewhere(loads.urls), path
        assert not loads.classes & {"mermaid", "glightbox"}, f"{path}: the theme's script would fetch what draws it"
        found += len(loads.urls)
    assert found > 100
    for path in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        assert not elsewhere(styled(path.read_text())), path


def test_no_path_of_this_machine_is_published(site: Path) -> None:
    for path in pages(site):
        text = path.read_text()
        assert str(ROOT) not in text, path
        assert f"{Path.home()}/" not in text, path


def test_the_reference_is_complete(site: Path) -> None:
    http = (site / "reference" / "http" / "index.html").read_text()
    for route in ("POST /v1/images/generations", "GET /v1/models/{model_id}", "DELETE /v1/jobs/{job_id}", "GET /metrics"):
        assert route in http
    for field in ("max_latency_ms", "partial_images", "service_tier", "ms_per_step"):
        assert f"<code>{field}</code>" in http
    settings = (site / "reference" / "configuration" / "index.html").read_text()
    for name in Settings.model_fields:
        assert f"<code>SFDDM_{name.upper()}</code>" in settings
    assert "cats/teacher" in settings, "braces in a description are text, not markup"
    manifest = (site / "reference" / "manifest" / "index.html").read_text()
    for name in Manifest.model_fields:
        assert f"<code>{name}</code>" in manifest
    for program, app in (("sfddm", service_app), ("sfddm-train", training_app)):
        text = (site / "reference" / program / "index.html").read_text()
        for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
            assert f"{program} {name}" in text
    assert "sfddm_requests_total" in (site / "reference" / "metrics" / "index.html").read_text()
