"""The page with the shipped models, /docs, and the report of `sfddm compare`, in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import comb
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browsing import EVERY_LOOK, SCHEMES, VIEWPORTS, Watched, button, look, open_page
from tests.e2e.conftest import Server, serving, sfddm

# Add up how far elements jump without user input (cumulative layout shift: https://web.dev/articles/cls; up to 0.1 is good).
SUM_OF_JUMPS = """
window.jumps = 0;
new PerformanceObserver((list) => {
  for (const jump of list.getEntries()) if (!jump.hadRecentInput) window.jumps += jump.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("shipped") / "log") as server:
        yield server


def test_a_student_is_done_when_its_teacher_has_barely_begun(page: Page, shipped: Server) -> None:
    watched = Watched(page)
    open_page(page, shipped)
    page.get_by_label("Class").first.select_option("sneaker")
    button(page, "Generate").click()
    expect(page.locator("#race .student[data-state=done]")).to_have_count(2)
    teacher = page.locator("#race figure.teacher")
    expect(teacher).to_have_attribute("data-state", "busy")
    assert teacher.locator(".film img").count() <= 1  # of its first half at most
    progress = teacher.get_by_role("progressbar", name="Steps of teacher")
    expect(progress).to_be_visible()
    expect(progress).not_to_have_js_property("value", 0)
    assert progress.evaluate("bar => bar.value") < 0.75  # it follows the clock, and stops at the last step that is known
    look(page, "shipped-running")

    expect(page.locator("#race [data-state=done]")).to_have_count(5)
    button(page, "Fill").click()
    expect(page.locator("#gallery-status")).to_contain_text("a second")
    page.get_by_label("Above").select_option(label="student-016 (16 steps)")
    page.get_by_label("Below").select_option(label="student-004 (4 steps)")
    page.get_by_label("Frames").select_option("12")
    button(page, "Walk").click()
    expect(page.locator(".strip[data-state=done] img")).to_have_count(24)
    look(page, "shipped", EVERY_LOOK)
    assert watched.faults + watched.failed == []


def test_every_measured_quality_can_be_charted(page: Page, shipped: Server) -> None:
    open_page(page, shipped)
    page.get_by_text("The same as a table").click()
    names = page.locator("#metric option").evaluate_all("options => options.map((option) => option.value)")
    assert {"psnr_db", "ssim", "rmse", "class_agreement"} <= set(names)
    beside = ("Quality against", "Walk between")
    charted, walked = (page.get_by_role("region", name=name).evaluate("it => it.offsetHeight") for name in beside)
    assert walked < 0.75 * charted  # the table does not stretch its neighbour
    models = httpx.get(f"{shipped.url}/v1/models").json()["data"]
    teacher = next(model for model in models if model["kind"] == "teacher")
    own = teacher["quality"][f"ddim-{teacher['steps']}"]["metrics"]
    for name in names:
        page.locator("#metric").select_option(name)
        axis, chosen = page.locator("#chart .start").text_content(), page.locator("#metric option:checked").text_content()
        assert axis is not None
        assert axis.removesuffix(" · logarithmic") in (f"{chosen} · ↑ better", f"{chosen} · ↓ better")
        logarithmic = name in ("kid", "fd")  # models of one step and of sixteen are far apart there
        assert axis.endswith(" · logarithmic") == logarithmic
        plans = [plan for model in models for plan in model["quality"].values() if name in plan["metrics"]]
        expect(page.locator("#chart-table tbody tr")).to_have_count(len(plans))
        drawn = len(plans) + (name not in own)  # the teacher is a line where the others are measured against it
        expect(page.locator("#chart title")).to_have_count(drawn)
        look(page, f"chart-{name}", (("phone", "light"), ("laptop", "light")))
        students = sum(len(model["quality"]) for model in models if model["kind"] == "student")
        assert page.locator("#chart .steps").count() > students / 2  # how crowded it is depends on the machine's latency


def test_nothing_jumps_while_the_page_loads(page: Page, shipped: Server) -> None:
    page.add_init_script(SUM_OF_JUMPS)
    for width, height in VIEWPORTS.values():
        page.set_viewport_size({"width": width, "height": height})
        open_page(page, shipped)
        assert page.evaluate("jumps") < 0.1, (width, height)


def test_intervals_hold_what_they_say(page: Page, server: Server) -> None:
    """Check the page's two intervals against their definitions.

    - Median: the narrowest order statistics whose binomial coverage is 95 %.
    - Shares: Wilson's interval. Its ends are the p that solve (p - share)^2 = z^2 p (1 - p) / n.
    """
    open_page(page, server)
    for n in range(1, 60):
        found = page.evaluate("n => import('/page/latency.js').then((m) => m.medianInterval([...Array(n).keys()]) ?? null)", n)

        def coverage(rank: int, n: int = n) -> float:
            return 1 - 2 * sum(comb(n, k) for k in range(rank + 1)) / 2**n

        ranks = [rank for rank in range((n + 1) // 2) if coverage(rank) >= 0.95]
        assert found == ([ranks[-1], n - 1 - ranks[-1]] if ranks else None)
    for share, n in product((0.0, 0.2, 0.85, 1.0), (10, 200)):
        arguments = {"share": share, "n": n}
        read = page.evaluate(
            "({share, n}) => import('/page/metrics.js').then((m) => m.reading(m.metric('class_agreement'), "
            "{class_agreement: share}, n))",
            arguments,
        )
        for bound in (read["low"] / 100, read["high"] / 100):
            assert (bound - share) ** 2 == pytest.approx(1.96**2 * bound * (1 - bound) / n, abs=1e-12)


def test_docs(page: Page, server: Server) -> None:
    watched = Watched(page)
    page.goto(f"{server.url}/docs")
    expect(page.get_by_role("heading", name="POST /v1/images/generations")).to_be_visible()
    for width in (800, 1280):  # narrow columns: one, and two side by side
        page.set_viewport_size({"width": width, "height": 800})
        names = page.locator("td:first-child code")
        assert names.evaluate_all("all => all.filter((one) => one.getClientRects().length > 1).length") == 0
    look(page, "docs", EVERY_LOOK[:6])
    assert watched.faults + watched.failed == []


@pytest.mark.parametrize("repeats", [1, 6])
def test_a_report_of_compare(page: Page, server: Server, tmp_path: Path, repeats: int) -> None:
    watched = Watched(page)
    file = tmp_path / "report.html"
    models = ("tiny/student-004", "tiny/student-008", "tiny/teacher@dpmpp-004", "tiny/teacher")
    options = ("-n", "8", "--seed", "4", "--repeats", str(repeats), "--html", str(file), "--url", server.url)
    assert sfddm("compare", *models, *options).returncode == 0
    page.goto(file.as_uri())
    expect(page.locator("figure img")).to_have_count(len(models) * 8)
    expect(page.locator("#bars circle")).to_have_count(len(models) * repeats)
    look(page, f"report-{repeats}", product(VIEWPORTS, SCHEMES))
    assert watched.faults + watched.failed == []
    assert watched.hosts == {""}
