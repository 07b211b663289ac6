"""GET /v1/experiments and /v1/experiments/{id}: counts and latencies of each arm, and the differences between arms."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.dependencies import ServiceOf
from service.api.paths import EXPERIMENT
from service.features.service import Service
from service.schema.experiments import ExperimentBody, ExperimentList, experiment_body

router = APIRouter(tags=["experiments"])


@router.get("/v1/experiments", summary="List experiments")
async def list_experiments(service: ServiceOf) -> ExperimentList:
    """Every configured experiment."""
    return ExperimentList(data=[await _body(service, name) for name in service.experiments.configured])


@router.get(f"/v1/experiments/{EXPERIMENT}", summary="The arms of an experiment, compared")
async def get_experiment(experiment_id: str, service: ServiceOf) -> ExperimentBody:
    """Counts, latency quantiles and differences. Answers from the cache are not among them: experiments pass it by."""
    return await _body(service, experiment_id)


async def _body(service: Service, name: str) -> ExperimentBody:
    return experiment_body(await service.experiments.figures(name), shared=service.config.redis_url is not None)
