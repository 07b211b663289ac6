"""Experiments in the settings: one model id whose requests are divided among several models."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ExperimentId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}$")]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Experiment(BaseModel):
    """One experiment. arms: model id -> weight; the first arm is the one that the others are compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: dict[str, Weight] = Field(min_length=2, max_length=8)


def read_experiments(value: str) -> Any:
    """Read experiments as data. `value` is a JSON object, or the path of a .toml or .json file. Raises ValueError."""
    inline = value.lstrip().startswith("{")
    toml = not inline and not value.endswith(".json")
    try:
        text = value if inline else Path(value).read_text(encoding="utf-8")
        return tomllib.loads(text) if toml else json.loads(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"neither a JSON object nor a file that can be read: {value!r}: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{'the value' if inline else value} is not {'TOML' if toml else 'JSON'}: {error}") from error
