"""Build the parts of the dashboards: queries, panels, links, and an empty dashboard.

A panel without samples says "no traffic", never NaN: every ratio is computed only where its denominator is above 0.
"""

from __future__ import annotations

import re

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.models.common import BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef, Threshold, ThresholdsMode

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOK = "What the alerts mean and what to do: docs/operations.md."

Query = tuple[str, str]  # PromQL, legend

MODEL = 'model=~"$model"'  # a match: the models chosen at the top of the dashboard


def rate(metric: str, by: str, match: str = "") -> str:
    """Return PromQL for events per second."""
    return f"sum by ({by}) (rate({metric}{{{match}}}[$__rate_interval]))"


def quantile(q: float, metric: str, by: str, match: str = "") -> str:
    """Return PromQL for a quantile of a histogram; `>= 0` drops NaN."""
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', f'{by}, le', match)}) >= 0"


def mean(metric: str, by: str, match: str = "") -> str:
    """Return PromQL for the mean of a histogram where it has samples."""
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
