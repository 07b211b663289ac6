"""Settings come from three places, each value with its origin. Typos are refused with a suggestion."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from service.observability.masking import MASK, mask_credentials
from service.settings.model import Settings
from service.settings.sources import ConfigurationError, read_configuration


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SFDDM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sfddm.toml"
    path.write_text(
        'port = 9001\nmax_n = 3\nmax_batch = 8\nzoos = ["a", "b"]\nmodel_weights = {"cats/teacher" = 0.5}\n'
        '[experiments."cats/steps".arms]\n"cats/student-004" = 1\n"cats/student-008" = 3\n'
    )
    return path


def test_options_beat_the_environment_which_beats_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFDDM_MAX_N", "4")
    monkeypatch.setenv("SFDDM_PORT", "9002")
    found = read_configuration({"port": 9003, "host": None}, file)
    settings, origins = found.settings, found.origins
    assert (settings.port, settings.max_n, settings.max_batch) == (9003, 4, 8)
    assert (settings.zoos, settings.model_weights) == ((Path("a"), Path("b")), {"cats/teacher": 0.5})
    assert settings.experiments["cats/steps"].arms == {"cats/student-004": 1, "cats/student-008": 3}
    assert origins["port"] == "option"
    assert origins["max_n"] == "environment SFDDM_MAX_N"
    assert origins["max_batch"] == f"file {file}"
    assert origins["host"] == "default"


def test_the_environment_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFDDM_CONFIG", str(file))
    assert read_configuration({}).settings.port == 9001


def test_what_is_printed_is_a_file_that_gives_the_same_settings(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFDDM_MAX_BACKLOG_S", "2.5")
    first = read_configuration({"deterministic": True}, file)
    printed = tmp_path / "printed.toml"
    printed.write_text(first.to_toml())
    assert len(tomllib.loads(printed.read_text())) > 20
    monkeypatch.delenv("SFDDM_MAX_BACKLOG_S")
    assert read_configuration({}, printed).settings == first.settings


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFDDM_REDIS_URL", "redis://user:pa55word@store:6379/1?password=pa55word&db=2")
    monkeypatch.setenv("SFDDM_URL_SECRET", "pa55word")
    shown = read_configuration({}).to_toml()
    assert "pa55word" not in shown
    assert f'# redis_url = "redis://{MASK}@store:6379/1?password={MASK}&db={MASK}"' in shown
    assert "environment SFDDM_REDIS_URL" in shown


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("admin_token", "pa55word", r"admin_token: must have at least 16 characters \(from "),
        ("redis_url", "http://u:pa55word@store", r"redis_url: .*'redis'.* \(from "),
        ("redis_url", "redis://u:pa55word/@store:6379", r"redis_url: .* \(from "),
        ("redis_url", "u:pa55word@store:6379", r"redis_url: .* \(from "),
        (
            "public_url",
            "https://u:pa55word@host",
            r"public_url: must be an http or https url .*, without user or query \(from ",
        ),
        ("public_url", "https://host?key=pa55word", r"public_url: must be an http or https url .* \(from "),
    ],
)
def test_a_refusal_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    path = tmp_path / "sfddm.toml"
    path.write_text(f'{name} = "{value}"')
    with pytest.raises(ConfigurationError, match=says) as in_file:
        read_configuration({}, path)
    monkeypatch.setenv(f"SFDDM_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=says) as in_environment:
        read_configuration({})
    assert "pa55word" not in f"{in_file.value}{in_environment.value}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Cannot reach http://u:p@h:1/x: no", f"Cannot reach http://{MASK}@h:1/x: no"),
        ("redis://h?password=p&db=1", f"redis://h?password={MASK}&db={MASK}"),
        ('"rediss://:p@/q@h/0"', f'"rediss://{MASK}@h/0"'),
        ("http://h:8000/a and a@b?c=d", "http://h:8000/a and a@b?c=d"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, shown: str) -> None:
    assert mask_credentials(text) == shown


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("SFDDM_PRT", "did you mean SFDDM_PORT?"), ("SFDDM_ZOO", "did you mean SFDDM_ZOOS?"), ("SFDDM_QQ", "sfddm config")],
)
def test_a_typo_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, remedy: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=f"{name} is no setting") as refused:
        read_configuration({})
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_bacth = 4", r"key max_bacth is no setting; did you mean max_batch\?"),
        ("max_batch = 0", r"max_batch: must be at least 1, got 0 \(from file "),
        ("max_batch = ", "is not TOML"),
        ("PORT = 1", r"key PORT is no setting; did you mean port\?"),
        ("SFDDM_PORT = 1", r"key SFDDM_PORT is no setting; did you mean port\?"),
        ("[server]\nport = 1", "key server is no setting; `sfddm config` lists"),
        ("[port]\nnumber = 1", r"port: .*\(from file "),
        ("port = true", r"port: .*true is no value for it.*\(from file "),
        ('max_n = "many"', r"max_n: .*\(from file "),
        ("drain_s = inf", r"drain_s: .*\(from file "),
        ('[experiments."a/b".arm]\n"a/c" = 1', r"experiments.a/b.arms: .*\(from file "),
        ("port = 1\nport = 2", "is not TOML"),
        (b"\xff\xfep", "is not TOML"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=says):
        read_configuration({}, path)


@pytest.mark.parametrize("text", [b"", b"\n# nothing yet\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "empty.toml"
    path.write_bytes(text)
    assert read_configuration({}, path).settings == Settings()


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_text("port = 9000", encoding="utf-8-sig")
    assert read_configuration({}, path).settings.port == 9000


def test_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop.toml").symlink_to("loop.toml")  # permissions do not stop a root that runs tests; this does
    for path, reason in ((tmp_path, "is a directory"), (tmp_path / "loop.toml", "too many levels")):
        with pytest.raises(ConfigurationError, match=f"Cannot read the configuration .*: {reason}"):
            read_configuration({}, path)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SFDDM_CONFIG": "nowhere.toml"}, "Cannot read the configuration nowhere.toml: no such file"),
        ({"SFDDM_MODEL_WEIGHTS": "0.5"}, "model_weights: .*from environment SFDDM_MODEL_WEIGHTS"),
        ({"SFDDM_MODEL_WEIGHTS": "{"}, "SFDDM_MODEL_WEIGHTS must be JSON"),
        ({"SFDDM_PORT": "many"}, r"port: .*\(from environment SFDDM_PORT\)"),
        ({"SFDDM_ZOOS": ""}, r"zoos: names no folder; name one, or leave it out .*\(from environment SFDDM_ZOOS\)"),
        ({"SFDDM_PUBLIC_URL": "example.com"}, r"public_url: must be an http or https url such as .*, got 'example.com'"),
        ({"SFDDM_URL_SECRET": ""}, r"url_secret: is empty; set it to the same random string on every replica, or leave it out"),
        ({"SFDDM_EXPERIMENTS": "{"}, r"experiments: the value is not JSON: .*SFDDM_EXPERIMENTS"),
        ({"SFDDM_EXPERIMENTS": '{"a": {"arms": {"b": 1}}}'}, r"experiments.a.arms: must have at least 2 entries, got 1"),
        ({"SFDDM_EXPERIMENTS": '{"a": {"arms": {"b": 1, "c": 0}}}'}, r"experiments.a.arms.c: must be more than 0, got 0"),
        ({"SFDDM_EXPERIMENTS": '{"a": {"arms": {"b": 1, "c": "x"}}}'}, r'experiments.a.arms.c: must be a number, got "x"'),
        ({"SFDDM_EXPERIMENTS": '{"A": {"arms": {"b": 1, "c": 1}}}'}, r'experiments.A: must match the pattern .*, got "A"'),
        ({"SFDDM_EXPERIMENTS": '{"a": {"arm": {}}}'}, r"experiments.a.arms: is missing; it is required"),
        ({"SFDDM_PORT": ""}, r"port: .*\(from environment SFDDM_PORT\)"),
        ({"SFDDM_REDIS_URL": "http://redis"}, r"redis_url: .*\(from environment SFDDM_REDIS_URL\)"),
    ],
)
def test_a_wrong_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any], says: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says):
        read_configuration({})


def test_every_setting_is_described() -> None:
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []
