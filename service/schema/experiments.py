"""Bodies of GET /v1/experiments."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.features.experiments import WINDOW, ArmFigures, ExperimentFigures
from service.features.statistics import CONFIDENCE


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


def experiment_body(figures: ExperimentFigures, *, shared: bool) -> ExperimentBody:
    """Return the body of one experiment. shared: the figures cover every replica."""
    arms = [_arm_body(arm) for arm in figures.arms]
    return ExperimentBody(id=figures.id, reference=figures.reference, arms=arms, shared=shared)


def _arm_body(arm: ArmFigures) -> ArmBody:
    return ArmBody(
        model=arm.model,
        weight=arm.weight,
        requests=arm.requests,
        sampled=arm.sampled,
        units=arm.units,
        latency_s=dict(arm.latency_s),
        against_reference={
            name: DifferenceBody(difference_s=found.value, low_s=found.low, high_s=found.high)
            for name, found in arm.against.items()
        },
        note=arm.note,
    )
