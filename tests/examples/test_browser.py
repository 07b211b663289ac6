"""The page of examples/browser.html in a real Chromium, served by examples/browser.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Server, browser, page  # noqa: F401 - fixtures
from tests.examples.conftest import start


@pytest.fixture
def site(shipped: Server, tmp_path: Path) -> Iterator[str]:
    """Run the example and return the url that it prints."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with start("browser.py", shipped, tmp_path, str(port)) as example:
        assert example.stdout
        url = example.stdout.readline().strip()
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=6)) as client:  # it prints the url, then listens
                client.get(url).raise_for_status()
            yield url
        finally:
            example.terminate()


def test_an_image_appears_step_by_step(page: Page, site: str) -> None:  # noqa: F811
    page.goto(site)
    page.evaluate("""() => {
        window.seen = [];
        new MutationObserver(() => window.seen.push(document.querySelector("p").textContent))
            .observe(document.querySelector("p"), { childList: true });
    }""")
    page.get_by_role("button", name="Generate").click()
    status, image = page.get_by_role("status"), page.locator("img")
    expect(status).to_have_text("sneaker: step 16 of 16")
    assert page.evaluate("window.seen") == [f"sneaker: step {step} of 16" for step in (4, 8, 12, 16)]
    expect(image).to_have_js_property("naturalWidth", 28)

    page.get_by_label("Prompt").fill("unicorn")
    page.get_by_role("button", name="Generate").click()
    expect(status).to_contain_text("The prompt names no class")


def test_a_page_of_another_origin_cannot_read_the_answers(page: Page, site: str, shipped: Server) -> None:  # noqa: F811
    """Check that there are no CORS headers: therefore the example serves page and API together, as its README says."""
    page.goto(site)
    fetched = page.evaluate("url => fetch(url).then(() => 'read', (error) => error.name)", f"{shipped.url}/v1/models")
    assert fetched == "TypeError"
