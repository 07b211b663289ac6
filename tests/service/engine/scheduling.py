"""Helpers of the tests that need a scheduler without a device: a scheduler of models with given costs, and one step of it."""

from __future__ import annotations

from hypothesis import strategies as st

from service.engine.costs import StepCosts
from service.engine.scheduler import Batch, Scheduler, StepReport

costs = st.floats(0.001, 1.0)


def lanes(*seconds: float, limit: int = 4) -> Scheduler:
    """Return a scheduler of models m0, m1, ... whose steps take so long at any batch size."""
    scheduler = Scheduler()
    for number, cost in enumerate(seconds):
        scheduler.add_model(f"m{number}", StepCosts({limit: cost}))
    return scheduler


def run(scheduler: Scheduler, *seconds: float) -> tuple[Batch, tuple[int, ...]]:
    """Run one step that takes its model's `seconds`, 1 each by default. Return the batch and the rows that finished."""
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.charge(batch, StepReport(seconds[int(batch.model[1:])] if seconds else 1.0))
    return batch, scheduler.advance(batch)
