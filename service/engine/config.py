"""The engine's limits, built once at the edge of the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class EngineConfig:
    """Limits of one engine.

    max_batch      most rows in one batch
    max_step_ms    most milliseconds one batch's step may take when calibrated; a single row always runs
    max_backlog_s  a request is refused when the work ahead of it in its lane would take longer than this, see admission.py
    weights        share of the device by model id, relative to the other models with work; 1 for those left out
    deterministic  every batch of a device whose results depend on the batch size is filled up to max_batch rows
    cache_dir      where calibrations are kept from run to run; None: nowhere
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
