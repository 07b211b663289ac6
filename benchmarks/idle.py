"""A backend that computes nothing, so that only the engine itself is measured."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Unpack

from models.catalogue import Entry
from models.runtime.base import Float32, Precision, StepInputs


class IdleBackend:
    """A backend whose networks return their input at once. While `going` is cleared, their steps wait."""

    fingerprint = "idle"
    loads_beside_steps = True

    def __init__(self) -> None:
        self.going = threading.Event()
        self.going.set()

    def load(self, entry: Entry) -> IdleNetwork:
        return IdleNetwork(self.going)


class AnySize:
    """The part of a network that accepts every batch size without padding."""

    def prepare(self, buckets: Sequence[int]) -> None:
        pass

    def padded(self, rows: int) -> int:
        return rows


class IdleNetwork(AnySize):
    """A network that returns its input."""

    provider = "idle"
    precision: Precision = "float32"

    def __init__(self, going: threading.Event) -> None:
        self._going = going

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        self._going.wait()
        return inputs["x"], inputs["x0_prev"]
