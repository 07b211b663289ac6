"""Quality against network evaluations, one curve a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.evaluation.measure import Row
from training.evaluation.tables import TEST


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: KID with its intervals where measured, and PSNR to the reference, over evaluations."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    metrics = [name for name in ("kid", "psnr_db") if any(name in row.metrics for row in rows if row.method != TEST)]
    if not metrics:
        return
    methods = sorted({row.method for row in rows if row.method != TEST}, key=lambda m: (m != "student", m == "teacher", m))
    figure, axes = plt.subplots(1, len(metrics), figsize=(6 * len(metrics), 4.2), squeeze=False, layout="constrained")
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, method in enumerate(methods):
            points = sorted((r for r in rows if r.method == method and metric in r.metrics), key=lambda r: r.evaluations)
            if not points:
                continue
            x = [r.evaluations for r in points]
            y = [r.metrics[metric] * (1000 if metric == "kid" else 1) for r in points]
            error = [500 * (r.metrics["kid_high"] - r.metrics["kid_low"]) for r in points] if metric == "kid" else None
            axis.errorbar(x, y, yerr=error, label=method, marker="o", markersize=4, capsize=3, color=f"C{number}")
        for row in rows:
            if row.method == TEST and metric == "kid":
                axis.axhline(1000 * row.metrics["kid"], color="grey", linestyle=":", label=TEST)
        axis.set_xscale("log", base=2)
        if metric == "kid" and all(r.metrics["kid"] > 0 for r in rows if "kid" in r.metrics):
            axis.set_yscale("log")
        axis.set_xlabel("network evaluations an image")
        axis.set_ylabel("KID x 1000 (lower is better)" if metric == "kid" else "PSNR to the reference, dB (higher is better)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
