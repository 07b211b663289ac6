"""Running a plan on an exported step graph: what evaluation measures is what is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.noise import initial_noise, step_noise
from models.plan import Plan

Float32 = NDArray[np.float32]


class OnnxModel:
    """A step graph in ONNX Runtime."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.conditional = "class_label" in {i.name for i in self._session.get_inputs()}

    def step(
        self,
        x: Float32,
        x0_prev: Float32,
        timestep: NDArray[np.int64],
        coefficients: Float32,
        class_label: NDArray[np.int64] | None,
    ) -> tuple[Float32, Float32]:
        """One network evaluation: (x_next, x0), float32 [B,C,H,W] each."""
        feed = {"x": x, "x0_prev": x0_prev, "timestep": timestep, "coefficients": coefficients}
        if self.conditional:
            feed["class_label"] = class_label
        x_next, x0 = self._session.run(["x_next", "x0"], feed)
        return x_next, x0

    def run_plan(
        self,
        plan: Plan,
        pairs: Sequence[tuple[int, int]],
        shape: tuple[int, int, int],
        class_label: NDArray[np.int64] | None,
        on_step: Callable[[int], None] | None = None,
    ) -> Float32:
        """Images for (seed, index) pairs: float32 [B,C,H,W] in [-1, 1]. `on_step(rows)` follows each evaluation."""
        x = np.stack([initial_noise(seed, index, shape) for seed, index in pairs])
        x0_prev = np.zeros_like(x)
        for row in range(len(plan)):
            timestep = np.full(len(pairs), plan.label[row], dtype=np.int64)
            coefficients = np.repeat(plan.coefficients[row : row + 1].astype(np.float32), len(pairs), axis=0)
            x, x0_prev = self.step(x, x0_prev, timestep, coefficients, class_label)
            if plan.s[row] > 0:
                x = x + np.float32(plan.s[row]) * np.stack([step_noise(seed, index, row, shape) for seed, index in pairs])
            if on_step is not None:
                on_step(len(pairs))
        return x
