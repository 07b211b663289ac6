"""The table that `sfddm models` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from service.schema.models import ModelBody


def models_table(models: Sequence[ModelBody]) -> Table:
    """Return one row per model. The table fits 80 columns; ids of more than 25 letters are folded."""
    table = Table(Column("id", overflow="fold"), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("steps", "image", "MB", "latency", "img/s", "PSNR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("quality", no_wrap=True)
    for model in models:
        table.add_row(
            model.id,
            str(model.steps),
            model.size,
            f"{model.bytes / 1e6:.1f}",
            _latency(model),
            _throughput(model),
            _psnr(model),
            _quality(model),
        )
    return table


def _latency(model: ModelBody) -> str:
    """Return the latency of one image alone: its steps times the measured time of the smallest batch."""
    if not model.ms_per_step:
        return model.status
    return f"{model.steps * model.ms_per_step[min(model.ms_per_step)]:.0f} ms"


def _throughput(model: ModelBody) -> str:
    """Return the images a second of a device that makes nothing else, at the best of the measured batch sizes."""
    if not model.ms_per_step:
        return "-"
    rate = max(rows / ms for rows, ms in model.ms_per_step.items()) * 1000 / model.steps
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _quality(model: ModelBody) -> str:
    """Return the ranking metric of the model's own plan, or "-" if it was not measured.

    A teacher that the metric measures others against is the reference.
    """
    metrics = _metrics(model)
    if model.ranking is None or model.ranking.metric not in metrics:
        return "-"
    value = metrics[model.ranking.metric]
    if value == 0 and model.ranking.metric == "rmse" and model.kind == "teacher":
        return "reference"
    if model.ranking.metric == "kid":
        return f"KID {1000 * value:.3g}"  # times 1000, as on the page and in the tables
    return f"{model.ranking.metric} {value:.3g}"


def _psnr(model: ModelBody) -> str:
    """Return the PSNR to the teacher in dB, or "-" if it was not measured."""
    psnr_db = _metrics(model).get("psnr_db")
    return "-" if psnr_db is None else f"{psnr_db:.1f}"


def _metrics(model: ModelBody) -> Mapping[str, float]:
    """Return the metrics that were measured of the model's own plan."""
    measured = model.quality.get(f"{model.sampler}-{model.steps:03d}")
    return measured.metrics if measured else {}
