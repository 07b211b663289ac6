"""Experiments: models on trial under one model id; which arm a request belongs to, and how long its answer took.

Assignment is weighted rendezvous hashing (Thaler & Ravishankar 1998): each arm scores -weight / ln h(experiment, arm, user)
and the highest score wins. Replicas agree without talking, an arm gets its share of the users, and when weights change only
users of arms whose share shrank move.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.features.statistics import Latencies
from service.observability.metrics import Metrics
from service.store.base import Samples, StoreUnavailableError

ExperimentId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}$")]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
WINDOW = 1000  # latest latencies kept of each arm


class Experiment(BaseModel):
    """One experiment. arms: model id -> weight, the first arm being the one that others are compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: dict[str, Weight] = Field(min_length=2, max_length=8)


@dataclass(frozen=True)
class Assignment:
    """Where a request belongs. unit: a hash of who was assigned; requests of one unit are not independent."""

    experiment: str
    arm: str
    by: Literal["user", "seed", "chance"]
    unit: str


def read_experiments(value: str) -> Any:
    """Experiments as data: `value` is a JSON object, or the path of a .toml or .json file. Raises ValueError."""
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


def assign(name: str, experiment: Experiment, user: str | None, seed: int | None) -> Assignment:
    """The arm of a request: by its user; else by its seed, so that repeating it repeats the arm; else by chance."""
    by: Literal["user", "seed", "chance"] = "user" if user else "chance" if seed is None else "seed"
    key = {"user": user, "seed": str(seed), "chance": secrets.token_hex(8)}[by]
    arm = max(experiment.arms, key=lambda arm: -experiment.arms[arm] / math.log(_fraction(name, arm, by, key)))
    return Assignment(name, arm, by, hashlib.sha256(f"{by}\0{key}".encode()).hexdigest()[:12])


def _fraction(*parts: str | None) -> float:
    """A number in (0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


class Experiments:
    """The configured experiments. Latencies are shared by all replicas when the store is."""

    def __init__(self, configured: Mapping[str, Experiment], samples: Samples, metrics: Metrics) -> None:
        self.configured = configured
        self._samples = samples
        self._metrics = metrics

    def assign(self, model_id: str | None, user: str | None, seed: int | None) -> Assignment | None:
        """The arm of a request for this model id; None when it is no experiment."""
        experiment = self.configured.get(model_id or "")
        return None if model_id is None or experiment is None else assign(model_id, experiment, user, seed)

    async def record(self, assignment: Assignment, seconds: float) -> None:
        """An answer took so long. While the store is away only the metrics hear of it."""
        labels = {"experiment": assignment.experiment, "arm": assignment.arm}
        self._metrics.experiment_request_seconds.labels(**labels).observe(seconds)
        with suppress(StoreUnavailableError):
            value = f"{assignment.unit} {seconds!r}".encode()
            await self._samples.append(_series(assignment.experiment, assignment.arm), value, WINDOW)

    async def latencies(self, name: str, arm: str) -> tuple[int, Latencies]:
        """How many answers an arm has given, and its recent latencies. Raises StoreUnavailableError."""
        count, values = await self._samples.recent(_series(name, arm))
        pairs = (value.decode().split(" ") for value in values)
        return count, Latencies.of([(unit, float(seconds)) for unit, seconds in pairs])


def _series(name: str, arm: str) -> str:
    return f"{name}:{arm}"
