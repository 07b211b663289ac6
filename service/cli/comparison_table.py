"""A comparison as a table for the terminal, and its images as a grid for a paper. comparison_html.py has the report."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from models.pictures import contact_sheet
from service.cli.output import pixels_of
from service.features.encode import encode
from service.schema.comparisons import ComparisonResponse, ModelResult

COLUMNS = ("steps", "queue ms", "compute ms", "total ms", "p95", "speed-up", "95 % interval", "PSNR dB", "SSIM")


def table(comparison: ComparisonResponse) -> Table:
    """Return one row per model. The table fits 80 columns unless ids are long."""
    shown = Table(Column("model", overflow="fold"), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("steps", "total ms", "p95", "speed-up", "PSNR", "SSIM"):
        shown.add_column(name, justify="right", no_wrap=True)
    for result in comparison.results:
        steps, _, _, total, p95, faster, interval, psnr, ssim = cells(comparison, result)
        speed = f"{faster} ({interval})" if interval else faster
        shown.add_row(result.model, steps, total, p95, speed, psnr, ssim)
    return shown


def cells(comparison: ComparisonResponse, result: ModelResult) -> tuple[str, ...]:
    """Return the values of COLUMNS for one model, as text."""
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
    """Format a ratio. Below 2 it has two decimals, because with one a ratio near 1 could be shown as 1.0."""
    return f"{value:.2f}" if value < 2 else f"{value:.1f}"


def grid_png(comparison: ComparisonResponse, scale: int = 1, gap: int = 2) -> bytes:
    """Return a PNG with one row per model and one column per noise, `gap` white pixels apart."""
    rows = [[pixels_of(image) for image in result.images] for result in comparison.results]
    sheet = contact_sheet([image for images in rows for image in images], columns=len(rows[0]), gap=gap)
    return encode(sheet, "png", scale)


def about_of(comparison: ComparisonResponse) -> str:
    """Describe the measurement in one or two sentences: rounds, mode, reference, note."""
    about = f"{comparison.rounds} measured round(s), {comparison.mode}, against {comparison.reference}."
    return f"{about} {comparison.note}" if comparison.note else about
