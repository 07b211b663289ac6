"""What a comparison looks like: a table for the terminal and a grid for a paper; comparison_html.py has the report."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from models.pictures import contact_sheet
from service.features.encode import encode
from service.schema.comparisons import ComparisonResponse, ModelResult
from service.schema.images import ImageBody

COLUMNS = ("steps", "queue ms", "compute ms", "total ms", "p95", "speed-up", "95 % interval", "PSNR dB", "SSIM")


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
        steps, _, _, total, p95, faster, interval, psnr, ssim = cells(comparison, result)
        speed = f"{faster} ({interval})" if interval else faster
        shown.add_row(result.model, steps, total, p95, speed, psnr, ssim)
    return shown


def cells(comparison: ComparisonResponse, result: ModelResult) -> tuple[str, ...]:
    """What COLUMNS promise, as text."""
    speed, agreement = result.speed_up, result.agreement
    reference = result.model == comparison.reference
    times = (result.queue_s.median, result.compute_s.median, result.total_s.median, result.total_s.p95)
    return (
        str(result.steps),
        *(f"{1000 * seconds:.1f}" for seconds in times),
        f"{_ratio(speed.value)}x" if speed else "reference" if reference else "",
        "" if speed is None or speed.low is None or speed.high is None else f"{_ratio(speed.low)}-{_ratio(speed.high)}",
        f"{agreement.psnr_db:.1f}" if agreement else "",
        f"{agreement.ssim:.3f}" if agreement else "",
    )


def _ratio(value: float) -> str:
    """Two decimals where one would hide whether a model is faster or slower."""
    return f"{value:.2f}" if value < 2 else f"{value:.1f}"


def grid_png(comparison: ComparisonResponse, scale: int = 1, gap: int = 2) -> bytes:
    """One row a model, one column a noise, `gap` white pixels apart, as PNG."""
    rows = [[pixels_of(image) for image in result.images] for result in comparison.results]
    sheet = contact_sheet([image for images in rows for image in images], columns=len(rows[0]), gap=gap)
    return encode(sheet, "png", scale)


def about_of(comparison: ComparisonResponse) -> str:
    """What the numbers rest on, in a sentence or two."""
    about = f"{comparison.rounds} measured round(s), {comparison.mode}, against {comparison.reference}."
    return f"{about} {comparison.note}" if comparison.note else about
