"""A comparison as one HTML file that loads nothing else, styled as the web page (service/page/style.css)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from service.cli.comparison_table import COLUMNS, about_of, cells
from service.schema.comparisons import ComparisonResponse, ModelResult

_NOTES = (
    "Times are medians over the measured rounds in milliseconds, p95 is of the total; the interval is a bootstrap over rounds. "
    "PSNR and SSIM compare images with the reference's images from the same noises; 58.9 dB means identical."
)
_MARGIN = 1.15  # the axis of times extends this factor beyond the fastest and the slowest round
_MAX_TICKS = 6  # more labels would overlap
_MAX_TICKS_ON_A_PHONE = 3


def html(comparison: ComparisonResponse) -> str:
    """Return the report: the images, the time of every round, the numbers, and the quality of models that store it."""
    results = comparison.results
    names = _names(results)
    images = _counted(comparison.n, "image")
    measured = f"{datetime.fromtimestamp(comparison.created, UTC):%Y-%m-%d %H:%M} UTC"
    return _PAGE.format(
        style=(files("service") / "page" / "style.css").read_text(),
        title=f"{len(results)} models, {images}, seed {comparison.seed}",
        about=escape(f"{about_of(comparison)} {measured}."),
        sheets="".join(_sheet(comparison, result) for result in results),
        bars=_bars(results, names),
        numbers=_table(COLUMNS, {names[result.model]: cells(comparison, result) for result in results}, "Numbers"),
        notes=_NOTES,
        quality=_quality(results, names),
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _names(results: Sequence[ModelResult]) -> dict[str, str]:
    """Map model ids to the names that tables show. The family is left out when all share it, so that tables fit a phone."""
    ids = [result.model for result in results]
    alike = len({name.partition("/")[0] for name in ids}) == 1
    return {name: name.partition("/")[2] if alike else name for name in ids}


def _kind(result: ModelResult) -> str:
    """Return the model's class in the style sheet, which decides its colour."""
    return "solver" if "@" in result.model else result.kind


def _sheet(comparison: ComparisonResponse, result: ModelResult) -> str:
    pictures = "".join(
        f'<span class="picture"><img alt="{escape(image.class_name or "image")}, index {image.index}" '
        f'src="data:image/{comparison.output_format};base64,{image.b64_json}"></span>'
        for image in result.images
    )
    caption = f'<strong>{escape(result.model)}</strong><span class="note">{_counted(result.steps, "step")}</span>'
    sheet = f'<div class="sheet">{pictures}</div>'
    return f'<figure class="strip {_kind(result)}"><figcaption>{caption}</figcaption>{sheet}</figure>'


class _Axis:
    """A logarithmic axis of times, from the fastest to the slowest round. Places are percentages of its width."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._low, self._high = min(seconds) / _MARGIN, max(seconds) * _MARGIN
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        for mantissas in ((1, 2, 5), (1,)):
            ticks = [m * 10.0**power for power in decades for m in mantissas if self._low <= m * 10.0**power <= self._high]
            if len(ticks) <= _MAX_TICKS:
                break
        self.ticks = ticks

    def place(self, seconds: float) -> str:
        return f"{100 * math.log(seconds / self._low) / math.log(self._high / self._low):.2f}%"

    def vertical(self, seconds: float, name: str) -> str:
        return f'<line class="{name}" x1="{self.place(seconds)}" x2="{self.place(seconds)}" y1="0" y2="100%"/>'


def _bars(results: Sequence[ModelResult], names: dict[str, str]) -> str:
    """Return the chart: a row per model with a dot per round and a line at the median, and the axis below."""
    axis = _Axis([sample.total_s for result in results for sample in result.samples])
    grid = "".join(axis.vertical(tick, "grid") for tick in axis.ticks)
    rows = []
    for result in results:
        dots = "".join(f'<circle cx="{axis.place(sample.total_s)}" cy="50%" r="4"/>' for sample in result.samples)
        median, name = result.total_s.median, escape(names[result.model])
        rows.append(
            f'<li class="{_kind(result)}"><span class="name">{name}</span>'
            f'<svg class="track" role="img" aria-label="{_counted(len(result.samples), "round")} of {name}">'
            f'{grid}{dots}{axis.vertical(median, "median")}</svg><span class="value">{_duration(median)}</span></li>'
        )
    labels = "".join(f'<text x="{axis.place(tick)}" y="75%">{_duration(tick)}</text>' for tick in axis.ticks)
    many = " many" if len(axis.ticks) > _MAX_TICKS_ON_A_PHONE else ""
    rows.append(f'<li aria-hidden="true"><span class="name"></span><svg class="ticks{many}">{labels}</svg></li>')
    return "".join(rows)


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.3g} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"


def _quality(results: Sequence[ModelResult], shown: dict[str, str]) -> str:
    """Return the section with the quality that manifests store, a column per metric. Empty if no model stores any."""
    names = list(dict.fromkeys(name for result in results if result.quality for name in result.quality.metrics))
    if not names:
        return ""
    rows = {
        shown[result.model]: [f"{result.quality.metrics[name]:.4g}" if name in result.quality.metrics else "" for name in names]
        + [str(result.quality.images)]
        for result in results
        if result.quality
    }
    title = "Quality, measured when the models were made"
    table = _table([*(name.replace("_", " ") for name in names), "images"], rows, title)
    return f'<section class="wide" aria-labelledby="quality"><h2 id="quality">{title}</h2>{table}</section>'


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[str]], label: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("model", *columns))
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>'
        for name, row in rows.items()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{table}</div>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
.sheet {{ display: grid; grid-template-columns: repeat(auto-fill, min(7rem, 22%)); gap: .25rem; }}
h2 + .note, h2 + .scroll {{ margin-block-start: 0; }}
svg.track, svg.ticks {{ width: 100%; overflow: visible; }}
svg.ticks {{ height: 1.3rem; }}
.track circle {{ fill: var(--kind); fill-opacity: .55; }}
@media (max-width: 32rem) {{ .many text:nth-of-type(even) {{ display: none; }} }}
.median {{ stroke: var(--text); stroke-width: 2; }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{about}</p></header>
<main>
<section class="wide" aria-labelledby="images"><h2 id="images">Same noise, one row per model</h2>{sheets}</section>
<section class="wide" aria-labelledby="times"><h2 id="times">Time of every round</h2>
<p class="note">Each dot is one round. The line and the number show the median. The axis is logarithmic.</p>
<ol id="bars">{bars}</ol></section>
<section class="wide" aria-labelledby="numbers"><h2 id="numbers">Numbers</h2>{numbers}<p class="note">{notes}</p></section>
{quality}
</main>
</body>
</html>
"""
