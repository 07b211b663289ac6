"""The same step in PyTorch, eager or compiled, to compare a backend with; and what the card can do at most."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.export import StepGraph
from service.backend.base import Float32, Int64, Precision
from training.torch_model import load_model


class TorchNetwork:
    """A model folder's network behind the interface of service.backend.base, copies to and from the device included."""

    provider = "PyTorch"

    def __init__(self, folder: Path, device: str, precision: Precision, *, compiled: bool) -> None:
        """compiled: torch.compile in the mode that captures CUDA graphs."""
        model = load_model(str(folder))
        conditional = bool(model.classes)
        graph = StepGraph(model.network, model.prediction_type, model.clip, conditional=conditional).eval().to(device)
        self._graph = torch.compile(graph, mode="reduce-overhead") if compiled else graph
        self._device = device
        self.precision = precision

    def prepare(self, buckets: Sequence[int]) -> None:
        pass

    def padded(self, rows: int) -> int:
        return rows

    def step(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        given = [x, x0_prev, timestep, coefficients, *([] if class_label is None else [class_label])]
        half = self.precision == "float16"
        with torch.inference_mode(), torch.autocast(self._device, torch.float16, enabled=half):
            x_next, x0 = self._graph(*(torch.from_numpy(np.ascontiguousarray(value)).to(self._device) for value in given))
        return x_next.float().cpu().numpy(), x0.float().cpu().numpy()

    def flops_per_row(self, inputs: tuple[Float32, Float32, Int64, Int64 | None, Float32]) -> float:
        """Floating point operations of one row's step, counted by PyTorch; eager networks only."""
        counter = FlopCounterMode(display=False)
        with counter:
            self.step(*inputs)
        return counter.get_total_flops() / len(inputs[0])


def ceilings(device: str, side: int) -> dict[str, float]:
    """Attainable FLOP/s of side x side matrix products by precision, and bytes/s of a copy, read and written."""

    def seconds(work: object, repeats: int = 10) -> float:
        assert callable(work)
        best = float("inf")
        for _ in range(repeats):
            start_s = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start_s)
        return best

    found = {}
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16)):
        a = torch.randn(side, side, device=device, dtype=dtype)
        out = torch.empty_like(a)
        found[f"{name}_flops"] = 2 * side**3 / seconds(lambda a=a, out=out: torch.mm(a, a, out=out))
    source = torch.randn(side * side * 4, device=device)
    target = torch.empty_like(source)
    found["bytes_per_s"] = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    return found
