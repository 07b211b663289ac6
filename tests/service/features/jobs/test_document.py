"""The size of a job's chunks."""

from __future__ import annotations

from service.engine.load import ModelStatus
from service.features.jobs.document import chunk_size


def test_a_chunk_takes_about_two_seconds_of_the_device() -> None:
    status = ModelStatus("loaded", step_ms={1: 1.0, 8: 4.0})  # half a millisecond an image at best
    assert chunk_size(status, 1000, most=32) == 4
    assert chunk_size(status, 4, most=32) == 32
    assert chunk_size(status, 100_000, most=32) == 1
