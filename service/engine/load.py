"""Load: bring one model of the catalogue onto the device, calibrated and warm, or say why that failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeVar, Unpack

import structlog

from models.catalogue import Entry
from models.runtime.base import Backend, Float32, Network, Precision, StepInputs
from service.engine.calibrate import calibrate
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts

T = TypeVar("T")

log = structlog.get_logger(__name__)

_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:'\"]+/)+")


@dataclass(frozen=True)
class ModelStatus:
    """The state of one model of the catalogue.

    reason: why it failed to load, or why its folder's newer contents are not served.
    step_ms: milliseconds of one step by bucket, as calibrated; empty unless loaded.
    """

    state: Literal["loading", "loaded", "failed"]
    reason: str | None = None
    provider: str | None = None
    precision: str | None = None
    step_ms: Mapping[int, float] = field(default_factory=dict)


@dataclass(eq=False)
class Loaded:
    """A model that is ready to run. users: number of rows and holders that need it, see lifecycle.py."""

    entry: Entry
    network: Network
    costs: StepCosts
    users: int = 0

    @property
    def status(self) -> ModelStatus:
        """The status of a loaded model."""
        step_ms = {rows: 1000 * seconds for rows, seconds in self.costs.curve.items()}
        return ModelStatus("loaded", None, self.network.provider, self.network.precision, MappingProxyType(step_ms))


class Turn(Protocol):
    """Runs a piece of work when the device is free for it. Returns its result or raises its exception."""

    def __call__(self, work: Callable[[], T], /) -> T: ...


def at_once(work: Callable[[], T], /) -> T:
    """Run at once: nobody else uses the device."""
    return work()


def load(
    entry: Entry, backend: Backend, config: EngineConfig, turn: Turn = at_once, clock: Callable[[], float] = time.perf_counter
) -> Loaded | ModelStatus:
    """Return the model, ready to run, or the status that says why it failed. turn: runs the work that uses the device.

    clock: measures the steps of the calibration, in seconds.
    """
    try:
        network = backend.load(entry) if backend.loads_beside_steps else turn(lambda: backend.load(entry))
        in_turns = _NetworkInTurns(network, turn, clock)
        costs = calibrate(in_turns, entry, backend.fingerprint, config, in_turns.device_s)
    except Exception as error:  # a runtime may raise anything; one model must not stop the others
        log.error("model_failed", model=entry.id, reason=str(error))
        return ModelStatus("failed", reason=without_folders(str(error), entry.folder, entry.id))
    loaded = Loaded(entry, network, costs)
    step_ms = {rows: round(ms, 3) for rows, ms in loaded.status.step_ms.items()}
    log.info("model_loaded", model=entry.id, provider=network.provider, precision=network.precision, step_ms=step_ms)
    return loaded


def without_folders(reason: str, folder: Path, name: str) -> str:
    """Remove this machine's folders from a reason that clients see; the log keeps them. name: replaces the model's folder."""
    return _FOLDERS.sub("", reason.replace(str(folder), name))


class _NetworkInTurns:
    """A network that runs each step in its turn. It measures the steps without the wait for a turn."""

    def __init__(self, network: Network, turn: Turn, clock: Callable[[], float]) -> None:
        self._network = network
        self._turn = turn
        self._clock = clock
        self._device_s = 0.0

    def device_s(self) -> float:
        """Return the seconds of all steps so far."""
        return self._device_s

    @property
    def provider(self) -> str:
        return self._network.provider

    @property
    def precision(self) -> Precision:
        return self._network.precision

    def prepare(self, buckets: Sequence[int]) -> None:
        self._turn(lambda: self._network.prepare(buckets))

    def padded(self, rows: int) -> int:
        return self._network.padded(rows)

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        def measured() -> tuple[Float32, Float32]:
            start_s = self._clock()
            result = self._network.step(**inputs)
            self._device_s += self._clock() - start_s
            return result

        return self._turn(measured)
