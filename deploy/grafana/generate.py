"""Write the dashboards of deploy/grafana/dashboards with Grafana's own builders (grafana-foundation-sdk).

    python deploy/grafana/generate.py

Change a dashboard here, never its JSON. A panel without samples says "no traffic", never NaN: every ratio is computed only
where its denominator is above 0.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef, Threshold, ThresholdsMode

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOK = "What the alerts mean and what to do: docs/operations.md."

Query = tuple[str, str]  # PromQL, legend


def rate(metric: str, by: str, match: str = "") -> str:
    """Return PromQL for events per second."""
    return f"sum by ({by}) (rate({metric}{{{match}}}[$__rate_interval]))"


def quantile(q: float, metric: str, by: str, match: str = "") -> str:
    """Return PromQL for a quantile of a histogram; `>= 0` drops NaN."""
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', f'{by}, le', match)}) >= 0"


def mean(metric: str, by: str, match: str = "") -> str:
    return f"{rate(f'{metric}_sum', by, match)} / ({rate(f'{metric}_count', by, match)} > 0)"


def link(uid: str, title: str) -> DashboardLink:
    """Link a panel to the dashboard with the details, with the same time range and variables."""
    return DashboardLink(title).type(DashboardLinkType.LINK).url(f"/d/{uid}").keep_time(True).include_vars(True)


BY_STEPS = link("sfddm-ab", "Latency by step count")
ENGINE = link("sfddm-engine", "Engine and device")
OVERVIEW = link("sfddm-overview", "Overview")


def single(title: str, text: str, unit: str, query: Query, *steps: tuple[float | None, str], more: DashboardLink) -> stat.Panel:
    """Make a panel of one number. steps: (from, colour) of its thresholds; more: the dashboard that explains it."""
    thresholds = [Threshold(value=value, color=color) for value, color in steps or ((None, "green"),)]
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .no_value(_nothing(query))
        .datasource(SOURCE)
        .height(5)
        .span(4)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
        .links([more])
    )
    # An instant query: the last value of the time range would show a server that has died as it was before.
    return panel.graph_mode(BigValueGraphMode.NONE).with_target(_target(query, 0).instant())


def graph(title: str, text: str, unit: str, *queries: Query, span: int = 12, more: DashboardLink = ENGINE) -> timeseries.Panel:
    """Make a panel of curves over time. more: the dashboard to look at next."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .min(0)
        .no_value(_nothing(*queries))
        .datasource(SOURCE)
        .height(8)
        .span(span)
        .tooltip(common.VizTooltipOptions())
        .links([more])
    )
    for number, query in enumerate(queries):
        panel.with_target(_target(query, number))
    return panel


def _nothing(*queries: Query) -> str:
    """Return the text that a panel shows without samples."""
    expressions = " ".join(expression for expression, _ in queries)
    if "sfddm_gpu_" in expressions:
        return "no GPU"
    return "no traffic" if re.search(r"rate\(sfddm_|sfddm:", expressions) else "no data"


def _target(query: Query, number: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query[0]).legend_format(query[1]).ref_id("ABCDEF"[number])


