"""The engine's limits, built once at the edge of the program."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineConfig:
    """Limits of one engine.

    max_batch      most rows in one batch
    max_step_ms    most milliseconds one batch's step may take, measured at warm-up; a smaller batch is used beyond
    max_backlog_s  a request is refused while more than this many seconds of device time are waiting ahead of it
    """

    max_batch: int = 64
    max_step_ms: float = 100.0
    max_backlog_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {self.max_batch}")
        if not self.max_step_ms > 0:
            raise ValueError(f"max_step_ms must be above 0, got {self.max_step_ms}")
        if not self.max_backlog_s > 0:
            raise ValueError(f"max_backlog_s must be above 0, got {self.max_backlog_s}")
