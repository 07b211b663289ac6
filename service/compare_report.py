"""What a comparison looks like: a table for the terminal, a grid for a paper, a page that holds everything by itself."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from service.api.comparison_schema import ComparisonResponse, ModelResult
from service.api.schema import ImageBody
from service.encode import encode

_COLUMNS = ("steps", "queue ms", "compute ms", "total ms", "p95", "speed-up", "95 % interval", "PSNR dB", "SSIM", "quality")
_NOTES = (
    "Times are medians over the measured rounds in milliseconds, p95 is of the total; the interval is a bootstrap over rounds. "
    "PSNR and SSIM are against the reference's images from the same noises; 58.9 dB is identical. "
    "Quality was measured when the model was made."
)


def pixels_of(image: ImageBody) -> NDArray[np.uint8]:
    """The pixels of an inline image: uint8 [C,H,W]."""
    assert image.b64_json is not None
    opened = Image.open(io.BytesIO(base64.b64decode(image.b64_json)))
    array = np.asarray(opened, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def table(comparison: ComparisonResponse) -> Table:
    """One row a model; short enough for 80 columns as long as the ids are."""
    shown = Table(Column("model", overflow="fold"), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("steps", "total ms", "p95", "speed-up", "PSNR", "SSIM"):
        shown.add_column(name, justify="right", no_wrap=True)
    for result in comparison.results:
        steps, _, _, total, p95, faster, interval, psnr, ssim, _ = cells(comparison, result)
        speed = f"{faster} ({interval})" if interval else faster
        shown.add_row(result.model, steps, total, p95, speed, psnr, ssim)
    return shown


def cells(comparison: ComparisonResponse, result: ModelResult) -> tuple[str, ...]:
    """What _COLUMNS promise, as text."""
    speed, agreement, quality = result.speed_up, result.agreement, result.quality
    reference = result.model == comparison.reference
    times = (result.queue_s.median, result.compute_s.median, result.total_s.median, result.total_s.p95)
    return (
        str(result.steps),
        *(f"{1000 * seconds:.1f}" for seconds in times),
        f"{speed.value:.1f}x" if speed else "reference" if reference else "",
        "" if speed is None or speed.low is None or speed.high is None else f"{speed.low:.1f}-{speed.high:.1f}",
        f"{agreement.psnr_db:.1f}" if agreement else "",
        f"{agreement.ssim:.3f}" if agreement else "",
        ", ".join(f"{name} {value:.4g}" for name, value in quality.metrics.items()) if quality else "",
    )


def grid_png(comparison: ComparisonResponse, scale: int = 1, gap: int = 2) -> bytes:
    """One row a model, one column a noise, `gap` white pixels apart, as PNG."""
    rows = [[pixels_of(image) for image in result.images] for result in comparison.results]
    channels, height, width = rows[0][0].shape
    shape = (channels, len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap)
    sheet = np.full(shape, 255, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + gap), column * (width + gap)
            sheet[:, top : top + height, left : left + width] = image
    return encode(sheet, "png", scale)


def html(comparison: ComparisonResponse) -> str:
    """A page with the numbers, the images and every measurement, without anything from elsewhere."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in ("model", *_COLUMNS))
    numbers = "".join(_row(result, *map(escape, cells(comparison, result))) for result in comparison.results)
    pictures = "".join(
        _row(result, "".join(_picture(comparison, image) for image in result.images)) for result in comparison.results
    )
    title = f"{len(comparison.results)} models, {comparison.n} image(s), seed {comparison.seed}"
    return _PAGE.format(
        title=escape(title),
        about=escape(about_of(comparison)),
        head=head,
        numbers=numbers,
        notes=escape(_NOTES),
        pictures=pictures,
        longest=max((max(sample.total_s for sample in result.samples) for result in comparison.results), default=0),
        bars="".join(_bar(comparison, result) for result in comparison.results),
    )


def about_of(comparison: ComparisonResponse) -> str:
    """What the numbers rest on, in a sentence or two."""
    about = f"{comparison.rounds} measured round(s), {comparison.mode}, against {comparison.reference}."
    return f"{about} {comparison.note}" if comparison.note else about


def _row(result: ModelResult, *cells: str) -> str:
    return f"<tr><th scope=row>{escape(result.model)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}"


def _picture(comparison: ComparisonResponse, image: ImageBody) -> str:
    alt = escape(f"{image.class_name or 'image'}, index {image.index}")
    return f'<img alt="{alt}" src="data:image/{comparison.output_format};base64,{image.b64_json}">'


def _bar(comparison: ComparisonResponse, result: ModelResult) -> str:
    """One model's total seconds on a logarithmic axis: a dot a round, a line at the median."""
    every = [sample.total_s for other in comparison.results for sample in other.samples]
    low, high = np.log(min(every)), np.log(max(every))

    def place(seconds: float) -> float:
        return 2 + 96 * float((np.log(seconds) - low) / (high - low)) if high > low else 50.0

    dots = "".join(f'<circle cx="{place(sample.total_s):.2f}%" cy="50%" r="4"/>' for sample in result.samples)
    median = place(result.total_s.median)
    line = f'<line x1="{median:.2f}%" x2="{median:.2f}%" y1="10%" y2="90%"/>'
    label = escape(f"{result.model}: median {1000 * result.total_s.median:.1f} ms")
    return _row(result, f'<svg role="img" aria-label="{label}">{dots}{line}</svg>')


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 }}
th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #8884 }}
th:first-child {{ text-align: left }}
.wide {{ overflow-x: auto }}
.left td {{ text-align: left }}
img {{ width: 5rem; image-rendering: pixelated; margin: .1rem }}
svg {{ width: 100%; min-width: 15rem; height: 1.6rem }}
circle {{ fill: #3b82f680 }} line {{ stroke: currentColor; stroke-width: 2 }}
</style>
<h1>{title}</h1>
<p>{about}</p>
<div class="wide"><table><thead><tr>{head}</thead><tbody>{numbers}</tbody></table></div>
<p>{notes}</p>
<h2>Same noise, one row a model</h2>
<div class="wide"><table class="left"><tbody>{pictures}</tbody></table></div>
<h2>Total time of every round</h2>
<p>A dot a round, a line at the median; the axis is logarithmic and ends at {longest:.3g} s.</p>
<div class="wide"><table class="left"><tbody>{bars}</tbody></table></div>
</html>
"""
