"""Facts about the models of a service, and about experiments, which clients ask for like models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from models.catalogue import Entry, Resolved
from models.plan import SAMPLERS
from service.engine.load import ModelStatus
from service.features.config import Arms
from service.features.service import Service


@dataclass(frozen=True)
class KnownModel:
    """A model or variant. created: Unix seconds. variants: patterns of the training-free variants that it answers to."""

    model: Resolved
    status: ModelStatus
    created: int
    is_default: bool
    variants: list[str]


@dataclass(frozen=True)
class KnownExperiment:
    """An experiment as a model. created: Unix seconds of the newest of its arms."""

    id: str
    created: int
    arms: Arms


def known_models(service: Service) -> list[KnownModel]:
    """List every model that is served."""
    return [known_model(service, service.catalogue.resolve(model_id)) for model_id in service.catalogue.entries]


def known_experiments(service: Service) -> list[KnownExperiment]:
    """List every configured experiment."""
    return [_known_experiment(service, name) for name in service.experiments.configured]


def find_model(service: Service, model_id: str) -> KnownModel | KnownExperiment:
    """Return one model, variant or experiment. Raises UnknownModelError."""
    if model_id in service.experiments.configured:
        return _known_experiment(service, model_id)
    return known_model(service, service.catalogue.resolve(model_id))


def known_model(service: Service, model: Resolved) -> KnownModel:
    """Return the facts about one model or variant."""
    manifest = model.entry.manifest
    return KnownModel(
        model=model,
        status=service.engine.models[model.entry.id],
        created=_created(model.entry),
        is_default=model.id == service.default_model,
        variants=[f"{manifest.id}@{sampler}-NNN" for sampler in SAMPLERS] if manifest.kind == "teacher" else [],
    )


def _known_experiment(service: Service, name: str) -> KnownExperiment:
    arms = service.experiments.configured[name]
    return KnownExperiment(name, max(_created(service.catalogue.resolve(arm).entry) for arm in arms), arms)


def _created(entry: Entry) -> int:
    """Return when a model was exported, Unix seconds; 0 where the manifest's time is not ISO 8601."""
    try:
        return int(datetime.fromisoformat(entry.manifest.provenance.created).timestamp())
    except ValueError:
        return 0
