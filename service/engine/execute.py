"""Execute: one network evaluation for a batch of rows, with faults kept to the rows that cause them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from service.backend.base import Float32, Int64, Network
from service.engine.request import RowFailedError
from service.engine.row import Row

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Output:
    """One row's result: x_next and x0, float32 [C,H,W] each."""

    x_next: Float32
    x0: Float32


def evaluate(network: Network, rows: Sequence[Row], now_s: float) -> list[Output | RowFailedError]:
    """One step of each row, in order; rows at their first step are started, at clock reading now_s.

    When a batch raises, its halves are tried again, down to the single rows that raise alone; rows whose numbers are not
    finite fail by themselves, since rows are independent.
    """
    try:
        for row in rows:
            row.start(now_s)
        x_next, x0 = network.step(*gather(rows))
    except Exception as error:  # whatever a runtime raises must not stop the engine
        if len(rows) == 1:
            log.error("row_failed", model=rows[0].model.id, step=rows[0].step, error=str(error), exc_info=True)
            return [RowFailedError(f"{rows[0].model.id} failed at step {rows[0].step + 1}: the device reported an error.")]
        log.warning("batch_failed", model=rows[0].model.entry.id, rows=len(rows), error=str(error))
        middle = len(rows) // 2
        return evaluate(network, rows[:middle], now_s) + evaluate(network, rows[middle:], now_s)
    return [Output(x_next[i], x0[i]) if _finite(x_next[i], x0[i]) else _not_finite(row) for i, row in enumerate(rows)]


def gather(rows: Sequence[Row]) -> tuple[Float32, Float32, Int64, Int64 | None, Float32]:
    """The step graph's inputs for running rows of one entry: x, x0_prev, timestep, class_label, coefficients."""
    x = np.stack([row.x for row in rows if row.x is not None])
    x0_prev = np.stack([row.x0_prev for row in rows if row.x0_prev is not None])
    timestep = np.array([row.plan.label[row.step] for row in rows], dtype=np.int64)
    labels = [row.spec.class_label for row in rows if row.spec.class_label is not None]
    coefficients = np.stack([row.plan.coefficients[row.step] for row in rows]).astype(np.float32)
    return x, x0_prev, timestep, np.array(labels, dtype=np.int64) if labels else None, coefficients


def _finite(x_next: Float32, x0: Float32) -> bool:
    return bool(np.isfinite(x_next).all() and np.isfinite(x0).all())


def _not_finite(row: Row) -> RowFailedError:
    log.error("row_not_finite", model=row.model.id, step=row.step)
    return RowFailedError(f"{row.model.id} produced numbers that are not finite at step {row.step + 1}.")
