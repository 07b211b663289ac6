"""The parts of a running service, put together once from its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.catalogue import Catalogue, Refusal, Resolved, UnknownModelError, discover
from models.plan import SAMPLERS
from models.runtime.choose import choose_backend
from service.engine.engine import Engine
from service.engine.load import ModelStatus, without_folders
from service.engine.request import ModelFailedError, UnavailableError
from service.features.config import Arms, ServiceConfig
from service.features.experiments import Experiments
from service.features.isolation import Isolation
from service.features.links import ImageLinks
from service.observability.metrics import Metrics
from service.store.base import Store
from service.store.cache import ResultCache
from service.store.memory import MemoryStore
from service.store.redis import RedisStore


class StartupError(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class Service:
    """The parts of a running service."""

    config: ServiceConfig
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
        """The model of requests that name none. It may change with a reload, unless the configuration names one."""
        return choose_default(self.catalogue, self.config.default_model)

    @property
    def refused(self) -> dict[str, str]:
        """Reasons why model folders, or whole zoos, were not trusted, by the id that each would have.

        An id that is served from an earlier version or another zoo is left out: the status of that model has the reason.
        """
        zoos = set(self.config.zoos)
        found: dict[str, str] = {}
        for refusal in self.catalogue.refusals:
            folder = refusal.folder.absolute()
            name = folder.name if refusal.folder in zoos else f"{folder.parent.name}/{folder.name}"
            if name not in self.catalogue.entries:
                found[name] = without_folders(refusal.reason, folder, name)
        return found

    def resolve(self, model_id: str | None) -> Resolved:
        """Return the model of a request, the default one for None. Raises UnknownModelError."""
        if model_id is not None and model_id in self.experiments.configured:
            raise UnknownModelError(
                f"{model_id} is an experiment, which only image generations and jobs take; name one of its models: "
                f"{', '.join(self.experiments.configured[model_id])}."
            )
        return self.catalogue.resolve(self.default_model if model_id is None else model_id)

    def require_loaded(self, model: Resolved) -> ModelStatus:
        """Return the status of a loaded model. Raises ModelFailedError, and UnavailableError while it may still be loaded."""
        status = self.engine.models[model.entry.id]
        if status.state == "failed":
            raise ModelFailedError(model.entry.id, status.reason)
        if status.state != "loaded":
            raise UnavailableError(f"The model {model.entry.id} is {status.state}; try again in a moment.")
        return status

    def require_alive(self) -> None:
        """Raise UnavailableError when the engine has failed, which only a restart of the process mends."""
        if self.engine.failure is not None:
            raise UnavailableError(f"The engine has failed and needs a restart: {self.engine.failure}")

    def require_ready(self) -> None:
        """Raise UnavailableError with the reason when a request would not be served now."""
        if not self.engine.ready:
            raise UnavailableError(self._why_not_ready(), self.engine.ready_in_s)

    def _why_not_ready(self) -> str:
        if self.engine.failure is not None:
            return "The engine has failed."
        states = [status.state for status in self.engine.models.values()]
        if "loading" in states:
            return f"Models are loading: {len(states) - states.count('loading')} of {len(states)} are done."
        if "loaded" not in states:
            return "No model could be loaded; GET /v1/models tells why."
        return "The service is shutting down."


def open_catalogue(zoos: Iterable[Path]) -> Catalogue:
    """Discover the models of the zoos. Raises StartupError when they hold none that can be trusted."""
    zoos = tuple(zoos)
    catalogue = discover(zoos)
    if not catalogue.entries:
        raise StartupError(f"No model to serve in {', '.join(map(str, zoos))}{_reasons(catalogue.refusals)}.")
    return catalogue


def _reasons(refusals: Iterable[Refusal]) -> str:
    said = "; ".join(refusal.reason for refusal in refusals)
    return f": {said}" if said else "; a model folder is <zoo>/<family>/<name> with a manifest.json"


def choose_default(catalogue: Catalogue, wanted: str | None) -> str:
    """Choose the model of requests that name none: `wanted`, else the first student of 16 steps, else the first model.

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
    """Return the solver variants that get metrics of their own.

    These are the variants with as many steps as a student of the family: the ones that the student competes with.
    """
    models = [entry.manifest for entry in catalogue.entries.values()]
    return {
        f"{teacher.id}@{sampler}-{student.steps:03d}"
        for teacher in models
        for student in models
        for sampler in SAMPLERS
        if teacher.kind == "teacher" and student.kind == "student" and teacher.family == student.family
    }


def assemble(config: ServiceConfig, catalogue: Catalogue, store: Store | None = None) -> Service:
    """Put the parts together; nothing is started or connected yet. Raises StartupError with one sentence.

    store: used instead of the one that the configuration names.
    """
    metrics = Metrics(variants=measured_variants(catalogue), models=catalogue.entries)
    unknown = config.engine.weights.keys() - catalogue.entries.keys()
    if unknown:
        raise StartupError(
            f"model_weights names {', '.join(sorted(unknown))}, which is not served; a variant has its model's weight."
        )
    backend = choose_backend(
        config.provider, threads=config.threads, gpu_memory=config.gpu_memory, cache_dir=config.engine.cache_dir
    )
    engine = Engine(catalogue, backend, config.engine, metrics)
    choose_default(catalogue, config.default_model)
    if store is None:
        store = open_store(config)
    metrics.max_backlog_seconds.set(config.engine.max_backlog_s)
    metrics.ready.set_function(lambda: engine.ready)
    metrics.store_up.set_function(lambda: store.up)
    service = Service(
        config=config,
        catalogue=catalogue,
        metrics=metrics,
        engine=engine,
        store=store,
        cache=ResultCache(store.blobs, metrics, max_bytes=config.cache_bytes, ttl_s=config.cache_ttl_s),
        experiments=Experiments(config.experiments, store.samples, metrics),
        links=ImageLinks(config.url_secret, config.url_expire_s),
        isolation=Isolation(config.isolated_s),
    )
    metrics.folders_refused.set_function(lambda: len(service.refused))
    return service


def open_store(config: ServiceConfig) -> Store:
    """Return the store: Redis where the configuration names one, else memory. Raises StartupError for a url with errors."""
    if config.redis_url is None:
        return MemoryStore(max_jobs=config.max_jobs, job_ttl_s=config.job_ttl_s, job_bytes=config.job_bytes)
    try:
        return RedisStore(config.redis_url, max_jobs=config.max_jobs, job_ttl_s=config.job_ttl_s, lease_s=config.job_lease_s)
    except ValueError as error:  # a value in its query
        raise StartupError(f"redis_url (SFDDM_REDIS_URL) cannot be used: {str(error).rstrip('.')}.") from error


def check_experiments(experiments: Mapping[str, Arms], catalogue: Catalogue) -> None:
    """Raise StartupError unless every arm of every experiment is a model, and no experiment has the name of one."""
    for name, arms in experiments.items():
        if name in catalogue.entries:
            raise StartupError(f"The experiment {name!r} has the name of a model; give it another (SFDDM_EXPERIMENTS).")
        for arm in arms:
            try:
                canonical = catalogue.resolve(arm).id
            except UnknownModelError as error:
                raise StartupError(f"The experiment {name!r} cannot run: {error}") from error
            if canonical != arm:
                raise StartupError(f"The experiment {name!r} has the arm {arm!r}; write it {canonical!r}.")
