"""The engine: takes requests from event loops and makes their images in a thread that owns the device.

    submit, choose   admit a request (admission.py, on the estimates of forecast.py) and open its rows (ledger.py)
    the thread       loads the models (lifecycle.py), then repeats schedule -> execute -> deliver (loop.py)
    drain            finishes the admitted rows, and ends the thread

`submit` and `cancel` run in the event loop and only change what the next round sees, under a lock that is never held while
the device works. So rows join and leave at step boundaries, and the event loop never waits for the device.

A row that fails takes nothing with it. When the device is lost or the thread meets a bug, the engine fails what it holds,
stays down and says so in `failure`. A broken device context does not heal within its process, so /livez turns red and the
orchestrator restarts the replica.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from types import MappingProxyType
from typing import Literal

import structlog

from models.catalogue import Catalogue, Entry, Resolved
from models.runtime.base import Backend
from service.engine.admission import Admission
from service.engine.config import EngineConfig
from service.engine.forecast import Forecast
from service.engine.ledger import Ledger
from service.engine.lifecycle import Lifecycle
from service.engine.load import Loaded, ModelStatus
from service.engine.loop import StepLoop
from service.engine.request import (
    Generation,
    LatencyError,
    ModelFailedError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
    check_generation,
)
from service.engine.scheduler import Scheduler
from service.engine.ticket import Ticket
from service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

LAST_STEP_S = 1.0  # wait at the end of a drain for the step on the device: ten times the default max_step_ms

_STARTING = "The service is still loading its models; try again in a moment."
_DRAINING = "The service is shutting down; send the request to another replica or try again later."
_FAILED = "The engine of this replica has failed; send the request to another replica or try again later."


class Engine:
    """Serves every model of a catalogue on one device."""

    def __init__(
        self,
        catalogue: Catalogue,
        backend: Backend,
        config: EngineConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """clock: a monotonic clock, in seconds."""
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._changed = threading.Condition()  # guards everything below
        self._scheduler = Scheduler()
        self._forecast = Forecast(self._scheduler)
        self._admission = Admission(self._forecast, config.max_backlog_s)
        self._lifecycle = Lifecycle(catalogue.entries.values(), backend, config, self._scheduler, metrics, self._changed, clock)
        self._ledger = Ledger(self._scheduler, self._lifecycle, metrics, self._changed)
        self._state: Literal["starting", "serving", "draining", "stopped"] = "starting"
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch_engine(
            backlog_s=self._backlog_s,
            wait_s=self._longest_wait_s,
            running_rows=lambda: self._ledger.running_rows,
            waiting_requests=lambda: self._ledger.waiting_requests,
        )

    def start(self) -> None:
        """Start the thread, which loads and warms every model. Returns at once; watch `ready`."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """True when every model has been tried, at least one is loaded, and requests are accepted."""
        return self._state == "serving" and any(status.state == "loaded" for status in self.models.values())

    @property
    def ready_in_s(self) -> float:
        """Estimated seconds until `ready`, while starting. 1 in any other state, where no estimate is possible."""
        return self._lifecycle.loading_s() if self._state == "starting" else 1.0

    @property
    def state(self) -> Literal["starting", "serving", "draining", "stopped"]:
        """The state of the engine."""
        return self._state

    @property
    def failure(self) -> str | None:
        """The reason why the engine has failed and its process must be restarted. None while it has not failed."""
        return self._failure

    @property
    def models(self) -> Mapping[str, ModelStatus]:
        """The status of every model, by entry id."""
        return MappingProxyType(self._lifecycle.statuses)

    def wait_s(self, model: Resolved, *, flex: bool = False) -> float | None:
        """Estimate the seconds until the model's lane has done the work it holds now. None unless the model is loaded.

        A request is refused while this is more than max_backlog_s, see admission.py.
        """
        with self._changed:
            if self._lifecycle.find(model.entry.key) is None:
                return None
            return self._forecast.wait_s(model.entry.key, flex=flex, now_s=self._clock())

    def choose(self, models: Sequence[Resolved], *, images: int, max_latency_s: float, flex: bool = False) -> Resolved:
        """Return the first of `models`, best first, that is estimated to make `images` images within max_latency_s.

        Reserves nothing: `submit` checks the promise again. Raises UnavailableError, OverloadedError when no model is fast
        enough now, and LatencyError when none ever is.
        """
        with self._changed:
            loaded = [model for model in models if self._lifecycle.find(model.entry.key) is not None]
            self._check_serving(loaded[0] if loaded else models[0])
            with self._counted():
                return self._admission.choose(
                    loaded, images=images, max_latency_s=max_latency_s, now_s=self._clock(), flex=flex
                )

    def submit(self, generation: Generation) -> Ticket:
        """Queue one row per image. Call it in the event loop that will read the ticket.

        A latency limit becomes a promise here, and is checked again: the answer of `choose` may no longer hold. Raises

        - UnavailableError while the engine starts, drains or has failed, and for a model that failed to load or is gone;
        - OverloadedError and LatencyError by the rules of admission.py;
        - OverloadedError also for exclusive_s while other rows run exclusively or a promise would be broken;
        - ValueError for images that do not fit the model.
        """
        check_generation(generation)
        model, images, flex = generation.model, len(generation.images), generation.flex
        key, steps = model.entry.key, len(model.plan)
        loop = asyncio.get_running_loop()
        with self._changed:
            self._check_serving(model)
            now_s = self._clock()
            self._admit(generation, now_s)
            estimated_s = self._forecast.completion_s(key, rows=images, steps=steps, flex=flex, now_s=now_s)
            first = self._ledger.next_number
            ticket = Ticket(
                generation, loop, self._cancel, first=first, submitted_s=now_s, estimated_s=estimated_s, clock=self._clock
            )
            self._ledger.enter(ticket)
            deadline_s, promised_s = now_s + self._config.max_backlog_s, None
            if generation.max_latency_s is not None:
                promised_s = now_s + generation.max_latency_s
                deadline_s = min(promised_s, deadline_s)
            self._scheduler.admit(key, ticket.numbers, steps, deadline_s=deadline_s, promised_s=promised_s, flex=flex)
            if generation.exclusive_s:
                self._scheduler.run_exclusively(ticket.numbers, generation.exclusive_s)
            self._changed.notify_all()
        return ticket

    # Models that come and go while others are served

    async def load(self, entry: Entry) -> Loaded | ModelStatus:
        """Load an entry while the other models are served. It gets no requests before `serve`.

        Returns the loaded model, or the status that says why it could not be loaded.
        """
        return await self._lifecycle.load(entry)

    def serve(self, entry: Entry, found: Loaded | ModelStatus) -> None:
        """Send new requests for the entry's id to this version, or say in its status why there is none."""
        self._lifecycle.serve(entry, found)

    def hold(self, models: Iterable[Resolved]) -> AbstractContextManager[None]:
        """Keep these models' versions on the device for the length of a `with` block."""
        return self._lifecycle.hold(models)

    def unload(self, model_id: str) -> None:
        """Send no new requests to a model. Its admitted rows are finished."""
        self._lifecycle.unload(model_id)

    def mark_outdated(self, model_id: str, reason: str | None) -> None:
        """Store in a model's status why its folder's contents are not served. reason: None when they are served."""
        self._lifecycle.mark_outdated(model_id, reason)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, finish admitted work within timeout_s, fail the rest, and stop the thread.

        Waits LAST_STEP_S for a step or a model load that is in progress at the end. If it takes longer, it is abandoned.
        """
        await asyncio.to_thread(self._drain, timeout_s)

    # Admission and cancellation: any thread

    def _check_serving(self, model: Resolved) -> None:
        """Raise UnavailableError unless requests for this model are accepted at all."""
        if self._state != "serving":
            self._shed("failed" if self._failure else self._state)
            why = _FAILED if self._failure else _STARTING if self._state == "starting" else _DRAINING
            raise UnavailableError(why, self.ready_in_s)
        if self._lifecycle.find(model.entry.key) is None:
            self._shed("model_failed")
            status, name = self.models.get(model.entry.id), model.entry.id
            if status is not None and status.state == "failed":
                raise ModelFailedError(name, status.reason)
            raise UnavailableError(
                f"The model {name} was replaced or unloaded while the request was on its way; send it again."
            )

    def _admit(self, generation: Generation, now_s: float) -> None:
        """Raise OverloadedError or LatencyError unless the request can be taken now."""
        model, images, flex = generation.model, len(generation.images), generation.flex
        with self._counted():
            self._admission.check_backlog(model, now_s, flex=flex)
            if (max_latency_s := generation.max_latency_s) is not None:
                self._admission.choose([model], images=images, max_latency_s=max_latency_s, now_s=now_s, flex=flex)
        if generation.exclusive_s:
            self._admission.check_exclusive(model, images=images, seconds=generation.exclusive_s, now_s=now_s)

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._ledger.drop(ticket, RequestCancelledError("The request was cancelled."))

    def _fail_rest(self) -> None:
        """Fail the rows that are left, once the engine has stopped."""
        self._ledger.drop_all(lambda: UnavailableError(_FAILED if self._failure else _DRAINING))

    def _drain(self, timeout_s: float) -> None:
        with self._changed:
            if self._state in ("serving", "draining"):
                begun_s = self._clock()
                if self._state == "serving":
                    left_s = round(self._forecast.backlog_s(), 3)
                    log.info("draining", **self._ledger.left, left_s=left_s, drain_s=timeout_s)
                self._state = "draining"
                done = self._changed.wait_for(lambda: not self._ledger.rows or self._state == "stopped", timeout_s)
                if self._state == "draining":  # else a second drain has ended this one, and has logged it
                    seconds = round(self._clock() - begun_s, 3)
                    if done:
                        log.info("drained", seconds=seconds)
                    else:
                        log.warning("drain_ran_out", **self._ledger.left, seconds=seconds)
            self._state = "stopped"
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(LAST_STEP_S)
            with self._changed:
                self._fail_rest()

    # The engine thread

    def _run(self) -> None:
        try:
            self._lifecycle.load_all(lambda: self._state == "starting")
            with self._changed:
                if self._state == "starting":
                    self._state = "serving"
            with closing(
                StepLoop(self._scheduler, self._lifecycle, self._ledger, self._metrics, self._changed, self._clock)
            ) as loop:
                while self._state != "stopped":
                    loop.round(lambda: self._state != "stopped")
        except Exception as error:
            log.exception("engine_failed")
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                self._state = "stopped"
                self._fail_rest()
            self._lifecycle.close()

    # Metrics

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request that admission refuses."""
        try:
            yield
        except (OverloadedError, LatencyError) as error:
            self._shed("overloaded" if isinstance(error, OverloadedError) else "latency")
            raise

    def _shed(self, reason: str) -> None:
        self._metrics.shed_total.labels(reason=reason).inc()

    def _backlog_s(self) -> float:
        with self._changed:
            return self._forecast.backlog_s()

    def _longest_wait_s(self) -> float:
        with self._changed:
            return self._forecast.longest_wait_s(self._clock())
