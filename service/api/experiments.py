"""GET /v1/experiments and /v1/experiments/{id}: how many answers each arm gave, how fast, and how far the arms are apart."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.paths import EXPERIMENT
from service.features.errors import NotFoundError
from service.features.experiments import WINDOW, Experiment
from service.features.service import Service, ServiceOf
from service.features.statistics import CONFIDENCE, LEAST_UNITS, Latencies, compare, units_of

router = APIRouter(tags=["experiments"])


class DifferenceBody(BaseModel):
    """Arm minus reference in seconds, and its bootstrap confidence interval; users are resampled, not requests.

    low_s and high_s are null while either arm has fewer than ten units, of which the interval would claim too much.
    """

    difference_s: float
    low_s: float | None
    high_s: float | None


class ArmBody(BaseModel):
    """One arm. The first arm is the reference of the others."""

    model: str
    weight: float
    requests: int = Field(description="answers counted")
    sampled: int = Field(description="latest answers that the figures below rest on")
    units: int = Field(description="distinct users (or seeds, or anonymous requests) among them")
    latency_s: dict[str, float] = Field(description="quantiles of arrival to answer: p50, p90, p95, p99")
    against_reference: dict[str, DifferenceBody] = Field(
        description="mean and median; empty for the reference and while either arm has no answers"
    )
    note: str | None = Field(default=None, description="why against_reference is empty, or has no intervals")


class ExperimentBody(BaseModel):
    """One experiment."""

    id: str
    reference: str
    arms: list[ArmBody]
    window: int = Field(default=WINDOW, description="latest answers kept of each arm")
    confidence: float = Field(default=CONFIDENCE, description="level of the intervals")
    shared: bool = Field(description="whether the figures are of every replica, or of this one since it started")


class ExperimentList(BaseModel):
    """GET /v1/experiments."""

    object: str = "list"
    data: list[ExperimentBody]


@router.get("/v1/experiments", summary="List experiments")
async def list_experiments(service: ServiceOf) -> ExperimentList:
    """Every configured experiment."""
    bodies = [await _experiment_body(service, name, each) for name, each in service.experiments.configured.items()]
    return ExperimentList(data=bodies)


@router.get(f"/v1/experiments/{EXPERIMENT}", summary="The arms of an experiment, compared")
async def get_experiment(experiment_id: str, service: ServiceOf) -> ExperimentBody:
    """Counts, latency quantiles and differences. Answers from the cache are not among them: experiments pass it by."""
    experiment = service.experiments.configured.get(experiment_id)
    if experiment is None:
        known = ", ".join(service.experiments.configured) or "none; SFDDM_EXPERIMENTS configures them"
        message = f"There is no experiment {experiment_id!r}. Experiments here: {known}."
        raise NotFoundError(message, "id", "experiment_not_found")
    return await _experiment_body(service, experiment_id, experiment)


async def _experiment_body(service: Service, name: str, experiment: Experiment) -> ExperimentBody:
    samples = {arm: await service.experiments.latencies(name, arm) for arm in experiment.arms}
    reference = next(iter(experiment.arms))
    _, baseline = samples[reference]
    return ExperimentBody(
        id=name,
        reference=reference,
        arms=[
            ArmBody(
                model=arm,
                weight=weight,
                requests=samples[arm][0],
                sampled=len(samples[arm][1].seconds),
                units=units_of(samples[arm][1]),
                latency_s=samples[arm][1].quantiles(),
                against_reference={} if arm == reference else await _against(samples[arm][1], baseline),
                note=_note(units_of(samples[arm][1]), None if arm == reference else units_of(baseline)),
            )
            for arm, weight in experiment.arms.items()
        ],
        shared=service.settings.redis_url is not None,
    )


async def _against(arm: Latencies, reference: Latencies) -> dict[str, DifferenceBody]:
    found = await asyncio.to_thread(compare, arm, reference)
    return {name: DifferenceBody(difference_s=d.value, low_s=d.low, high_s=d.high) for name, d in found.items()}


def _note(units: int, baseline: int | None) -> str | None:
    """What is missing to a comparison with the reference, which has so many units, or is this arm itself."""
    if baseline is None:
        return "This arm is the reference of the others."
    if not units or not baseline:
        return f"{'This arm' if not units else 'The reference'} has no answers yet, so there is no difference to tell."
    if min(units, baseline) < LEAST_UNITS:
        return (
            f"An interval needs {LEAST_UNITS} distinct users (or seeds) in both arms; "
            f"this one has {units} and the reference {baseline}."
        )
    return None
