"""Reads the settings from options, the environment and a TOML file, and remembers where each came from.

    option > environment SFDDM_<NAME> > TOML file (--config or SFDDM_CONFIG) > default

The first place that sets a name wins, with the whole of its value. An unknown name is an error in every place, because a
misspelt limit would be no limit.

The environment is read by pydantic-settings. Its TomlConfigSettingsSource does not fit: a file that is missing or cannot
be read counts as empty, and the tables of several places are merged. Its CliSettingsSource would replace typer.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from models.validation import describe_error
from service.observability.masking import MASK, mask_credentials
from service.settings.model import Settings

PREFIX = "SFDDM_"
CONFIG = f"{PREFIX}CONFIG"

_SECRETS = frozenset({"admin_token", "url_secret", "redis_url"})  # their values stay out of error messages
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ConfigurationError(Exception):
    """Settings that cannot be used. The message names the setting, the place that set it, and the remedy."""


@dataclass(frozen=True)
class Configuration:
    """The effective settings.

    origins: for each setting `default`, `option`, `environment SFDDM_PORT` or `file sfddm.toml`.
    """

    settings: Settings
    origins: Mapping[str, str]

    def to_toml(self) -> str:
        """Return the settings as a TOML file, with the origin of each as a comment.

        Secrets are masked. They and the names without a value are commented out, so the file can be read again.
        """
        lines = []
        for name in Settings.model_fields:
            value = getattr(self.settings, name)
            secret = _is_secret(name, value)
            shown = "" if value is None else _toml(MASK if secret else value)
            line = f"{name} = {shown}".rstrip()
            lines.append((f"# {line}" if value is None or secret or MASK in shown else line, self.origins[name]))
        width = min(60, max(len(line) for line, _ in lines))
        return "".join(f"{line:<{width}}  # {origin}\n" for line, origin in lines)


def read_configuration(options: Mapping[str, Any], config: Path | None = None) -> Configuration:
    """Return the settings from `options` (None: not given), the environment and the TOML file.

    config: the file; SFDDM_CONFIG names it when this is None. Raises ConfigurationError.
    """
    given = {name: value for name, value in options.items() if value is not None}
    environment = _read_environment()
    path = _path(config)
    stored = _read_file(path) if path else {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    origins |= dict.fromkeys(stored, f"file {path}")
    origins |= {name: f"environment {PREFIX}{name.upper()}" for name in environment}
    origins |= dict.fromkeys(given, "option")
    try:
        settings = Settings(**(stored | environment | given))
    except ValidationError as error:
        places = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        where = ", ".join(sorted({origins.get(place, "") for place in places} - {"", "default", "option"}))
        raise ConfigurationError(f"{describe_error(error, _SECRETS)}{f' (from {where})' if where else ''}.") from error
    return Configuration(settings, origins)


def wanted_log_format(option: str | None, config: Path | None = None) -> Literal["console", "json"]:
    """Return the log format before the settings are checked, so that an error in them is logged in this format, too."""
    found = option or next((value for name, value in os.environ.items() if name.upper() == f"{PREFIX}LOG_FORMAT"), None)
    if found is None and (path := _path(config)) is not None:
        with suppress(ConfigurationError):
            found = str(_read_file(path).get("log_format"))
    return "json" if found is not None and found.lower() == "json" else "console"


def _path(config: Path | None) -> Path | None:
    return config or (Path(os.environ[CONFIG]) if os.environ.get(CONFIG) else None)


def _read_environment() -> dict[str, Any]:
    names = [name.upper() for name in os.environ if name.upper().startswith(PREFIX)]
    known = {CONFIG, *(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)}
    _check_names("The environment variable", names, known)
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = f"{PREFIX}{field[1].upper()}" if field else "A variable SFDDM_*"
        raise ConfigurationError(f"{name} must be JSON: {error.__cause__ or error}.") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        stored = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows write a BOM
    except OSError as error:
        raise ConfigurationError(f"Cannot read the configuration {path}: {(error.strerror or str(error)).lower()}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The configuration {path} is not TOML: {error}.") from error
    _check_names(f"In {path} the key", stored, Settings.model_fields)
    return stored


def _check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigurationError for the first unknown name. Suggest a similar one, compared without case and SFDDM_."""
    known = {_bare(name): name for name in known}
    for name in sorted(names):
        if name in known.values():
            continue
        close = difflib.get_close_matches(_bare(name), known, n=1)
        remedy = f"did you mean {known[close[0]]}?" if close else "`sfddm config` lists the settings."
        raise ConfigurationError(f"{what} {name} is no setting; {remedy}")


def _bare(name: str) -> str:
    return name.upper().removeprefix(PREFIX)


def _is_secret(name: str, value: object) -> bool:
    return value is not None and (isinstance(value, SecretStr) or name.endswith(("_secret", "_token")))


def _toml(value: object) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(name))} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if hasattr(value, "model_dump"):
        return _toml(value.model_dump())
    # A JSON string is a TOML string, except for the character DEL, which no setting of ours contains.
    return json.dumps(mask_credentials(str(value)), ensure_ascii=False)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
