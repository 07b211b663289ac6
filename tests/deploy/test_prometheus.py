"""promtool checks the rules. A real Prometheus scrapes the real service under load: every expression finds data."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import start_http_server

from tests.e2e.conftest import PATIENCE_S, ROOT, serving
from tests.redis_server import RedisServer
from tests.service.observability.test_gpu import Driver, gpu_registry

pytestmark = pytest.mark.prometheus

DEPLOY = ROOT / "deploy"
RULES = [DEPLOY / "prometheus" / name for name in ("rules.yml", "alerts.yml")]
OPERATIONS = ROOT / "docs" / "operations.md"

LOAD: list[dict[str, object]] = [
    {"model": "tiny/teacher", "n": 4},
    {"model": "tiny/student-004", "seed": 1},
    {"model": "tiny/student-008", "max_latency_ms": 60_000},
    {"model": "tiny/steps", "user": "a"},
    {"model": "tiny/steps", "user": "b"},
    {"model": "tiny/teacher", "n": 16, "max_latency_ms": 1},  # refused
]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name}: install Debian's package prometheus")
    return found


def promtool(*arguments: str | Path) -> None:
    result = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[tuple[str, str]]:
    """Return (title, expression) of every target of every panel."""
    found = []
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel.get("targets", [])]
    return found


def test_promtool_accepts_the_files() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    promtool("check", "rules", *RULES)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    cases = Path(__file__).with_name("alerts_test.yml")
    promtool("test", "rules", cases)
    tested = {test["alert_rule_test"][0]["alertname"] for test in yaml.safe_load(cases.read_text())["tests"]}
    assert tested == {rule["alert"] for rule in rules() if "alert" in rule}


def test_the_first_row_shows_nothing_old_when_every_server_has_died(tmp_path: Path) -> None:
    before, after = "2m", "5m"  # the servers die, and so their series end, after three minutes
    model, le = 'job="sfddm", instance="a", model="cats/teacher"', {"1.0": "0+60x12 stale", "+Inf": "0+60x12 stale"}
    series = {
        'up{job="sfddm", instance="a"}': "1x12 0x20",
        'sfddm_ready{job="sfddm", instance="a"}': "1x12 stale",
        'sfddm_wait_seconds{job="sfddm", instance="a"}': "3x12 stale",
        'sfddm_max_backlog_seconds{job="sfddm", instance="a"}': "60x12 stale",
        'sfddm_shed_total{job="sfddm", instance="a", reason="latency"}': "0+60x12 stale",
        f'sfddm_requests_total{{{model}, outcome="ok"}}': "0+30x12 stale",
        f'sfddm_requests_total{{{model}, outcome="error"}}': "0+30x12 stale",
        **{f'sfddm_request_seconds_bucket{{{model}, le="{bound}"}}': values for bound, values in le.items()},
    }
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    healthy = {"Up": 1.0, "Error ratio": 0.5, "Requests": 4.0, "Shed": 4.0, "Longest queue": 0.05, "p95 by model": 0.95}
    overview = json.loads((DEPLOY / "grafana" / "dashboards" / "overview.json").read_text())["panels"]
    first = {panel["title"]: panel["targets"] for panel in overview if panel["type"] == "stat"}
    assert first.keys() == healthy.keys()
    cases = []
    for title, (target,) in first.items():
        assert target["instant"]
        assert target["range"] is False, "Grafana takes both for both"
        expression = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
        labels = '{model="cats/teacher"}' if "by model" in title else "{}"
        well = [{"labels": labels, "value": healthy[title]}]
        dead = [{"labels": "{}", "value": 0}] if title == "Up" else []  # none: Grafana says "no traffic" or "no data"
        cases += [{"expr": expression, "eval_time": when, "exp_samples": s} for when, s in ((before, well), (after, dead))]
    test = {"tests": [{"interval": "15s", "input_series": inputs, "promql_expr_test": cases}]}
    (tmp_path / "first_row.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", tmp_path / "first_row.yml")


def test_speedup_needs_no_traffic_and_a_first_request_is_seen(tmp_path: Path) -> None:
    # One request of the teacher, half an hour before the student's only one.
    bucket = 'sfddm_request_seconds_bucket{{job="sfddm", instance="a", model="cats/{}", le="{}"}}'
    series = {
        bucket.format("teacher", "4.0"): "0x10 0x100",
        bucket.format("teacher", "8.0"): "0x10 1x100",
        bucket.format("teacher", "+Inf"): "0x10 1x100",
        bucket.format("student-004", "1.0"): "0x40 1x100",
        bucket.format("student-004", "+Inf"): "0x40 1x100",
        'sfddm_model_image_seconds{job="sfddm", instance="a", model="cats/teacher"}': "8x140",
        'sfddm_model_image_seconds{job="sfddm", instance="a", model="cats/student-004"}': "1x140",
    }
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    cases = [
        {"expr": f'{name}{{model="cats/student-004"}}', "eval_time": when, "exp_samples": samples}
        for name, when, value in [
            ("sfddm:speedup:p50_1h", "20m", None),  # the student has not been asked for
            ("sfddm:speedup:p50_1h", "60m", 12),  # medians of 6 and 0.5 s, interpolated in their buckets
            ("sfddm:speedup:calibrated", "1m", 8),
        ]
        for samples in (
            [{"labels": f'{name}{{family="cats", model="cats/student-004"}}', "value": value}] if value is not None else [],
        )
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": cases}
    (tmp_path / "speedup.yml").write_text(
        yaml.safe_dump({"rule_files": [str(RULES[0])], "evaluation_interval": "1m", "tests": [test]})
    )
    promtool("test", "rules", tmp_path / "speedup.yml")


def test_every_alert_has_a_runbook_entry() -> None:
    headings = re.findall(r"^### (\w+)$", OPERATIONS.read_text(), re.MULTILINE)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert headings == [alert["alert"] for alert in alerts]
    for alert in alerts:
        notes = alert["annotations"]
        assert notes["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert notes["description"].endswith("."), "what to do first: a path in this repository cannot be clicked"


@pytest.fixture(scope="module")
def prometheus(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[str]:
    """Let a Prometheus scrape a service under load, beside a Redis as in docker-compose.yml; give its url."""
    binary, folder = program("prometheus"), tmp_path_factory.mktemp("prometheus")
    experiment = json.dumps({"tiny/steps": {"arms": {"tiny/student-004": 1, "tiny/student-008": 1}}})
    options = ("--zoo", str(tiny_zoo), "--threads", "1")
    setting = {"SFDDM_EXPERIMENTS": experiment, "SFDDM_REDIS_URL": redis_server.url, "SFDDM_LOG_FORMAT": "json"}
    gpu, _ = start_http_server(0, "127.0.0.1", gpu_registry(Driver()))  # the real collector over a stand-in for the driver
    with serving(folder / "log", *options, **setting) as server:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in RULES],
            "scrape_configs": [
                {"job_name": "sfddm", "static_configs": [{"targets": [server.url.removeprefix("http://")]}]},
                {"job_name": "gpu", "static_configs": [{"targets": [f"127.0.0.1:{gpu.server_port}"]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        files = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "prometheus.log").open("w") as log:
            process = subprocess.Popen([binary, *files, f"--web.listen-address={url.removeprefix('http://')}"], stderr=log)
        try:
            with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
                assert client.post("/v1/jobs", json={"model": "tiny/student-008", "n": 2}).status_code == 202
                deadline = time.monotonic() + PATIENCE_S
                while time.monotonic() < deadline:
                    for body in LOAD:
                        client.post("/v1/images/generations", json=body)
                    if recorded(url):
                        break
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            gpu.shutdown()
            gpu.server_close()


def recorded(url: str) -> bool:
    """Return True once every recording rule has a value."""
    try:
        return all(query(url, rule["record"]) for rule in rules() if "record" in rule)
    except httpx.TransportError:
        return False


def query(url: str, expression: str) -> list[float]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=PATIENCE_S).json()
    assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
    return [float(series["value"][1]) for series in answer["data"]["result"]]


def test_every_panel_has_data(prometheus: str) -> None:
    empty = {
        title
        for title, expression in panels()
        if not query(prometheus, expression.replace("$__rate_interval", "2m").replace("$model", ".*"))
    }
    assert not empty
    assert len(panels()) > 40


def test_no_panel_shows_nan(prometheus: str) -> None:
    for title, expression in panels():
        values = query(prometheus, expression.replace("$__rate_interval", "2m").replace("$model", ".*"))
        assert all(value == value for value in values), title


def test_every_rule_and_alert_reads_series_that_exist(prometheus: str) -> None:
    for rule in rules():
        selectors = re.findall(r"(?:\bsfddm[\w:]*|\bup\b)(?:\{[^}]*\})?", rule["expr"])
        assert selectors
        for selector in selectors:
            assert query(prometheus, selector), f"{rule.get('record') or rule['alert']}: {selector}"
        if "record" in rule:
            assert query(prometheus, rule["record"])


def test_a_healthy_service_fires_no_alert(prometheus: str) -> None:
    assert query(prometheus, 'ALERTS{alertstate="firing"}') == []