def board(uid: str, title: str, text: str) -> Dashboard:
    """Make an empty dashboard with what all dashboards share: variables and links to the others."""
    to_others = DashboardLink("SFDDM dashboards").type(DashboardLinkType.DASHBOARDS).tags(["sfddm"]).keep_time(True)
    source = DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    models = QueryVariable("model").label("Model").query("label_values(sfddm_requests_total, model)").datasource(SOURCE)
    return (
        Dashboard(title)
        .uid(uid)
        .description(f"{text} {RUNBOOK}")
        .tags(["sfddm"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .link(to_others)
        .with_variable(source)
        .with_variable(models.multi(True).include_all(True).all_value(".*").refresh(2))
    )


MODEL = 'model=~"$model"'
ERRORS = 'outcome=~"error|unavailable"'


def overview() -> Dashboard:
    """Make the overview. Its first row shows if the service is healthy."""
    requests = "sum(rate(sfddm_requests_total[$__rate_interval]))"
    valid = 'sum(rate(sfddm_requests_total{outcome!="invalid"}[$__rate_interval]))'
    errors = f"sum(rate(sfddm_requests_total{{{ERRORS}}}[$__rate_interval]))"
    return (
        board("sfddm-overview", "SFDDM: overview", "The first row shows if the service is healthy.")
        .with_row(Row("Health"))
        .with_panel(
            single("Requests", "Requests answered each second, whatever the outcome.", "reqps", (requests, ""), more=BY_STEPS)
        )
        .with_panel(
            single(
                "Error ratio",
                "Requests that failed for our reasons (error, unavailable) over all that were valid.",
                "percentunit",
                (f"{errors} / ({valid} > 0)", ""),
                (None, "green"),
                (0.01, "orange"),
                (0.05, "red"),
                more=ENGINE,
            )
        )
        .with_panel(
            single(
                "p95 by model",
                "95 of 100 requests were answered within this time.",
                "s",
                (quantile(0.95, "sfddm_request_seconds", "model", MODEL), "{{model}}"),
                more=BY_STEPS,
            )
        )
        .with_panel(
            single(
                "Longest queue",
                "Longest estimated wait of a model, over the limit at which requests for it are refused.",
                "percentunit",
                ("max(sfddm_wait_seconds / sfddm_max_backlog_seconds)", ""),
                (None, "green"),
                (0.25, "orange"),
                (0.5, "red"),
                more=ENGINE,
            )
        )
        .with_panel(
            single(
                "Shed",
                "Requests refused by the engine each second.",
                "reqps",
                ("sum(rate(sfddm_shed_total[$__rate_interval]))", ""),
                (None, "green"),
                (0.1, "orange"),
                more=BY_STEPS,
            )
        )
        .with_panel(
            single(
                "Up",
                "Replicas that accept requests over those that Prometheus knows.",
                "percentunit",
                ('(sum(sfddm_ready) or vector(0)) / count(up{job="sfddm"})', ""),
                (None, "red"),
                (1, "green"),
                more=ENGINE,
            )
        )
        .with_row(Row("Traffic"))
        .with_panel(
            graph(
                "Requests by model",
                "Requests answered each second.",
                "reqps",
                (rate("sfddm_requests_total", "model", MODEL), "{{model}}"),
                more=BY_STEPS,
            )
        )
        .with_panel(
            graph(
                "Requests by outcome",
                "ok, error, overloaded (429), unavailable (503), cancelled by the client, invalid.",
                "reqps",
                (rate("sfddm_requests_total", "outcome", MODEL), "{{outcome}}"),
            )
        )
        .with_panel(
            graph(
                "Shed by reason",
                "Requests refused each second, by reason.",
                "reqps",
                (rate("sfddm_shed_total", "reason"), "{{reason}}"),
            )
        )
        .with_panel(
            graph(
                "Error budget burn",
                "At 1, failures spend the month's budget (1 % of requests) in exactly a month.",
                "none",
                ("sfddm:request_errors:ratio_rate1h / 0.01", "1 h"),
                ("sfddm:request_errors:ratio_rate6h / 0.01", "6 h"),
            )
        )
        .with_panel(
            graph(
                "Latency promises",
                "Requests with max_latency_ms, kept and broken.",
                "reqps",
                (rate("sfddm_deadlines_total", "outcome", MODEL), "{{outcome}}"),
                more=BY_STEPS,
            )
        )
        .with_panel(
            graph(
                "Jobs and cache",
                "Images made for jobs, and images looked up in the result cache, each second.",
                "ops",
                ("sum(rate(sfddm_job_images_total[$__rate_interval]))", "job images"),
                (rate("sfddm_cache_images_total", "outcome"), "cache {{outcome}}"),
            )
        )
    )


def comparison() -> Dashboard:
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


def render() -> dict[str, str]:
    """Return every dashboard by file name."""
    boards = {"overview": overview(), "ab-latency": comparison(), "engine": engine()}
    return {f"{name}.json": JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n" for name, made in boards.items()}


if __name__ == "__main__":
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
