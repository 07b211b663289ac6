"""The overview: the health of the service, and its traffic."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from deploy.grafana.panels import BY_STEPS, ENGINE, MODEL, board, graph, quantile, rate, single

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
