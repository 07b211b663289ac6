"""Experiments: requests for one model id are divided among several models, the arms.

Each request belongs to one arm. The service measures the latencies of each arm and the differences between arms.

Assignment is weighted rendezvous hashing (Thaler & Ravishankar 1998): each arm scores -weight / ln h(experiment, arm, user)
and the highest score wins. Three things follow:

- Replicas agree without communication.
- An arm gets its share of the users.
- When weights change, only users of arms whose share shrank move.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from service.features.config import Arms
from service.features.errors import NotFoundError
from service.features.statistics import LEAST_UNITS, ConfidenceInterval, Latencies, differences_between_arms, units_of
from service.observability.metrics import Metrics
from service.store.base import Samples, StoreUnavailableError

WINDOW = 1000  # latest latencies kept of each arm


@dataclass(frozen=True)
class Assignment:
    """The arm of a request. unit: a hash of the user, seed or chance that decided; requests of one unit are not independent."""

    experiment: str
    arm: str
    by: Literal["user", "seed", "chance"]
    unit: str


@dataclass(frozen=True)
class ArmFigures:
    """The figures of one arm.

    requests    answers counted
    sampled     latest answers that the other figures rest on
    units       distinct users, or seeds, or anonymous requests among them
    latency_s   quantiles of arrival to answer, seconds: p50, p90, p95, p99
    against     differences to the reference, seconds: mean and median; empty for the reference and while an arm has no answers
    note        why `against` is empty or has no intervals; None otherwise
    """

    model: str
    weight: float
    requests: int
    sampled: int
    units: int
    latency_s: Mapping[str, float]
    against: Mapping[str, ConfidenceInterval]
    note: str | None


@dataclass(frozen=True)
class ExperimentFigures:
    """The figures of one experiment. reference: the arm that the others are compared with."""

    id: str
    reference: str
    arms: list[ArmFigures]


class Experiments:
    """The configured experiments and their latencies, which all replicas share when the store is shared."""

    def __init__(self, configured: Mapping[str, Arms], samples: Samples, metrics: Metrics) -> None:
        """Take the arms of each experiment by its id."""
        self.configured = configured
        self._samples = samples
        self._metrics = metrics

    def assign(self, model_id: str | None, user: str | None, seed: int | None) -> Assignment | None:
        """Return the arm of a request for this model id; None when the id is no experiment."""
        if model_id is None or (arms := self.configured.get(model_id)) is None:
            return None
        return assign(model_id, arms, user, seed)

    @asynccontextmanager
    async def measured(self, assignment: Assignment | None, started_s: float) -> AsyncIterator[None]:
        """Record the latency of an answer that is made inside, unless that fails. Does nothing for None.

        started_s: when the request arrived, a reading of time.perf_counter().
        """
        yield
        if assignment:
            await self.record(assignment, time.perf_counter() - started_s)

    async def record(self, assignment: Assignment, seconds: float) -> None:
        """Record the seconds that an answer took. While the store cannot be reached, only the metrics count them."""
        labels = {"experiment": assignment.experiment, "arm": assignment.arm}
        self._metrics.experiment_request_seconds.labels(**labels).observe(seconds)
        with suppress(StoreUnavailableError):
            value = f"{assignment.unit} {seconds!r}".encode()
            await self._samples.append(_series(assignment.experiment, assignment.arm), value, WINDOW)

    async def latencies(self, name: str, arm: str) -> tuple[int, Latencies]:
        """Return the number of answers that an arm has given, and its recent latencies. Raises StoreUnavailableError."""
        count, values = await self._samples.recent(_series(name, arm))
        pairs = (value.decode().split(" ") for value in values)
        return count, Latencies.of([(unit, float(seconds)) for unit, seconds in pairs])

    async def figures(self, name: str) -> ExperimentFigures:
        """Return the figures of an experiment. Raises NotFoundError and StoreUnavailableError."""
        arms = self.configured.get(name)
        if arms is None:
            known = ", ".join(self.configured) or "none; SFDDM_EXPERIMENTS configures them"
            message = f"There is no experiment {name!r}. Experiments here: {known}."
            raise NotFoundError(message, "id", "experiment_not_found")
        samples = {arm: await self.latencies(name, arm) for arm in arms}
        reference = next(iter(arms))
        _, baseline = samples[reference]
        found = []
        for arm, weight in arms.items():
            requests, latencies = samples[arm]
            is_reference = arm == reference
            found.append(
                ArmFigures(
                    model=arm,
                    weight=weight,
                    requests=requests,
                    sampled=len(latencies.seconds),
                    units=units_of(latencies),
                    latency_s=latencies.quantiles(),
                    against={}
                    if is_reference
                    else await asyncio.to_thread(differences_between_arms, latencies, reference=baseline),
                    note=_note(units_of(latencies), None if is_reference else units_of(baseline)),
                )
            )
        return ExperimentFigures(name, reference, found)


def assign(name: str, arms: Arms, user: str | None, seed: int | None) -> Assignment:
    """Choose the arm of a request: by its user, else by its seed so that repeating it repeats the arm, else by chance."""
    by: Literal["user", "seed", "chance"] = "user" if user else "chance" if seed is None else "seed"
    key = {"user": user, "seed": str(seed), "chance": secrets.token_hex(8)}[by]
    arm = max(arms, key=lambda arm: -arms[arm] / math.log(_fraction(name, arm, by, key)))
    return Assignment(name, arm, by, hashlib.sha256(f"{by}\0{key}".encode()).hexdigest()[:12])


def _fraction(*parts: str | None) -> float:
    """Return a number in (0, 1) that depends on nothing but the arguments."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


def _note(units: int, baseline: int | None) -> str | None:
    """Explain why an arm has no differences or intervals. baseline: units of the reference; None: this arm is the reference."""
    if baseline is None:
        return "This arm is the reference of the others."
    if not units or not baseline:
        return f"{'This arm' if not units else 'The reference'} has no answers yet, so there is no difference to report."
    if min(units, baseline) < LEAST_UNITS:
        return (
            f"An interval needs {LEAST_UNITS} distinct users (or seeds) in both arms; "
            f"this one has {units} and the reference {baseline}."
        )
    return None


def _series(name: str, arm: str) -> str:
    return f"{name}:{arm}"
