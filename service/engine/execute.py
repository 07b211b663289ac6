"""Execute: one network evaluation for a batch of rows. A fault fails only the rows that cause it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from models.runtime.base import DeviceMemoryError, Float32, Network, SideBySide, StepInputs
from service.engine.request import RowFailedError
from service.engine.row import Output, Row

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The result of one step of a batch: an output or a failure for each row, in order.

    clean   the runtime raised nothing, so the cost model can learn from the time of the step
    dead    the runtime raised for every single row, as it does when the device is lost
    fits    most rows to try at once after the device ran out of memory; None when it did not
    """

    outputs: list[Output | RowFailedError]
    clean: bool = True
    dead: bool = False
    fits: int | None = None


def evaluate(network: Network, rows: Sequence[Row], now_s: float, *, abreast: bool = False) -> Evaluation:
    """Evaluate one step of each row. Rows at their first step are started at clock reading now_s.

    When a batch raises, its halves are tried again, down to the single rows that raise alone. Rows whose numbers are not
    finite fail alone, since rows are independent.
    abreast: other batches run at the same time.
    """
    try:
        for row in rows:
            row.start(now_s)
        step = network.step_abreast if abreast and isinstance(network, SideBySide) else network.step
        x_next, x0 = step(**gather(rows))
    except Exception as error:  # whatever a runtime raises must not stop the engine
        return _halved(network, rows, now_s, error)
    computed = network.padded(len(rows))
    finite = _finite(x_next) & _finite(x0)
    outputs: list[Output | RowFailedError] = [
        Output(x_next[i], x0[i], computed) if finite[i] else _not_finite(row) for i, row in enumerate(rows)
    ]
    return Evaluation(outputs)


def gather(rows: Sequence[Row]) -> StepInputs:
    """Return the inputs of one step for started rows of one entry."""
    labels = [row.spec.class_label for row in rows if row.spec.class_label is not None]
    return {
        "x": _stack([row.x for row in rows]),
        "x0_prev": _stack([row.x0_prev for row in rows]),
        "timestep": np.array([row.plan.label[row.step] for row in rows], dtype=np.int64),
        "class_label": np.array(labels, dtype=np.int64) if labels else None,
        "coefficients": _stack([row.plan.coefficients[row.step] for row in rows]),
    }


def _stack(arrays: Sequence[Any]) -> Float32:
    """Stack arrays as float32. Twice as fast as np.stack, which first makes a view of each."""
    stacked: Float32 = np.concatenate(arrays, dtype=np.float32, casting="same_kind")
    return stacked.reshape(len(arrays), *arrays[0].shape)


def _halved(network: Network, rows: Sequence[Row], now_s: float, error: Exception) -> Evaluation:
    """Evaluate the same step in two halves, after the whole batch has raised `error`. A single row fails."""
    model, memory = rows[0].model, isinstance(error, DeviceMemoryError)
    if len(rows) == 1:
        log.error("row_failed", model=model.id, step=rows[0].step, error=str(error), exc_info=error)
        reason = "the device is out of memory" if memory else "the device reported an error"
        failure = RowFailedError(f"{_name(rows[0])} failed at step {rows[0].step + 1}: {reason}.")
        return Evaluation([failure], clean=False, dead=True)
    log.warning("batch_failed", model=model.entry.id, rows=len(rows), error=str(error))
    middle = (len(rows) + 1) // 2
    first, second = (evaluate(network, half, now_s) for half in (rows[:middle], rows[middle:]))
    fits = [limit for limit in (first.fits, second.fits, middle if memory else None) if limit is not None]
    return Evaluation(first.outputs + second.outputs, False, first.dead and second.dead, min(fits, default=None))


def _finite(values: Float32) -> NDArray[np.bool_]:
    """Mark the rows of [B,C,H,W] that hold only finite numbers: bool [B]."""
    finite: NDArray[np.bool_] = np.all(np.isfinite(values), axis=tuple(range(1, values.ndim)))
    return finite


def _not_finite(row: Row) -> RowFailedError:
    log.error("row_not_finite", model=row.model.id, step=row.step)
    return RowFailedError(f"{_name(row)} failed at step {row.step + 1}: its numbers are not finite.")


def _name(row: Row) -> str:
    return f"The image of {row.model.id} with seed {row.spec.seed}, index {row.spec.index}"
