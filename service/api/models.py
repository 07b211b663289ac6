"""GET /v1/models and /v1/models/{id}: OpenAI's shape, with the speed and the quality of each model."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.dependencies import ServiceOf
from service.api.paths import MODEL
from service.features.models import KnownModel, find_model, known_experiments, known_models
from service.schema.models import (
    ExperimentModelBody,
    ModelBody,
    ModelList,
    RefusedFolder,
    experiment_model_body,
    model_body,
)

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="List models")
async def list_models(service: ServiceOf) -> ModelList:
    """Every model here. A teacher also answers to its `variants`, training-free solvers with fewer steps."""
    models = [model_body(known) for known in known_models(service)]
    experiments = [experiment_model_body(known) for known in known_experiments(service)]
    refused = [RefusedFolder(id=name, reason=reason) for name, reason in service.refused.items()]
    return ModelList(data=[*models, *experiments], refused=refused)


@router.get(f"/v1/models/{MODEL}", summary="Retrieve a model or variant")
async def retrieve_model(model_id: str, service: ServiceOf) -> ModelBody | ExperimentModelBody:
    """One model, or one variant such as `<family>/teacher@dpmpp-016`; 404 when it does not exist."""
    known = find_model(service, model_id)
    return model_body(known) if isinstance(known, KnownModel) else experiment_model_body(known)
