"""The dashboards equal the generator's output, and every panel has a unit and a description."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


def test_the_files_are_what_the_generator_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk")
    module = importlib.import_module("deploy.grafana.generate")
    assert {path.name: path.read_text() for path in FILES} == module.render(), "run python -m deploy.grafana.generate"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_has_a_unit_a_description_and_no_nan(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["links"]
    for panel in board["panels"]:
        if panel["type"] != "row":
            defaults = panel["fieldConfig"]["defaults"]
            assert panel["description"].endswith("."), panel["title"]
            assert defaults["unit"]
            expressions = [target["expr"] for target in panel["targets"]]
            traffic = any("rate(sfddm_" in expression for expression in expressions)
            gpu = any("sfddm_gpu_" in expression for expression in expressions)
            assert defaults["noValue"] in ({"no GPU"} if gpu else {"no traffic"} if traffic else {"no traffic", "no data"})
            assert panel["datasource"]["uid"] == "${datasource}"


def test_every_number_of_the_first_row_links_to_the_dashboard_that_explains_it() -> None:
    boards = {path.stem: json.loads(path.read_text()) for path in FILES}
    urls = {f"/d/{board['uid']}" for board in boards.values()}
    first = [panel for panel in boards["overview"]["panels"] if panel["type"] == "stat"]
    assert [panel["title"] for panel in first] == ["Requests", "Error ratio", "p95 by model", "Longest queue", "Shed", "Up"]
    for panel in first:
        assert {link["url"] for link in panel["links"]} <= urls - {"/d/sfddm-overview"}
        assert panel["links"]


def test_every_curve_links_to_another_dashboard() -> None:
    boards = [json.loads(path.read_text()) for path in FILES]
    urls = {f"/d/{board['uid']}" for board in boards}
    for board in boards:
        for panel in board["panels"]:
            if panel["type"] == "timeseries":
                (more,) = panel["links"]
                assert more["url"] in urls - {f"/d/{board['uid']}"}, panel["title"]


def test_provisioning_finds_the_dashboards_and_the_data() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"] if volume.startswith("./"))
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/sfddm.yml").read_text())["providers"][0]
    assert provider["options"]["path"] in mounts.values()
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"].removeprefix("http://").split(":")[0] in compose
