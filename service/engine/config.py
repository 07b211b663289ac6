"""The engine's limits: one object, built once where the program starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class EngineConfig:
    """Limits of one engine.

    max_batch      most rows in one batch
    max_step_ms    most milliseconds that a step of a batch may take at calibration; a single row always runs
    max_backlog_s  most seconds of work ahead of a request in its lane; beyond it the request is refused, see admission.py
    weights        share of the device by model id, relative to the other models with work; 1 for models not named
    deterministic  fill every batch up to max_batch rows, on a device whose results depend on the batch size
    cache_dir      where calibrations are kept for the next start; None keeps none
    """

    max_batch: int = 64
    max_step_ms: float = 100.0
    max_backlog_s: float = 60.0
    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    deterministic: bool = False
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {self.max_batch}")
        if not self.max_step_ms > 0:
            raise ValueError(f"max_step_ms must be above 0, got {self.max_step_ms}")
        if not self.max_backlog_s > 0:
            raise ValueError(f"max_backlog_s must be above 0, got {self.max_backlog_s}")
        for model, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"weights must be above 0, got {weight} for {model}")
