"""Reload: serve the present contents of the zoos. One model changes at a time, while requests go on.

- A model whose manifest has changed is loaded beside the version that is served, and takes its place.
- A model whose folder is gone is unloaded.
- A model stays as it was, and is reported, where its folder does not verify or does not load, or where the change would break
  a condition of the start: the default model, the arms of experiments, at least one model.

Reloads wait for each other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from models.catalogue import Catalogue, Entry, UnknownModelError, discover, sha256_of
from service.engine.load import Loaded
from service.engine.request import UnavailableError
from service.engine.tasks import in_daemon
from service.features.errors import ConflictError, UnusableError
from service.features.service import Service, StartupError, check_experiments, choose_default, measured_variants

_POLL_S = 0.05
_log = structlog.get_logger("service.api")


@dataclass(frozen=True)
class FailedModel:
    """A model that could not be brought up to date with its folder. serving: the version loaded before is still served."""

    model: str
    reason: str
    serving: bool


@dataclass
class ReloadReport:
    """The result of a reload: the ids of the models, by what was done with them.

    loaded      new ones
    replaced    those whose folder has changed
    removed     those whose folder is gone, or that were unloaded
    kept        those whose folder has not changed
    failed      those that could not be brought up to date with their folders
    """

    loaded: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[FailedModel] = field(default_factory=list)


class Reloader:
    """Reloads the models of one service. Belongs to the event loop of that service."""

    def __init__(self, service: Service, on_change: Callable[[], None]) -> None:
        """Take a service. on_change is called when models have come or gone."""
        self._service = service
        self._on_change = on_change
        self._turn = asyncio.Lock()
        self._versions = itertools.count(2)
        self._tasks: set[asyncio.Task[ReloadReport]] = set()
        self._requested = False

    def request(self) -> None:
        """Reload soon, without an answer. Several calls before the reload begins cause one reload."""
        if not self._requested:
            self._requested = True
            self._begin(self._reload())

    async def reload(self) -> ReloadReport:
        """Reload every model of the zoos. Raises UnavailableError unless the service serves."""
        return await asyncio.shield(self._begin(self._reload()))

    async def load(self, model_id: str) -> ReloadReport:
        """Load or reload one model.

        Raises UnknownModelError when no zoo has it, UnusableError when it cannot be loaded, and what reload raises.
        """
        report = await asyncio.shield(self._begin(self._reload(model_id)))
        for failed in report.failed:
            raise UnusableError(failed.reason, "model", "model_not_loaded")
        return report

    async def unload(self, model_id: str) -> ReloadReport:
        """Stop serving one model until it is loaded again or everything is reloaded.

        Raises UnknownModelError, ConflictError for a model that is needed, and what reload raises.
        """
        return await asyncio.shield(self._begin(self._unload(model_id)))

    def _begin(self, work: Coroutine[Any, Any, ReloadReport]) -> asyncio.Task[ReloadReport]:
        """Start the work as a task of its own, so that a client that leaves does not leave half a reload behind."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[ReloadReport]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("reload_failed", error=str(error))

    async def _reload(self, only: str | None = None) -> ReloadReport:
        async with self._turn:
            if only is None:
                self._requested = False
            await self._until_started()
            zoos = self._service.config.zoos
            found = await in_daemon(partial(discover, zoos), name="discover")
            refused = {refusal.folder.absolute(): refusal.reason for refusal in found.refusals if not refusal.shadowed}
            new_refused = {_id_of(folder, zoos): reason for folder, reason in refused.items()}
            served = list(self._entries)
            models = [*found.entries, *(model_id for model_id in served if model_id not in found.entries)]
            if only is not None and only not in {*models, *new_refused}:
                raise UnknownModelError(f"The model {only!r} is in none of the zoos.")
            report = ReloadReport()
            for model_id in models if only is None else [only] if only in models else []:
                await self._update(model_id, found.entries.get(model_id), refused, report)
            for model_id, reason in new_refused.items():
                if model_id not in models and only in (None, model_id):
                    report.failed.append(FailedModel(model=model_id, reason=reason, serving=False))
            known = self._entries
            entries = {model_id: known[model_id] for model_id in models if model_id in known}
            self._service.catalogue.replace(entries, found.refusals)
            self._tell(report)
            return report

    async def _unload(self, model_id: str) -> ReloadReport:
        async with self._turn:
            await self._until_started()
            if model_id not in self._entries:
                known = ", ".join(self._entries)
                raise UnknownModelError(f"The model {model_id!r} is not served. Models here: {known}.")
            report = ReloadReport()
            objection = self._missed_by_requests(model_id) or self._remove(model_id)
            if objection is not None:
                raise ConflictError(objection, "model", "model_needed")
            report.removed.append(model_id)
            self._tell(report)
            return report

    async def _until_started(self) -> None:
        engine = self._service.engine
        while engine.state == "starting":
            await asyncio.sleep(_POLL_S)
        if engine.state != "serving":
            raise UnavailableError("Models can be loaded only while the service serves; it is shutting down or has failed.")

    @property
    def _entries(self) -> Mapping[str, Entry]:
        return self._service.catalogue.entries

    def _is_served(self, model_id: str) -> bool:
        status = self._service.engine.models.get(model_id)
        return status is not None and status.state == "loaded"

    async def _update(self, model_id: str, new: Entry | None, refused: Mapping[Path, str], report: ReloadReport) -> None:
        """Bring one model up to date with its folder, and add the result to the report."""
        old, served = self._entries.get(model_id), self._is_served(model_id)
        reason = None
        if old is not None and served:
            reason = refused.get(old.folder) or refused.get(old.folder.parents[1])
        if reason is None and new is None:
            reason = self._remove(model_id)
            if reason is None:
                report.removed.append(model_id)
                return
        elif reason is None and new is not None:
            if old is not None and served and old.digest == new.digest:
                self._outdated(model_id, None)
                report.kept.append(model_id)
                return
            reason = await self._replace(replace(new, version=next(self._versions)), served)
            if reason is None:
                (report.loaded if old is None else report.replaced).append(model_id)
                return
        if served:
            self._outdated(model_id, reason)
        report.failed.append(FailedModel(model=model_id, reason=reason or "", serving=served))

    async def _replace(self, entry: Entry, served: bool) -> str | None:
        """Load an entry and serve it in place of the version with its id. Return why it failed, or None.

        served: there is such a version, and it stays when this fails.
        """
        entries = {**self._entries, entry.id: entry}
        objection = self._objection(entries)
        if objection is not None:
            return objection
        engine = self._service.engine
        found = await engine.load(entry)
        if isinstance(found, Loaded):
            if not await in_daemon(partial(_unchanged, entry), name="discover"):
                return f"{entry.graph} changed while it was being loaded; reload again"
        elif served:
            return found.reason
        engine.serve(entry, found)
        self._serve(entries)
        self._service.metrics.model_outdated.labels(model=entry.id).set(0)
        return None if isinstance(found, Loaded) else found.reason

    def _remove(self, model_id: str) -> str | None:
        """Unload a model. If something needs it, keep it and return the reason; else return None."""
        entries = {name: entry for name, entry in self._entries.items() if name != model_id}
        objection = self._needed_by(model_id) or self._objection(entries)
        if objection is None:
            self._serve(entries)
            self._service.engine.unload(model_id)
        return objection

    def _needed_by(self, model_id: str) -> str | None:
        """Return which setting needs a served model, or None."""
        service = self._service
        if service.catalogue.resolve(service.default_model).entry.id == model_id and service.config.default_model:
            return f"{model_id} is the default model and is kept; change SFDDM_DEFAULT_MODEL and restart to remove it."
        for name, arms in service.config.experiments.items():
            if any(service.catalogue.resolve(arm).entry.id == model_id for arm in arms):
                return f"The experiment {name!r} needs {model_id}, which is kept; change SFDDM_EXPERIMENTS and restart first."
        return None

    def _missed_by_requests(self, model_id: str) -> str | None:
        """Return why a model may not be unloaded by hand, or None.

        Requests that name no model would silently get images of another.
        """
        if model_id != self._service.default_model or len(self._entries) == 1:
            return None
        return f"{model_id} is the default model; set SFDDM_DEFAULT_MODEL to another, or remove its folder and reload."

    def _objection(self, entries: Mapping[str, Entry]) -> str | None:
        """Return why the service would not start with these models, or None."""
        config, catalogue = self._service.config, Catalogue(entries)
        try:
            choose_default(catalogue, config.default_model)
            check_experiments(config.experiments, catalogue)
        except StartupError as error:
            return str(error)
        return None

    def _serve(self, entries: Mapping[str, Entry]) -> None:
        self._service.catalogue.replace(entries)
        self._service.metrics.serve(entries, measured_variants(self._service.catalogue))
        self._on_change()

    def _outdated(self, model_id: str, reason: str | None) -> None:
        self._service.engine.mark_outdated(model_id, reason)
        self._service.metrics.model_outdated.labels(model=model_id).set(reason is not None)

    def _tell(self, report: ReloadReport) -> None:
        for failed in report.failed:
            _log.warning("model_not_reloaded", model=failed.model, reason=failed.reason, serving=failed.serving)
        outcome = {name: getattr(report, name) for name in ("loaded", "replaced", "removed", "kept")}
        if report.failed:
            _log.warning("reloaded", **outcome, failed=[failed.model for failed in report.failed])
        else:
            _log.info("reloaded", **outcome)
        self._service.metrics.reloads_total.labels(outcome="failed" if report.failed else "ok").inc()


def _id_of(folder: Path, zoos: Iterable[Path]) -> str:
    """Return the id that a refused folder would have; for a zoo that is not there, its path."""
    return str(folder) if folder in {zoo.absolute() for zoo in zoos} else f"{folder.parent.name}/{folder.name}"


def _unchanged(entry: Entry) -> bool:
    try:
        return sha256_of(entry.graph) == entry.manifest.sha256
    except OSError:
        return False
