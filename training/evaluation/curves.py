"""Curves of quality against network evaluations, one for each series of a method's models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.evaluation import tables
from training.evaluation.facts import REAL_IMAGES
from training.evaluation.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style = dict[str, dict[str, Any]]  # method -> matplotlib arguments of its curves
_CLOSE_FROM = 8  # from this many evaluations on, distances are so close together that they get a panel of their own
_MARKERS = "os^vDP*X<>ph"  # tell the curves apart where colours cannot


def draw_curves(results: Sequence[Result], path: Path) -> None:
    """Write a PNG: KID with its intervals where measured, and PSNR to each reference, over evaluations."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    by_kid = [result for result in results if "kid" in result.metrics]
    with_psnr = [result for result in results if "psnr_db" in result.metrics]
    by_psnr = {name: [result for result in with_psnr if result.reference == name] for name in tables.references(with_psnr)}
    closer = [result for result in by_kid if result.evaluations >= _CLOSE_FROM]
    panels = (1 if by_kid else 0) + (1 if closer else 0) + len(by_psnr)
    if not panels:
        return
    style: Style = {name: {"color": f"C{i % 10}", "marker": _MARKERS[i % 12]} for i, name in enumerate(tables.methods(results))}
    across, down = min(panels, 2), -(-panels // 2)
    figure, grid = plt.subplots(down, across, figsize=(6.5 * across, 5 * down), squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for spare in axes[panels:]:
        spare.remove()
    free = axes[:panels]
    if by_kid:
        _kid(free.pop(0), by_kid, style, "distance to the training images")
        if all(result.metrics["kid_low"] > 0 for result in by_kid if result.method != REAL_IMAGES):
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_formatter("{x:.0f}")
            axes[0].yaxis.set_minor_formatter("{x:.0f}")
    if closer:
        _kid(free.pop(0), closer, style, f"the same from {_CLOSE_FROM} evaluations on")
    for axis, (reference, measured) in zip(free, by_psnr.items(), strict=True):
        for look, points in _curves(measured, style):
            axis.plot([r.evaluations for r in points], [r.metrics["psnr_db"] for r in points], **look)
        axis.set_title(f"agreement with {reference}", fontsize=10)
        axis.set_ylabel("PSNR from the same noise, dB (higher is better)")
    for axis in axes[:panels]:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_xlabel("network evaluations an image")
        axis.grid(alpha=0.3)
        if not (closer and axis is axes[1]):  # the panel beside it has the same legend
            axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _kid(axis: Axes, results: Sequence[Result], style: Style, title: str) -> None:
    for look, points in _curves(results, style):
        values = [1000 * r.metrics["kid"] for r in points]
        error = [500 * (r.metrics["kid_high"] - r.metrics["kid_low"]) for r in points]
        axis.errorbar([r.evaluations for r in points], values, yerr=error, markersize=5, capsize=3, **look)
    for result in results:
        if result.method == REAL_IMAGES:
            title += f" ({REAL_IMAGES}: {1000 * result.metrics['kid']:.1f})"
    axis.set_title(title, fontsize=10)
    axis.set_ylabel("KID x 1000 (lower is better)")


def _curves(results: Sequence[Result], style: Style) -> list[tuple[dict[str, Any], list[Result]]]:
    """Return (matplotlib arguments, results by evaluations) of every series. Series of one method have one colour."""
    made, seen = [], dict.fromkeys(style, 0)
    for label, method, points in tables.series(results):
        made.append(({**style[method], "label": label, "linestyle": ("-", "--", ":", "-.")[seen[method] % 4]}, points))
        seen[method] += 1
    return made
