"""The step of a model in PyTorch, eager or compiled, for comparison with a runtime; and the highest rates of a GPU."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from diffusers import DDIMPipeline
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.idle import AnySize
from models.network import StepGraph
from models.runtime.base import Float32, Precision, StepInputs
from training.torch_model import load_model, save_pipeline


class TorchNetwork(AnySize):
    """A model folder's network as models.runtime.base.Network. A step includes the copies to and from the device."""

    provider = "PyTorch"

    def __init__(self, folder: Path, device: str, precision: Precision, *, compiled: bool) -> None:
        """Load the network. compiled: use torch.compile in the mode that captures CUDA graphs."""
        model = load_model(str(folder))
        conditional = bool(model.classes)
        graph = StepGraph(model.network, model.prediction_type, model.clip, conditional=conditional).eval().to(device)
        self._graph = torch.compile(graph, mode="reduce-overhead") if compiled else graph
        self._device = device
        self.precision = precision

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        given = {
            name: torch.from_numpy(np.ascontiguousarray(v)).to(self._device) for name, v in inputs.items() if v is not None
        }
        half = self.precision == "float16"
        with torch.inference_mode(), torch.autocast(self._device, torch.float16, enabled=half):
            x_next, x0 = self._graph(**given)
        return x_next.float().cpu().numpy(), x0.float().cpu().numpy()

    def flops_per_row(self, inputs: StepInputs) -> float:
        """Return the floating point operations of one row's step, counted by PyTorch. For eager networks only."""
        counter = FlopCounterMode(display=False)
        with counter:
            self.step(**inputs)
        return counter.get_total_flops() / len(inputs["x"])


class DiffusersLoop:
    """The usual loop of a student in diffusers: UNet2DModel and DDIMScheduler; images stay on the device until the end."""

    def __init__(self, folder: Path, device: str, precision: Precision) -> None:
        with tempfile.TemporaryDirectory() as pipeline:
            save_pipeline(load_model(str(folder)), Path(pipeline))
            stock = DDIMPipeline.from_pretrained(pipeline)
        self._network, self._scheduler = stock.unet.eval().to(device), stock.scheduler
        self._device, self._half = device, precision == "float16"

    @torch.inference_mode()
    def images(self, rows: int) -> None:
        """Sample `rows` images from start to end."""
        x = torch.randn(rows, *self._shape(), device=self._device)
        label = torch.zeros(rows, dtype=torch.long, device=self._device) if self._network.class_embedding else None
        self._scheduler.set_timesteps(self.steps)
        for step in self._scheduler.timesteps:
            with torch.autocast(self._device, torch.float16, enabled=self._half):
                predicted = self._network(x, step, class_labels=label).sample
            x = self._scheduler.step(predicted.float(), step, x, use_clipped_model_output=True).prev_sample
        x.cpu()

    @property
    def steps(self) -> int:
        """Return the steps of one image."""
        return int(self._scheduler.config.num_train_timesteps)

    def _shape(self) -> tuple[int, int, int]:
        config = self._network.config
        return config.in_channels, config.sample_size, config.sample_size


def ceilings(device: str, side: int) -> dict[str, float]:
    """Measure the FLOP/s of side x side matrix products by precision, and the bytes/s, read plus written, of a copy."""

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
