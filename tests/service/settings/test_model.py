"""Settings come from SFDDM_* variables, and values out of range are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.catalogue import default_zoo
from service.settings.model import Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("SFDDM_")]:
        monkeypatch.delenv(name)


def test_defaults_serve_the_shipped_models_to_this_machine_only() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.zoos) == ("127.0.0.1", 8000, (default_zoo(),))


def test_the_environment_sets_and_arguments_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFDDM_PORT", "9000")
    monkeypatch.setenv("SFDDM_ZOOS", "one, two/three")
    assert Settings().port == 9000
    assert Settings().zoos == (Path("one"), Path("two/three"))
    monkeypatch.setenv("SFDDM_MODEL_WEIGHTS", '{"cats/teacher": 0.5}')
    assert Settings().model_weights == {"cats/teacher": 0.5}
    monkeypatch.setenv("SFDDM_CACHE_DIR", "")
    assert Settings().cache_dir is None
    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("MAX_N", "0"),
        ("MAX_BACKLOG_S", "-1"),
        ("LOG_FORMAT", "xml"),
        ("THREADS", "0"),
        ("MODEL_WEIGHTS", '{"cats/teacher": 0}'),
        ("MAX_BATCH", "many"),
        ("MAX_COMPARISON_S", "0"),
        ("PUBLIC_URL", ""),
        ("PUBLIC_URL", "images.example.com"),
        ("PUBLIC_URL", "ftp://images.example.com"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", "https://images.example.com/?a=b"),
        ("PUBLIC_URL", "https://images.example.com/\r\nx: y"),
        ("URL_SECRET", ""),
        ("URL_SECRET", "  "),
        ("ZOOS", ""),
        ("ZOOS", " , "),
        ("EXPERIMENTS", "nowhere.toml"),
    ],
)
def test_values_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SFDDM_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    "url", ["http://localhost:8000", "https://images.example.com/sfddm/", "HTTPS://images.example.com", "http://[::1]:80"]
)
def test_a_public_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SFDDM_PUBLIC_URL", url)
    assert Settings().public_url == url
