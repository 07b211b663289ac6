"""An exported step graph, as export compares it with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

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
