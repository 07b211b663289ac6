"""GET /v1/models and /v1/models/{id}: OpenAI's shape, and what one needs to choose between speed and quality."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter

from models.catalogue import Entry, Resolved
from models.plan import SAMPLERS
from service.api.paths import MODEL
from service.features.service import Service, ServiceOf
from service.schema.images import ExperimentModelBody, ModelBody, ModelList, RefusedFolder

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="List models")
async def list_models(service: ServiceOf) -> ModelList:
    """Every model here. A teacher also answers to its `variants`, training-free solvers with fewer steps."""
    models = [model_body(service, service.catalogue.resolve(model_id)) for model_id in service.catalogue.entries]
    experiments = [_experiment_body(service, name) for name in service.experiments.configured]
    refused = [RefusedFolder(id=name, reason=reason) for name, reason in service.refused.items()]
    return ModelList(data=[*models, *experiments], refused=refused)


@router.get(f"/v1/models/{MODEL}", summary="Retrieve a model or variant")
async def retrieve_model(model_id: str, service: ServiceOf) -> ModelBody | ExperimentModelBody:
    """One model, or one variant such as `<family>/teacher@dpmpp-016`; 404 when it does not exist."""
    if model_id in service.experiments.configured:
        return _experiment_body(service, model_id)
    return model_body(service, service.catalogue.resolve(model_id))


def model_body(service: Service, model: Resolved) -> ModelBody:
    """Everything there is to say of a model."""
    manifest = model.entry.manifest
    status = service.engine.models[model.entry.id]
    return ModelBody(
        id=model.id,
        created=_created(model.entry),
        owned_by=manifest.family,
        family=manifest.family,
        kind=manifest.kind,
        steps=len(model.plan),
        default=model.id == service.default_model,
        image=manifest.image,
        size=manifest.image.size(),
        bytes=model.entry.size,
        classes=manifest.classes,
        parameters=manifest.parameters,
        prediction_type=manifest.prediction_type,
        sampler=model.sampler,
        quality=manifest.quality,
        ranking=manifest.ranking,
        variants=[f"{manifest.id}@{sampler}-NNN" for sampler in SAMPLERS] if manifest.kind == "teacher" else [],
        status=status.state,
        reason=status.reason,
        sha256=manifest.sha256,
        provider=status.provider,
        precision=status.precision,
        ms_per_step=dict(status.step_ms),
    )


def _experiment_body(service: Service, name: str) -> ExperimentModelBody:
    """As old as the newest of its arms."""
    arms = service.experiments.configured[name].arms
    created = max(_created(service.catalogue.resolve(arm).entry) for arm in arms)
    return ExperimentModelBody(id=name, created=created, arms=arms)


def _created(entry: Entry) -> int:
    """Unix seconds of the export; 0 where the manifest's time is not ISO 8601."""
    try:
        return int(datetime.fromisoformat(entry.manifest.provenance.created).timestamp())
    except ValueError:
        return 0
