"""What every route needs, built once from the settings and handed to the app."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from models.catalogue import Catalogue, Refusal, Resolved, UnknownModelError, discover
from models.plan import SAMPLERS
from service.api.links import ImageLinks
from service.backend.onnx import OnnxBackend
from service.comparison import Isolation
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.settings import Settings
from service.telemetry import Metrics


class StartupError(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class Service:
    """The parts of a running service."""

    settings: Settings
    catalogue: Catalogue
    default_model: str
    metrics: Metrics
    engine: Engine
    links: ImageLinks
    isolation: Isolation

    def resolve(self, model_id: str | None) -> Resolved:
        """The model of a request, the default one when it names none. Raises UnknownModelError."""
        return self.catalogue.resolve(model_id or self.default_model)


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
    metrics = Metrics(variants=measured_variants(catalogue))
    config = EngineConfig(settings.max_batch, settings.max_step_ms, settings.max_backlog_s)
    engine = Engine(catalogue, OnnxBackend(threads=settings.threads, provider=settings.provider), config, metrics)
    links = ImageLinks(settings.url_secret, settings.url_expire_s, settings.public_url)
    default = choose_default(catalogue, settings.default_model)
    return Service(settings, catalogue, default, metrics, engine, links, Isolation(settings.isolated_s))


def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]
