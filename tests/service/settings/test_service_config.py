"""Settings.service_config: the part of the settings that the features get."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from service.features.config import ServiceConfig
from service.settings.experiments import Experiment
from service.settings.model import Settings


def test_every_default_stands_once() -> None:
    """The settings take their defaults from ServiceConfig. Only the defaults that depend on this machine differ."""
    ours, theirs = Settings(cache_dir=None, provider=None).service_config(), ServiceConfig()
    assert {each.name for each in fields(ours) if getattr(ours, each.name) != getattr(theirs, each.name)} == {"zoos"}


def test_settings_become_plain_values() -> None:
    arms = {"a/b": 1.0, "a/c": 2.0}
    config = Settings(
        zoos=(Path("zoo"),),
        experiments={"e": Experiment(arms=arms)},
        model_weights={"a/b": 0.5},
        gpu_memory_mb=64,
        redis_url="redis://:secret@127.0.0.1:1/0",  # type: ignore[arg-type]  # a string, as in the environment
        url_secret="hidden",
    ).service_config()
    assert config.experiments == {"e": arms}
    assert (config.engine.weights, config.gpu_memory) == ({"a/b": 0.5}, 64 << 20)
    assert config.redis_url == "redis://:secret@127.0.0.1:1/0"
    assert not [secret for secret in ("secret", "hidden") if f"'{secret}" in repr(config) or f":{secret}" in repr(config)]
