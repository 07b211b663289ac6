"""Quality against network evaluations, one curve a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.evaluation import tables
from training.evaluation.measure import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style = dict[str, dict[str, Any]]  # method -> how its curve is drawn
_MARKERS = "os^vDP*X<>ph"  # told apart without colours too


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
        for method, points in _curves(measured):
            axis.plot([r.evaluations for r in points], [r.metrics["psnr_db"] for r in points], label=method, **style[method])
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
    for method, points in _curves(rows):
        values = [1000 * r.metrics["kid"] for r in points]
        error = [500 * (r.metrics["kid_high"] - r.metrics["kid_low"]) for r in points]
        axis.errorbar(
            [r.evaluations for r in points], values, yerr=error, label=method, markersize=5, capsize=3, **style[method]
        )  # fmt: skip
    for row in rows:
        if row.method == tables.TEST:
            axis.axhline(1000 * row.metrics["kid"], color="grey", linestyle=":", label=tables.TEST)
    if all(r.metrics["kid_low"] > 0 for r in rows):
        axis.set_yscale("log")
    axis.set_title("distance to the training images", fontsize=10)
    axis.set_ylabel("KID x 1000 (lower is better)")


def _curves(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(method, its rows by evaluations)."""
    names = tables.methods(rows)
    return [(name, sorted((r for r in rows if r.method == name), key=lambda r: r.evaluations)) for name in names]
