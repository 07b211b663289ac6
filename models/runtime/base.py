"""The narrow interface between the engine and a runtime: load a model folder, evaluate one denoise step for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Entry

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Precision = Literal["float32", "float16", "bfloat16"]


class BackendError(Exception):
    """A model that cannot be run here; the message is one sentence that says why."""


class DeviceMemoryError(Exception):
    """The device has no room for a batch of this size; a smaller one may fit."""


class Network(Protocol):
    """One model's weights on a device. Rows are independent: a row's result does not depend on its company."""

    @property
    def provider(self) -> str:
        """The name of what computes, for instance CPUExecutionProvider."""

    @property
    def precision(self) -> Precision:
        """What the network's matrix products compute in; inputs, outputs and plan arithmetic are always float32."""

    def prepare(self, buckets: Sequence[int]) -> None:
        """Get ready for batches of exactly these sizes: buffers, captured graphs. Once, in the thread that calls `step`.

        Other sizes still run, if more slowly. Raises DeviceMemoryError, or whatever the runtime raises.
        """

    def padded(self, rows: int) -> int:
        """How many rows the device computes when asked for `rows`."""

    def step(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        """One denoise step of B rows: (x_next, x0), float32 [B,C,H,W] each; the caller's to keep.

        x, x0_prev: [B,C,H,W]; timestep, class_label: [B], class_label None for unconditional models;
        coefficients: [B,5], columns models.plan.COEFFICIENTS. Raises DeviceMemoryError, or whatever the runtime raises.
        """


@runtime_checkable
class SideBySide(Protocol):
    """A network whose rows may run at the same time as those of others, each as quickly as it does alone."""

    @property
    def abreast(self) -> int:
        """How many rows at once, together with those of the other networks on the device."""

    def step_abreast(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        """What `step` gives, from any thread and beside others."""


class Backend(Protocol):
    """A runtime on a device."""

    @property
    def fingerprint(self) -> str:
        """What a step's speed depends on beside the model: runtime, version, provider, device, threads."""

    @property
    def loads_beside_steps(self) -> bool:
        """Whether `load` may run in one thread while networks loaded before step in another."""

    def load(self, entry: Entry) -> Network:
        """Load an entry's graph. Raises BackendError with the reason."""
