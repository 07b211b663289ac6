"""The page at / in a real Chromium, against a real server over the tiny zoo. Screenshots are kept in artefacts/."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from models.catalogue import sha256_of
from tests.e2e.conftest import PATIENCE_S, ROOT, Server, serving

SHOTS = ROOT / "artefacts" / "page"
VIEWPORTS = {"phone": (360, 740), "laptop": (1280, 800), "4k": (3840, 2160)}
SCHEMES = ("light", "dark")
BRIEFLY = (("phone", "dark"), ("laptop", "light"))
CARDS = 5  # both students, two solvers, the teacher

expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed; on Debian: apt install chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


class Watched:
    """Which hosts a page asked, what went wrong in it, and the failed requests, which Chromium itself logs."""

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


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_S * 1000)
    yield context.new_page()
    context.close()


def _open(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page.locator("#server")).to_have_text("Connected")
    expect(_button(page, "Generate")).to_be_enabled()


def _button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def _shots(page: Page, name: str, looks: Iterable[tuple[str, str]] = BRIEFLY) -> None:
    """A screenshot of each look; nothing sticks out sideways, and axe finds nothing serious in light and dark."""
    for viewport, scheme in looks:
        width, height = VIEWPORTS[viewport]
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SHOTS / f"{name}-{viewport}-{scheme}.png", full_page=True)
        if (viewport, scheme) in BRIEFLY:
            _check_accessible(page)


def _check_accessible(page: Page) -> None:
    violations = Axe().run(page).response["violations"]
    assert not [(found["id"], found["nodes"][0]["html"]) for found in violations if found["impact"] in ("serious", "critical")]


def test_everything_once(page: Page, server: Server) -> None:
    watched = Watched(page)
    _open(page, server)
    _shots(page, "empty")

    page.get_by_label("Class").first.select_option("dog")
    _button(page, "Generate").click()
    expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
    expect(page.get_by_role("img", name="dog by student-004, seed 7")).to_be_visible()
    expect(page.locator("#race figure.teacher .film img")).to_have_count(4)
    expect(page.locator("#race-status")).to_contain_text("Same noise, seed 7.")

    _button(page, "Measure").click()
    expect(page.locator("#latency-status")).to_contain_text("Measured 6 rounds.")
    rows = page.locator("#table tbody tr")
    expect(rows).to_have_count(CARDS)
    expect(rows.filter(has_text="reference")).to_contain_text("teacher")
    assert re.search(r"[\d.]+\N{MULTIPLICATION SIGN} \(.+ \N{EN DASH} .+\)", rows.first.inner_text())
    expect(page.locator("#bars .whisker")).to_have_count(CARDS)
    page.get_by_label("Logarithmic").check()

    expect(page.locator("#chart circle")).to_have_count(2)  # the students
    expect(page.locator("#chart rect")).to_have_count(1)  # the teacher

    _button(page, "Walk").click()
    expect(page.locator(".strip[data-state=done] img")).to_have_count(12)

    _button(page, "Fill").click()
    expect(page.locator("#gallery-status")).to_contain_text("a second")
    expect(page.locator("#gallery img")).to_have_count(24)

    _shots(page, "full", product(VIEWPORTS, SCHEMES))
    assert watched.hosts - {""} == {urlsplit(server.url).netloc}
    assert watched.faults + watched.failed == []


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    _open(page, server)
    first = page.locator("#models input").first
    first.focus()
    page.keyboard.press("Space")
    expect(first).not_to_be_checked()
    assert first.evaluate("box => getComputedStyle(box).outlineStyle") == "solid"
    page.get_by_text("Add a solver of the teacher").focus()
    for key in ("Enter", "Tab", "Tab"):
        page.keyboard.press(key)
    page.keyboard.insert_text("12")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    added = page.get_by_role("checkbox", name="teacher@ddim-012")
    expect(added).to_be_checked()
    expect(added).to_be_focused()
    page.get_by_label("Seed", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
    expect(page.get_by_role("img", name=re.compile(r"by teacher@ddim-012, seed 7$"))).to_be_visible()


def test_an_error_says_what_to_do(page: Page, tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    broken = zoo / "tiny" / "student-004"
    (broken / "model.onnx").write_bytes(b"not a graph")
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["sha256"] = sha256_of(broken / "model.onnx")
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with serving(tmp_path / "log", "--zoo", str(zoo), "--default-model", "tiny/student-008", "--max-n", "8") as server:
        _open(page, server)
        expect(page.get_by_role("checkbox", name="student-004")).to_be_disabled()
        expect(page.locator("#failures")).to_contain_text("student-004 failed to load:")
        _button(page, "Fill").click()
        expect(page.locator("#gallery-status")).to_contain_text("at most 8 images")
        expect(page.locator("#gallery .picture")).to_have_count(0)
        page.get_by_label("Seed", exact=True).fill("1.5")
        _button(page, "Generate").click()
        assert page.locator("#seed:invalid").count() == 1
        for box in page.locator("#models input:enabled").all():
            box.uncheck()
        page.get_by_label("Seed", exact=True).fill("1")
        _button(page, "Generate").click()
        expect(page.locator("#race-status")).to_have_text("Choose at least one model.")
        _button(page, "Measure").click()
        expect(page.locator("#latency-status")).to_have_text("Choose at least two models above.")
        _shots(page, "error")


def test_overload_is_waited_out(page: Page, tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/student-008", "--max-n", "512", "--max-batch", "1")
    with serving(tmp_path / "log", *options, SFDDM_MAX_BACKLOG_S="0.01") as server:
        _open(page, server)
        work = {"model": "tiny/teacher", "n": 512, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/images/generations", json=work, timeout=PATIENCE_S):
            _button(page, "Generate").click()
            expect(page.locator("#race-status")).to_contain_text("The server is busy.")
            expect(page.locator("#race [data-state=wait]").first).to_contain_text(re.compile(r"Next try in \d+ s"))
            _shots(page, "busy", BRIEFLY[:1])
        expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
        expect(page.locator("#race-status")).to_contain_text("Same noise")


def test_a_lost_server_and_its_return(page: Page, tiny_zoo: Path, tmp_path: Path) -> None:
    watched = Watched(page)
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/student-008")
    with serving(tmp_path / "first", *options) as server:
        _open(page, server)
        server.process.send_signal(signal.SIGSTOP)  # it is in the middle of the work when it dies
        _button(page, "Generate").click()
        expect(page.locator("#race figure").first).to_be_visible()
        server.process.kill()
        expect(page.locator("#server")).to_have_text("Disconnected")
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
        expect(page.locator("#race [data-state=bad]").first).to_contain_text("Lost the server")
        expect(_button(page, "Generate")).to_be_disabled()
        _shots(page, "lost")
    port = str(urlsplit(server.url).port)
    with serving(tmp_path / "second", *options, "--port", port):
        expect(page.locator("#server")).to_have_text("Connected")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#race-status")).to_have_text("The server is back.")
        _button(page, "Generate").click()
        expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
    assert watched.faults == []
