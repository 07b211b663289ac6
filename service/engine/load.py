"""Load: one model of the catalogue onto the device, calibrated and warm, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import structlog

from models.catalogue import Entry
from service.backend.base import Backend, Network
from service.engine.calibrate import calibrate
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts

log = structlog.get_logger(__name__)

_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:'\"]+/)+")


@dataclass(frozen=True)
class ModelStatus:
    """What became of one model of the catalogue.

    step_ms: milliseconds of one step by bucket, as calibrated; empty unless loaded.
    """

    state: Literal["loading", "loaded", "failed"]
    reason: str | None = None
    provider: str | None = None
    precision: str | None = None
    step_ms: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run."""

    network: Network
    costs: StepCosts

    @property
    def status(self) -> ModelStatus:
        step_ms = {rows: 1000 * seconds for rows, seconds in self.costs.curve.items()}
        return ModelStatus("loaded", None, self.network.provider, self.network.precision, MappingProxyType(step_ms))


def load(entry: Entry, backend: Backend, config: EngineConfig) -> Loaded | ModelStatus:
    """The model, ready to run, or the status that says why it is not."""
    try:
        network = backend.load(entry)
        loaded = Loaded(network, calibrate(network, entry, backend.fingerprint, config))
    except Exception as error:  # runtimes raise what they like; one model must not stop the others
        log.error("model_failed", model=entry.id, reason=str(error))
        return ModelStatus("failed", reason=_without_folders(str(error), entry))
    status = loaded.status
    step_ms = {rows: round(ms, 3) for rows, ms in status.step_ms.items()}
    log.info("model_loaded", model=entry.id, provider=status.provider, precision=status.precision, step_ms=step_ms)
    return loaded


def _without_folders(reason: str, entry: Entry) -> str:
    """A reason for clients, who learn nothing of this machine's folders; the log has them."""
    return _FOLDERS.sub("", reason.replace(str(entry.folder), entry.id))
