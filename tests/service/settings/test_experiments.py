"""Experiments in the settings: as JSON, or as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings.experiments import Experiment
from service.settings.model import Settings


def test_the_environment_holds_them_or_names_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arms = {"m/a": 1, "m/b": 2.5}
    as_json = json.dumps({"one/two": {"arms": arms}})
    (tmp_path / "e.json").write_text(as_json)
    (tmp_path / "e.toml").write_text('["one/two".arms]\n"m/a" = 1\n"m/b" = 2.5\n')
    for value in (as_json, str(tmp_path / "e.json"), str(tmp_path / "e.toml")):
        monkeypatch.setenv("SFDDM_EXPERIMENTS", value)
        assert Settings().experiments == {"one/two": Experiment(arms=arms)}


@pytest.mark.parametrize(
    "value",
    [
        '{"e": {"arms": {"a": 1}}}',
        '{"e": {"arms": {"a": 1, "b": 0}}}',
        '{"e": {"arms": {"a": 1, "b": 1}, "salt": 1}}',
        '{"E e": {"arms": {"a": 1, "b": 1}}}',
        "{not json",
        "no/such/file.toml",
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SFDDM_EXPERIMENTS", value)
    with pytest.raises(ValidationError, match="experiments"):
        Settings()
