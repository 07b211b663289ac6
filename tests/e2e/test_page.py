"""The page at / in a real Chromium, against a real server over the tiny zoo."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Page, expect

from models.catalogue import sha256_of
from tests.e2e.browsing import BRIEFLY, EVERY_LOOK, Watched, button, look, open_page
from tests.e2e.conftest import PATIENCE_S, Server, serving

CARDS = 5  # both students, two solvers, the teacher


def test_everything_once(page: Page, server: Server) -> None:
    watched = Watched(page)
    open_page(page, server)
    look(page, "empty")

    page.get_by_label("Class").first.select_option("dog")
    button(page, "Generate").click()
    expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
    expect(page.get_by_role("img", name="dog by student-004, seed 7")).to_be_visible()
    expect(page.locator("#race figure.teacher .film img")).to_have_count(4)
    expect(page.locator("#race-status")).to_contain_text("Same noise, seed 7.")
    apart = dict(zip(_texts(page, "#race figure strong"), _texts(page, "#race figure .apart"), strict=True))
    page.get_by_label("Show how each differs").check()
    expect(page.get_by_role("img", name="difference between student-004 and teacher")).to_be_visible()
    expect(page.locator("#race .picture img:visible")).to_have_count(1)  # the reference's own

    button(page, "Measure").click()
    expect(page.locator("#latency-status")).to_contain_text("Measured 6 rounds.")
    rows = page.locator("#table tbody tr")
    expect(rows).to_have_count(CARDS)
    expect(rows.filter(has_text="reference")).to_contain_text("teacher")
    assert re.search(r"[\d.]+\N{MULTIPLICATION SIGN} \(.+ \N{EN DASH} .+\)", rows.first.inner_text())
    expect(page.locator("#bars .whisker")).to_have_count(CARDS)
    measured = dict(zip(_texts(page, "#table tbody th"), _texts(page, "#table td:nth-of-type(7)"), strict=True))
    assert apart.pop("teacher") == "the reference"
    assert {name: f"PSNR {measured[name]} to teacher" for name in apart} == apart  # counted in the page and by the server
    page.get_by_label("Logarithmic").check()

    expect(page.locator("#chart circle")).to_have_count(2)  # the students
    expect(page.locator("#chart rect")).to_have_count(1)  # the teacher

    button(page, "Walk").click()
    expect(page.locator(".strip[data-state=done] img")).to_have_count(12)

    button(page, "Fill").click()
    expect(page.locator("#gallery-status")).to_contain_text("a second")
    expect(page.locator("#gallery img")).to_have_count(24)

    look(page, "full", EVERY_LOOK)
    assert watched.hosts - {""} == {urlsplit(server.url).netloc}
    assert watched.faults + watched.failed == []


def test_a_sample_of_the_gallery_is_denoised_side_by_side(page: Page, server: Server) -> None:
    open_page(page, server)
    button(page, "Fill").click()
    expect(page.locator("#gallery-status")).to_contain_text("a second")
    sample = page.locator("#gallery li").nth(3).get_by_role("button", name=re.compile(r"seed 7, index 3$"))
    sample.press("Enter")
    expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
    expect(page.locator("#race-status")).to_contain_text("Same noise, seed 7, index 3.")
    again = page.get_by_role("img", name=re.compile(r"by student-008, seed 7, index 3$"))
    assert again.get_attribute("src") == sample.locator("img").get_attribute("src")


def _texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    open_page(page, server)
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
        open_page(page, server)
        expect(page.get_by_role("checkbox", name="student-004")).to_be_disabled()
        expect(page.locator("#failures")).to_contain_text("student-004 failed to load:")
        button(page, "Fill").click()
        expect(page.locator("#gallery-status")).to_contain_text("at most 8 images")
        expect(page.locator("#gallery .picture")).to_have_count(0)
        page.get_by_label("Seed", exact=True).fill("1.5")
        button(page, "Generate").click()
        assert page.locator("#seed:invalid").count() == 1
        for box in page.locator("#models input:enabled").all():
            box.uncheck()
        page.get_by_label("Seed", exact=True).fill("1")
        button(page, "Generate").click()
        expect(page.locator("#race-status")).to_have_text("Choose at least one model.")
        button(page, "Measure").click()
        expect(page.locator("#latency-status")).to_have_text("Choose at least two models above.")
        look(page, "error")
        page.get_by_role("checkbox", name="student-008").check()
        expect(page.locator("#race-status")).to_have_text("")
        expect(page.locator("#latency-status")).to_have_text("Choose at least two models above.")
        page.get_by_role("checkbox", name="teacher", exact=False).last.check()
        expect(page.locator("#latency-status")).to_have_text("")


def test_overload_is_waited_out(page: Page, tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/student-008", "--max-n", "512", "--max-batch", "1")
    with serving(tmp_path / "log", *options, SFDDM_MAX_BACKLOG_S="0.01") as server:
        open_page(page, server)
        work = {"model": "tiny/teacher", "n": 512, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/images/generations", json=work, timeout=PATIENCE_S):
            button(page, "Generate").click()
            expect(page.locator("#race-status")).to_contain_text("The server is busy.")
            expect(page.locator("#race [data-state=wait]").first).to_contain_text(re.compile(r"Next try in \d+ s"))
            look(page, "busy", BRIEFLY[:1])
        expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
        expect(page.locator("#race-status")).to_contain_text("Same noise")


def test_a_lost_server_and_its_return(page: Page, tiny_zoo: Path, tmp_path: Path) -> None:
    watched = Watched(page)
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/student-008")
    with serving(tmp_path / "first", *options) as server:
        open_page(page, server)
        server.process.send_signal(signal.SIGSTOP)  # it is in the middle of the work when it dies
        button(page, "Generate").click()
        expect(page.locator("#race figure").first).to_be_visible()
        server.process.kill()
        expect(page.locator("#server")).to_have_text("Disconnected")
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
        expect(page.locator("#race [data-state=bad]").first).to_contain_text("Lost the server")
        expect(button(page, "Generate")).to_be_disabled()
        look(page, "lost")
    port = str(urlsplit(server.url).port)
    with serving(tmp_path / "second", *options, "--port", port):
        expect(page.locator("#server")).to_have_text("Connected")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#race-status")).to_have_text("The server is back.")
        button(page, "Generate").click()
        expect(page.locator("#race [data-state=done]")).to_have_count(CARDS)
    assert watched.faults == []
