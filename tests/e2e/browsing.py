"""Helpers of the tests in Chromium. They collect the faults of a page and check it in each viewport and colour scheme.

Screenshots are kept in artefacts/page, for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from tests.e2e.conftest import PATIENCE_S, ROOT, Server

SHOTS = ROOT / "artefacts" / "page"
VIEWPORTS = {"phone": (360, 740), "tablet": (768, 1024), "laptop": (1440, 900), "4k": (3840, 2160)}
SCHEMES = ("light", "dark")
EVERY_LOOK = tuple(product(VIEWPORTS, SCHEMES))
BRIEFLY = (("phone", "dark"), ("laptop", "light"))
LAYOUT_FAULTS = (Path(__file__).parent / "layout_faults.js").read_text()
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# axe leaves out WCAG 2.2's smallest size of targets unless it is asked.
AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}

expect.set_options(timeout=PATIENCE_S * 1000)


class Watched:
    """Collects what a page does: the hosts that it asks, its errors, and the failed requests that Chromium logs."""

    def __init__(self, page: Page) -> None:
        self.hosts: set[str] = set()
        self.faults: list[str] = []
        self.failed: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._logged)

    def _logged(self, message: ConsoleMessage) -> None:
        if message.text.startswith("Failed to load resource: "):
            self.failed.append(message.text)
        elif message.type in ("error", "warning"):
            self.faults.append(message.text)


def open_page(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page.locator("#server")).to_have_text("Connected")
    expect(button(page, "Generate")).to_be_enabled()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def look(page: Page, name: str, looks: Iterable[tuple[str, str]] = BRIEFLY) -> None:
    """Take a screenshot of each look. Nothing may be cut off, stick out or overlap, and axe must find nothing serious."""
    for viewport, scheme in looks:
        width, height = VIEWPORTS[viewport]
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        page.evaluate(TWO_FRAMES)  # until the chart has its new width
        page.screenshot(path=SHOTS / f"{name}-{viewport}-{scheme}.png", full_page=True)
        faults = page.evaluate(LAYOUT_FAULTS)
        assert not faults, f"{name}, {viewport}: {faults[:5]}"
        violations = Axe().run(page, options=AXE).response["violations"]
        serious = [found for found in violations if found["impact"] in ("serious", "critical")]
        assert [(found["id"], found["nodes"][0]["html"]) for found in serious] == [], f"{name}, {viewport}, {scheme}"
