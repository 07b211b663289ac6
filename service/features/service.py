"""What every route needs, built once from the settings and handed to the app."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from models.catalogue import Catalogue, Refusal, Resolved, UnknownModelError, discover
from models.plan import SAMPLERS
from models.runtime.choose import choose_backend
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.load import ModelStatus, without_folders
from service.engine.request import ModelFailedError, UnavailableError
from service.features.comparison import Isolation
from service.features.experiments import Experiments
from service.features.links import ImageLinks
from service.observability.metrics import Metrics
from service.settings.model import Settings
from service.store.base import Store
from service.store.cache import ResultCache
from service.store.memory import MemoryStore
from service.store.redis import RedisStore


class StartupError(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class Lane:
    """Whose room an answer tells of (middleware.RateLimitHeaders); requests have it as `state.lane` once it is decided."""

    model: Resolved
    flex: bool = False


@dataclass(frozen=True)
class Service:
    """The parts of a running service."""

    settings: Settings
    catalogue: Catalogue
    metrics: Metrics
    engine: Engine
    store: Store
    cache: ResultCache
    experiments: Experiments
    links: ImageLinks
    isolation: Isolation

    @property
    def default_model(self) -> str:
        """The model of requests that name none; where the settings name none either it may change with a reload."""
        return choose_default(self.catalogue, self.settings.default_model)

    @property
    def refused(self) -> dict[str, str]:
        """Why a model folder, or a whole zoo, was not trusted, by the id that it would have. Without those whose id is served,
        from an earlier version or another zoo: `reason` of such a model says it."""
        zoos = set(self.settings.zoos)
        found: dict[str, str] = {}
        for refusal in self.catalogue.refusals:
            folder = refusal.folder.absolute()
            name = folder.name if refusal.folder in zoos else f"{folder.parent.name}/{folder.name}"
            if name not in self.catalogue.entries:
                found[name] = without_folders(refusal.reason, folder, name)
        return found

    def resolve(self, model_id: str | None) -> Resolved:
        """The model of a request, the default one for None. Raises UnknownModelError."""
        if model_id is not None and model_id in self.experiments.configured:
            raise UnknownModelError(
                f"{model_id} is an experiment, which only image generations and jobs take; name one of its models: "
                f"{', '.join(self.experiments.configured[model_id].arms)}."
            )
        return self.catalogue.resolve(self.default_model if model_id is None else model_id)

    def require_loaded(self, model: Resolved) -> ModelStatus:
        """The status of a loaded model. Raises ModelFailedError, and UnavailableError while it may still be loaded."""
        status = self.engine.models[model.entry.id]
        if status.state == "failed":
            raise ModelFailedError(model.entry.id, status.reason)
        if status.state != "loaded":
            raise UnavailableError(f"The model {model.entry.id} is {status.state}; try again in a moment.")
        return status

    def base_url(self, request: Request) -> str:
        """Where clients reach this service, without a slash at the end: public_url, else the host that was asked."""
        return (self.settings.public_url or str(request.base_url)).rstrip("/")


def open_catalogue(zoos: Iterable[Path]) -> Catalogue:
    """Discover the zoos. Raises StartupError when they hold no model that can be trusted."""
    zoos = tuple(zoos)
    catalogue = discover(zoos)
    if not catalogue.entries:
        raise StartupError(f"No model to serve in {', '.join(map(str, zoos))}{_reasons(catalogue.refusals)}.")
    return catalogue


def _reasons(refusals: Iterable[Refusal]) -> str:
    said = "; ".join(refusal.reason for refusal in refusals)
    return f": {said}" if said else "; a model folder is <zoo>/<family>/<name> with a manifest.json"


def choose_default(catalogue: Catalogue, wanted: str | None) -> str:
    """The model of requests that name none: the wanted one, else the first student of 16 steps, else the first model.

    Raises StartupError when the wanted one does not exist.
    """
    if not catalogue.entries:
        raise StartupError("No model would be left to serve.")
    if wanted is None:
        sixteen = (e.id for e in catalogue.entries.values() if e.manifest.kind == "student" and e.manifest.steps == 16)
        return next(sixteen, next(iter(catalogue.entries)))
    try:
        return catalogue.resolve(wanted).id
    except UnknownModelError as error:
        raise StartupError(f"The default model cannot be served: {error}") from error


def measured_variants(catalogue: Catalogue) -> set[str]:
    """Solver variants with metrics of their own: those with as many steps as a student of the family, its competitors."""
    models = [entry.manifest for entry in catalogue.entries.values()]
    return {
        f"{teacher.id}@{sampler}-{student.steps:03d}"
        for teacher in models
        for student in models
        for sampler in SAMPLERS
        if teacher.kind == "teacher" and student.kind == "student" and teacher.family == student.family
    }


def assemble(settings: Settings, catalogue: Catalogue) -> Service:
    """Everything but a running engine. Raises StartupError with one sentence."""
    metrics = Metrics(variants=measured_variants(catalogue), models=catalogue.entries)
    unknown = settings.model_weights.keys() - catalogue.entries.keys()
    if unknown:
        raise StartupError(f"model_weights names {', '.join(sorted(unknown))}, which is not served; a variant has its model's.")
    config = EngineConfig(
        max_batch=settings.max_batch,
        max_step_ms=settings.max_step_ms,
        max_backlog_s=settings.max_backlog_s,
        weights=settings.model_weights,
        deterministic=settings.deterministic,
        cache_dir=settings.cache_dir,
    )
    gpu_memory = None if settings.gpu_memory_mb is None else settings.gpu_memory_mb << 20
    backend = choose_backend(settings.provider, threads=settings.threads, gpu_memory=gpu_memory, cache_dir=settings.cache_dir)
    engine = Engine(catalogue, backend, config, metrics)
    choose_default(catalogue, settings.default_model)
    store = open_store(settings)
    metrics.max_backlog_seconds.set(settings.max_backlog_s)
    metrics.ready.set_function(lambda: engine.ready)
    metrics.store_up.set_function(lambda: store.up)
    cache = ResultCache(store.blobs, metrics, max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl_s)
    experiments = Experiments(settings.experiments, store.samples, metrics)
    links = ImageLinks(settings.url_secret, settings.url_expire_s)
    isolation = Isolation(settings.isolated_s)
    service = Service(settings, catalogue, metrics, engine, store, cache, experiments, links, isolation)
    metrics.folders_refused.set_function(lambda: len(service.refused))
    return service


def open_store(settings: Settings) -> Store:
    """Redis where the settings name one; nothing is connected yet. Raises StartupError."""
    if settings.redis_url is None:
        return MemoryStore(max_jobs=settings.max_jobs, job_ttl_s=settings.job_ttl_s, job_bytes=settings.job_bytes)
    url = str(settings.redis_url)
    try:
        return RedisStore(url, max_jobs=settings.max_jobs, job_ttl_s=settings.job_ttl_s, lease_s=settings.job_lease_s)
    except ValueError as error:  # a value in its query
        raise StartupError(f"redis_url (SFDDM_REDIS_URL) cannot be used: {str(error).rstrip('.')}.") from error


def check_experiments(settings: Settings, catalogue: Catalogue) -> None:
    """Raise StartupError unless every arm of every experiment is a model, and no experiment has the name of one."""
    for name, experiment in settings.experiments.items():
        if name in catalogue.entries:
            raise StartupError(f"The experiment {name!r} has the name of a model; give it another (SFDDM_EXPERIMENTS).")
        for arm in experiment.arms:
            try:
                canonical = catalogue.resolve(arm).id
            except UnknownModelError as error:
                raise StartupError(f"The experiment {name!r} cannot run: {error}") from error
            if canonical != arm:
                raise StartupError(f"The experiment {name!r} has the arm {arm!r}; write it {canonical!r}.")


async def _service_of(request: Request) -> Service:  # a plain function would be run in a thread for every request
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]
