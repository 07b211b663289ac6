"""The narrow interface to a runtime: load a model folder, then take denoise steps for batches of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypedDict, Unpack, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Entry

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Precision = Literal["float32", "float16", "bfloat16"]


class BackendError(Exception):
    """A provider or model that cannot run here; the message is one sentence with the reason."""


class DeviceMemoryError(Exception):
    """The device has no room for a batch of this size; a smaller one may fit."""


class StepInputs(TypedDict):
    """The inputs of one denoise step of B rows, as `Network.step` takes them.

    x, x0_prev      float32 [B,C,H,W]
    timestep        int64 [B]
    class_label     int64 [B], None for unconditional models
    coefficients    float32 [B,5], columns models.plan.COEFFICIENTS
    """

    x: Float32
    x0_prev: Float32
    timestep: Int64
    class_label: Int64 | None
    coefficients: Float32


def rows_of(inputs: StepInputs, rows: slice) -> StepInputs:
    """Return some rows of a step's inputs."""
    label = inputs["class_label"]
    return {
        "x": inputs["x"][rows],
        "x0_prev": inputs["x0_prev"][rows],
        "timestep": inputs["timestep"][rows],
        "class_label": None if label is None else label[rows],
        "coefficients": inputs["coefficients"][rows],
    }


class Network(Protocol):
    """One model's weights on a device. Rows are independent: a row's result does not depend on the other rows of its batch."""

    @property
    def provider(self) -> str:
        """The name of the runtime or execution provider that computes, for instance CPUExecutionProvider."""

    @property
    def precision(self) -> Precision:
        """The precision of the network's matrix products. Inputs, outputs and plan arithmetic are always float32."""

    def prepare(self, buckets: Sequence[int]) -> None:
        """Prepare buffers and graphs for batches of exactly these sizes. Call it once, in the thread that calls `step`.

        Other sizes still run, but slower. Raises DeviceMemoryError, or whatever the runtime raises.
        """

    def padded(self, rows: int) -> int:
        """Return how many rows the device computes when asked for `rows`."""

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        """Take one denoise step of B rows: (x_next, x0), float32 [B,C,H,W] each, which the caller may keep.

        Raises DeviceMemoryError, or whatever the runtime raises.
        """


@runtime_checkable
class SideBySide(Protocol):
    """A network that can take steps at the same time as other networks, each row as fast as if it ran alone."""

    @property
    def abreast(self) -> int:
        """The number of rows that may run at once on the device, those of other networks included."""

    def step_abreast(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        """Take the same step as `step`. Any thread may call it, also while other steps run."""


class Backend(Protocol):
    """A runtime on a device."""

    @property
    def fingerprint(self) -> str:
        """A text with all that a step's speed depends on besides the model: runtime, version, provider, device, threads."""

    @property
    def loads_beside_steps(self) -> bool:
        """True where `load` may run in one thread while loaded networks take steps in another."""

    def load(self, entry: Entry) -> Network:
        """Load an entry's graph. Raises BackendError with the reason."""
