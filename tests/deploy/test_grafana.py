"""The dashboards are what their generator makes, and say what they show."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


def test_the_files_are_what_the_generator_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk")
    spec = importlib.util.spec_from_file_location("generate", GRAFANA / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {path.name: path.read_text() for path in FILES} == module.render(), "run deploy/grafana/generate.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_has_a_unit_a_description_and_no_nan(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["links"]
    for panel in board["panels"]:
        if panel["type"] != "row":
            defaults = panel["fieldConfig"]["defaults"]
            assert panel["description"].endswith("."), panel["title"]
            assert defaults["unit"]
            assert defaults["noValue"] == "no traffic"
            assert panel["datasource"]["uid"] == "${datasource}"


def test_provisioning_finds_the_dashboards_and_the_data() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"] if volume.startswith("./"))
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/sfddm.yml").read_text())["providers"][0]
    assert provider["options"]["path"] in mounts.values()
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"].removeprefix("http://").split(":")[0] in compose
