"""Load: one model of the catalogue onto the device, calibrated and warm, or the reason why not."""

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
    """What became of one model of the catalogue.

    reason: why it failed, or why the folder's newer contents are not what is loaded.
    step_ms: milliseconds of one step by bucket, as calibrated; empty unless loaded.
    """

    state: Literal["loading", "loaded", "failed"]
    reason: str | None = None
    provider: str | None = None
    precision: str | None = None
    step_ms: Mapping[int, float] = field(default_factory=dict)


@dataclass(eq=False)
class Loaded:
    """A model that is ready to run. users: rows and requests that need it, see lifecycle.py."""

    entry: Entry
    network: Network
    costs: StepCosts
    users: int = 0

    @property
    def status(self) -> ModelStatus:
        step_ms = {rows: 1000 * seconds for rows, seconds in self.costs.curve.items()}
        return ModelStatus("loaded", None, self.network.provider, self.network.precision, MappingProxyType(step_ms))


class Turn(Protocol):
    """Has a piece of device work done when the device is free, and returns its result or raises its exception."""

    def __call__(self, work: Callable[[], T], /) -> T: ...


def at_once(work: Callable[[], T], /) -> T:
    """The turn of who has the device alone."""
    return work()


def load(entry: Entry, backend: Backend, config: EngineConfig, turn: Turn = at_once) -> Loaded | ModelStatus:
    """The model, ready to run, or the status that says why it is not. turn: when to use the device."""
    try:
        network = backend.load(entry) if backend.loads_beside_steps else turn(lambda: backend.load(entry))
        visiting = _Visiting(network, turn)
        costs = calibrate(visiting, entry, backend.fingerprint, config, visiting.device_s)
    except Exception as error:  # runtimes raise what they like; one model must not stop the others
        log.error("model_failed", model=entry.id, reason=str(error))
        return ModelStatus("failed", reason=without_folders(str(error), entry.folder, entry.id))
    loaded = Loaded(entry, network, costs)
    step_ms = {rows: round(ms, 3) for rows, ms in loaded.status.step_ms.items()}
    log.info("model_loaded", model=entry.id, provider=network.provider, precision=network.precision, step_ms=step_ms)
    return loaded


def without_folders(reason: str, folder: Path, name: str) -> str:
    """A reason for clients, who learn nothing of this machine's folders; the log has them. name: what to call the folder."""
    return _FOLDERS.sub("", reason.replace(str(folder), name))


class _Visiting:
    """A network that steps when it is its turn; waiting for that is not measured."""

    def __init__(self, network: Network, turn: Turn) -> None:
        self._network = network
        self._turn = turn
        self._device_s = 0.0

    def device_s(self) -> float:
        """Seconds of all steps so far."""
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
            start_s = time.perf_counter()
            result = self._network.step(**inputs)
            self._device_s += time.perf_counter() - start_s
            return result

        return self._turn(measured)
