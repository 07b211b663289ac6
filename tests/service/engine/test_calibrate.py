"""Warm-up measures the batch sizes that a step's time allows."""

from __future__ import annotations

import time

import pytest

from models.catalogue import Catalogue
from service.backend.base import Float32, Int64
from service.backend.onnx import OnnxBackend
from service.engine.calibrate import calibrate
from service.engine.config import EngineConfig


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])])
def test_sizes_are_powers_of_two_and_the_limit(tiny_catalogue: Catalogue, max_batch: int, sizes: list[int]) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    costs = calibrate(OnnxBackend(threads=1).load(entry), entry, EngineConfig(max_batch=max_batch, max_step_ms=60_000))
    assert sorted(costs.curve) == sizes
    assert min(costs.curve.values()) > 0


class _Slow:
    """A device that needs at least 2 ms a row."""

    provider = "slow"

    def padded(self, rows: int) -> int:
        return rows

    def step(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        time.sleep(0.002 * len(x))
        return x, x


@pytest.mark.parametrize("max_step_ms", [0.001, 3.9])
def test_a_step_over_the_limit_is_not_offered_but_a_single_row_always_runs(
    tiny_catalogue: Catalogue, max_step_ms: float
) -> None:
    entry = tiny_catalogue.entries["plain/teacher"]
    assert calibrate(_Slow(), entry, EngineConfig(max_step_ms=max_step_ms)).largest == 1
