"""Quality against network evaluations, one curve a method and series of models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.evaluation import tables
from training.evaluation.measure import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style = dict[str, dict[str, Any]]  # method -> how its curve is drawn
_MARKERS = "os^vDP*X<>ph"  # told apart without colours too
_STEP_COUNT = re.compile(r"-\d{3,4}(?![^-@])")


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: KID with its intervals where measured, and PSNR to each reference, over evaluations."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    by_kid = [row for row in rows if "kid" in row.metrics]
    by_psnr = {name: [r for r in rows if r.reference == name and "psnr_db" in r.metrics] for name in tables.references(rows)}
    panels = (1 if by_kid else 0) + len(by_psnr)
    if not panels:
        return
    style: Style = {name: {"color": f"C{i % 10}", "marker": _MARKERS[i % 12]} for i, name in enumerate(tables.methods(rows))}
    figure, axes = plt.subplots(1, panels, figsize=(6.5 * panels, 5), squeeze=False, layout="constrained")
    free = list(axes[0])
    if by_kid:
        _kid(free.pop(0), by_kid, style)
    for axis, (reference, measured) in zip(free, by_psnr.items(), strict=True):
        for look, points in _curves(measured, style):
            axis.plot([r.evaluations for r in points], [r.metrics["psnr_db"] for r in points], **look)
        axis.set_title(f"agreement with {reference}", fontsize=10)
        axis.set_ylabel("PSNR from the same noise, dB (higher is better)")
    for axis in axes[0]:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_xlabel("network evaluations an image")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _kid(axis: Axes, rows: Sequence[Row], style: Style) -> None:
    title = "distance to the training images"
    models = [row for row in rows if row.method != tables.TEST]
    for look, points in _curves(models, style):
        values = [1000 * r.metrics["kid"] for r in points]
        error = [500 * (r.metrics["kid_high"] - r.metrics["kid_low"]) for r in points]
        axis.errorbar([r.evaluations for r in points], values, yerr=error, markersize=5, capsize=3, **look)
    for row in rows:
        if row.method == tables.TEST:
            title += f" ({tables.TEST}: {1000 * row.metrics['kid']:.1f})"
    if all(r.metrics["kid_low"] > 0 for r in models):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:.0f}")
        axis.yaxis.set_minor_formatter("{x:.0f}")
    axis.set_title(title, fontsize=10)
    axis.set_ylabel("KID x 1000 (lower is better)")


def _curves(rows: Sequence[Row], style: Style) -> list[tuple[dict[str, Any], list[Row]]]:
    """(look, rows by evaluations). A method's models are joined where their names differ by step count only."""
    made = []
    for method in tables.methods(rows):
        series: dict[str, list[Row]] = {}
        for row in sorted((r for r in rows if r.method == method), key=lambda r: r.evaluations):
            series.setdefault(_STEP_COUNT.sub("", row.model.partition("/")[2]), []).append(row)
        for i, (name, points) in enumerate(series.items()):
            label = f"{method} ({name})" if len(series) > 1 else method
            made.append(({**style[method], "label": label, "linestyle": ("-", "--", ":", "-.")[i % 4]}, points))
    return made
