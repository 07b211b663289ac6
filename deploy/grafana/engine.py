"""The engine, its process and its device."""

from __future__ import annotations

from functools import partial

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from deploy.grafana.panels import OVERVIEW, board, graph, quantile, rate


def engine() -> Dashboard:
    """Make the dashboard of the engine, its process and its device."""
    per_replica = "{{instance}}"
    curves = partial(graph, more=OVERVIEW)
    return (
        board("sfddm-engine", "SFDDM: engine and device", "Steps, queues, process and device.")
        .with_row(Row("Engine"))
        .with_panel(
            curves(
                "Backlog",
                "Device time of all admitted work, and the longest wait for a model. Over the limit its requests are refused.",
                "s",
                ("sfddm_backlog_seconds", "all work, {{instance}}"),
                ("sfddm_wait_seconds", "longest wait, {{instance}}"),
                span=8,
            )
        )
        .with_panel(
            curves(
                "Rows and requests",
                "Images being denoised, and requests that wait for their first step.",
                "short",
                ("sfddm_running_rows", "rows, {{instance}}"),
                ("sfddm_waiting_requests", "waiting, {{instance}}"),
                span=8,
            )
        )
        .with_panel(
            curves("Steps", "Row steps computed each second.", "ops", (rate("sfddm_steps_total", "model"), "{{model}}"), span=8)
        )
        .with_panel(
            curves(
                "A step, by batch size",
                "p95 of one network evaluation.",
                "s",
                (quantile(0.95, "sfddm_step_seconds", "model, bucket"), "{{model}} x {{bucket}}"),
            )
        )
        .with_panel(
            curves(
                "Device busy",
                "Share of time in which a step ran.",
                "percentunit",
                ("sum by (instance) (rate(sfddm_step_seconds_sum[$__rate_interval]))", per_replica),
            )
        )
        .with_panel(
            curves(
                "Waste",
                "Row steps of images that were cancelled or failed, and rows that only filled a batch, over all steps.",
                "percentunit",
                (
                    "sum(rate(sfddm_wasted_steps_total[$__rate_interval]))"
                    " / (sum(rate(sfddm_steps_total[$__rate_interval])) > 0)",
                    "wasted",
                ),
                (
                    "sum(rate(sfddm_padded_rows_total[$__rate_interval]))"
                    " / (sum(rate(sfddm_steps_total[$__rate_interval])) > 0)",
                    "padding",
                ),
            )
        )
        .with_panel(
            curves(
                "Time taken over time estimated",
                "Above 1 the estimate at admission was too short.",
                "x",
                (quantile(0.5, "sfddm_estimate_ratio", "model"), "p50 {{model}}"),
                (quantile(0.95, "sfddm_estimate_ratio", "model"), "p95 {{model}}"),
            )
        )
        .with_panel(
            curves(
                "Models and store",
                "1 while a model is loaded; 1 while the store answers.",
                "short",
                ("sfddm_model_loaded", "{{model}}"),
                ("sfddm_store_up", "store, {{instance}}"),
            )
        )
        .with_panel(
            curves(
                "Zoo",
                "Above 0: folders refused, models older than their folder, and reloads that failed in the last 15 minutes.",
                "short",
                ("sfddm_folders_refused", "refused, {{instance}}"),
                ("sum by (instance) (sfddm_model_outdated)", "outdated, {{instance}}"),
                (
                    'sum by (instance) (increase(sfddm_reloads_total{outcome="failed"}[15m]))',
                    "reloads failed, {{instance}}",
                ),
            )
        )
        .with_row(Row("Process"))
        .with_panel(
            curves(
                "CPU",
                "Cores in use.",
                "short",
                ('rate(process_cpu_seconds_total{job="sfddm"}[$__rate_interval])', per_replica),
                span=8,
            )
        )
        .with_panel(
            curves("Memory", "Resident memory.", "bytes", ('process_resident_memory_bytes{job="sfddm"}', per_replica), span=8)
        )
        .with_panel(
            curves(
                "Open files",
                "File descriptors. Each connection uses one.",
                "short",
                ('process_open_fds{job="sfddm"}', per_replica),
                span=8,
            )
        )
        .with_row(Row("GPU"))
        .with_panel(
            curves(
                "GPU busy",
                "Share of time in which a kernel ran.",
                "percentunit",
                ("sfddm_gpu_utilization_ratio", per_replica),
                span=6,
            )
        )
        .with_panel(
            curves(
                "GPU memory",
                "Memory in use by all processes, and all memory of the GPU.",
                "bytes",
                ("sfddm_gpu_memory_used_bytes", "used, {{instance}}"),
                ("sfddm_gpu_memory_total_bytes", "total, {{instance}}"),
                span=6,
            )
        )
        .with_panel(curves("GPU power", "Power drawn now.", "watt", ("sfddm_gpu_power_watts", per_replica), span=6))
        .with_panel(
            curves(
                "GPU temperature",
                "Temperature of the chip.",
                "celsius",
                ("sfddm_gpu_temperature_celsius", per_replica),
                span=6,
            )
        )
    )
