"""The lifecycle: load, replace and free models on the device while the service runs.

    load     in a thread of its own: the backend opens the folder. Each measurement of the calibration is an errand that the
             engine's thread runs between two steps, so that requests wait for one measurement at a time
    serve    requests resolved from now on run on the new version, in lanes of its own
    retire   a version that was replaced or unloaded finishes its admitted rows, and serves its holders (see `hold`)
    free     between two steps, once its last row and its last holder are gone

Until an old version is freed, two versions share the device like two models, and both are in memory.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog

from models.catalogue import Entry, Resolved
from models.runtime.base import Backend, SideBySide
from service.engine.config import EngineConfig
from service.engine.load import Loaded, ModelStatus, load
from service.engine.request import UnavailableError
from service.engine.scheduler import Scheduler
from service.engine.tasks import in_daemon
from service.observability.metrics import Metrics

T = TypeVar("T")

LOAD_S = 2.0  # least estimate for loading and calibrating one model, and the only one before the first is loaded

log = structlog.get_logger(__name__)


class Lifecycle:
    """The versions of every model. The engine's condition guards them; a method says so where its caller must hold it."""

    def __init__(
        self,
        entries: Iterable[Entry],
        backend: Backend,
        config: EngineConfig,
        scheduler: Scheduler,
        metrics: Metrics,
        changed: threading.Condition,
        clock: Callable[[], float],
    ) -> None:
        """entries: the models to load at start. changed: the engine's condition, notified of new work."""
        self._entries = list(entries)
        self._backend = backend
        self._config = config
        self._scheduler = scheduler
        self._metrics = metrics
        self._changed = changed
        self._clock = clock
        self.statuses = {entry.id: ModelStatus("loading") for entry in self._entries}
        self._serving: dict[str, Loaded] = {}  # by id
        self._versions: dict[str, Loaded] = {}  # by key; includes the retired ones
        self._retired: list[Loaded] = []
        self._errands: deque[Callable[[], None]] = deque()
        self._pending: set[Future[Any]] = set()  # results of errands that loaders wait for
        self._closed = False
        self._began_s = self._turned_s = clock()  # when loading at start began; when its latest model was done

    # Called by the engine

    def load_all(self, wanted: Callable[[], bool]) -> None:
        """Load the models at start, in the engine's thread. Stop when `wanted` returns False.

        A model that fails does not stop the others.
        """
        self._began_s = self._turned_s = self._clock()
        for entry in self._entries:
            if not wanted():
                return
            self.serve(entry, load(entry, self._backend, self._config, clock=self._clock))
            self._turned_s = self._clock()

    def loading_s(self) -> float:
        """Estimate the seconds until load_all is done, if each model takes as long as those so far.

        The first model is estimated at LOAD_S, or at the time it has taken if that is longer.
        """
        states = [status.state for status in list(self.statuses.values())]
        left = states.count("loading")
        done = len(states) - left
        now_s = self._clock()
        spent_s = now_s - self._turned_s  # on the model that is being loaded
        each_s = (self._turned_s - self._began_s) / done if done else max(spent_s, LOAD_S)
        return (left - 1) * each_s + max(each_s - spent_s, LOAD_S)

    def find(self, key: str) -> Loaded | None:
        """Return the version of this key, retired or not, while it is on the device. With the condition held."""
        return self._versions.get(key)

    def use(self, key: str, rows: int) -> None:
        """Add to the number of rows that need this version. rows: below 0 for rows that ended. With the condition held."""
        if (loaded := self._versions.get(key)) is not None:  # after the engine has stopped there is no version
            loaded.users += rows

    @property
    def due(self) -> bool:
        """True when `upkeep` has something to do. With the condition held."""
        return bool(self._errands) or any(not loaded.users for loaded in self._retired)

    def upkeep(self) -> bool:
        """Free the versions that nobody needs and run one errand, in the engine's thread between two steps.

        Returns True if there was an errand.
        """
        if not self._errands and not self._retired:
            return False
        with self._changed:
            freed = [loaded for loaded in self._retired if not loaded.users]
            for loaded in freed:
                self._free(loaded)
                del loaded
            errand = self._errands.popleft() if self._errands else None
        if freed:
            freed.clear()
            threading.Thread(target=_return_memory, name="trim", daemon=True).start()
        if errand is not None:
            errand()
        return errand is not None

    def close(self) -> None:
        """Release everything, in the engine's thread. Loads in progress fail."""
        with self._changed:
            self._closed = True
            self._errands.clear()
            for future in self._pending:
                future.set_exception(UnavailableError("the service is shutting down"))
            self._serving.clear()
            self._versions.clear()
            self._retired.clear()

    # Called by a reload, in the event loop

    async def load(self, entry: Entry) -> Loaded | ModelStatus:
        """Load an entry while the other models are served. It gets no requests before `serve`."""
        work = partial(load, entry, self._backend, self._config, self._between_steps, self._clock)
        return await in_daemon(work, name="loader")

    def serve(self, entry: Entry, found: Loaded | ModelStatus) -> None:
        """Send new requests for the entry's id to this version, or say in its status why there is none."""
        with self._changed:
            if isinstance(found, Loaded):
                abreast = found.network.abreast if isinstance(found.network, SideBySide) else 1
                self._scheduler.add_model(
                    entry.key, found.costs, weight=self._config.weights.get(entry.id, 1.0), abreast=abreast
                )
                self._versions[entry.key] = found
                self._retire(entry.id)
                self._serving[entry.id] = found
                self.statuses[entry.id] = found.status
            else:
                self.statuses[entry.id] = found
        self._metrics.model_loaded.labels(model=entry.id).set(isinstance(found, Loaded))
        if isinstance(found, Loaded):
            self._metrics.model_image_seconds.labels(model=entry.id).set(entry.manifest.steps * found.costs.seconds(1))

    def unload(self, model_id: str) -> None:
        """Send no new requests to a model. Its admitted rows are finished."""
        with self._changed:
            del self.statuses[model_id]
            self._retire(model_id)
            self._forget_if_gone(model_id)

    def mark_outdated(self, model_id: str, reason: str | None) -> None:
        """Store in a model's status why its folder's contents are not served. reason: None when they are served."""
        with self._changed:
            self.statuses[model_id] = replace(self.statuses[model_id], reason=reason)

    @contextmanager
    def hold(self, models: Iterable[Resolved]) -> Iterator[None]:
        """Keep these models' versions on the device for the length of the block.

        For callers that resolve a model now and submit to it after other coroutines have run.
        """
        with self._changed:
            held = [loaded for model in models if (loaded := self._versions.get(model.entry.key)) is not None]
            for loaded in held:
                loaded.users += 1
        try:
            yield
        finally:
            with self._changed:
                for loaded in held:
                    loaded.users -= 1
                self._changed.notify_all()

    def _between_steps(self, work: Callable[[], T], /) -> T:
        """Run `work` in the engine's thread between two steps, and return its result. Called in a loader's thread."""
        future: Future[T] = Future()

        def errand() -> None:
            try:
                result = work()
            except Exception as error:
                settle = partial(future.set_exception, error)
            else:
                settle = partial(future.set_result, result)
            with self._changed:
                self._pending.discard(future)
            settle()

        with self._changed:
            if self._closed:
                raise UnavailableError("the service is shutting down")
            self._errands.append(errand)
            self._pending.add(future)
            self._changed.notify_all()
        return future.result()

    def _retire(self, model_id: str) -> None:
        old = self._serving.pop(model_id, None)
        if old is not None:
            self._retired.append(old)
            self._changed.notify_all()  # it may be free already

    def _free(self, loaded: Loaded) -> None:
        self._retired.remove(loaded)
        del self._versions[loaded.entry.key]
        self._scheduler.remove_model(loaded.entry.key)
        log.info("model_freed", model=loaded.entry.id, sha256=loaded.entry.manifest.sha256)
        self._forget_if_gone(loaded.entry.id)

    def _forget_if_gone(self, model_id: str) -> None:
        """Remove the metrics of a model that is not served any more, once its last version is freed."""
        if model_id not in self.statuses and all(loaded.entry.id != model_id for loaded in self._retired):
            self._metrics.forget(model_id)


def _return_memory() -> None:
    """Give freed memory back to the system. glibc would keep it, and keep more with every reload."""
    with suppress(OSError, AttributeError):  # the system has another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
