"""Latency by step count, and by arm of an experiment."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from deploy.grafana.panels import MODEL, board, graph, mean, quantile, rate


def latency() -> Dashboard:
    """Make the dashboard of latency and quality by step count."""
    panels = [
        graph(
            f"p{round(100 * q)} of a request, by model",
            f"{round(100 * q)} of 100 requests were answered within this time.",
            "s",
            (quantile(q, "sfddm_request_seconds", "model", MODEL), "{{model}}"),
            span=8,
        )
        for q in (0.5, 0.95, 0.99)
    ]
    compute = mean("sfddm_compute_seconds", "model", MODEL)
    result = board("sfddm-ab", "SFDDM: latency by step count", "Students of different step counts beside their teacher.")
    result.with_row(Row("Side by side"))
    for panel in panels:
        result.with_panel(panel)
    return (
        result.with_panel(
            graph(
                "Speed-up over the teacher",
                "The teacher's median time over the model's: of requests in the last hour, and of one image as calibrated.",
                "x",
                (f"sfddm:speedup:p50_1h{{{MODEL}}}", "{{model}}"),
                (f"sfddm:speedup:calibrated{{{MODEL}}}", "{{model}}, calibrated"),
            )
        )
        .with_panel(
            graph(
                "Images by model",
                "Images finished each second.",
                "ops",
                (rate("sfddm_compute_seconds_count", "model", MODEL), "{{model}}"),
            )
        )
        .with_row(Row("Where the time goes"))
        .with_panel(
            graph(
                "Queue",
                "Mean wait of an image before its first step.",
                "s",
                (mean("sfddm_queue_seconds", "model", MODEL), "{{model}}"),
                span=8,
            )
        )
        .with_panel(graph("Compute", "Mean time that the steps of an image took.", "s", (compute, "{{model}}"), span=8))
        .with_panel(
            graph(
                "Batch occupancy",
                "Mean rows in a batch; rows of every step count and request share batches.",
                "short",
                (mean("sfddm_batch_rows", "model", MODEL), "{{model}}"),
                span=8,
            )
        )
        .with_panel(
            graph(
                "Queue, p95",
                "95 of 100 images waited no longer before their first step.",
                "s",
                (quantile(0.95, "sfddm_queue_seconds", "model", MODEL), "{{model}}"),
            )
        )
        .with_panel(
            graph(
                "Compute, p95",
                "The steps of 95 of 100 images took no longer than this.",
                "s",
                (quantile(0.95, "sfddm_compute_seconds", "model", MODEL), "{{model}}"),
            )
        )
        .with_row(Row("Experiments"))
        .with_panel(
            graph(
                "Median by arm",
                "50 of 100 answers of the arm came within this time.",
                "s",
                (quantile(0.5, "sfddm_experiment_request_seconds", "experiment, arm"), "{{experiment}}: {{arm}}"),
            )
        )
        .with_panel(
            graph(
                "p95 by arm",
                "95 of 100 answers of the arm came within this time.",
                "s",
                (quantile(0.95, "sfddm_experiment_request_seconds", "experiment, arm"), "{{experiment}}: {{arm}}"),
            )
        )
        .with_panel(
            graph(
                "Answers by arm",
                "Answers each second.",
                "reqps",
                (rate("sfddm_experiment_request_seconds_count", "experiment, arm"), "{{experiment}}: {{arm}}"),
            )
        )
    )
