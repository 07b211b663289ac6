"""The walk through a plan written out in torch, independent of models.runtime.denoise, to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.network import PredictionType, predict
from models.noise import initial_noise, step_noise
from models.plan import Plan


def starting_noise(pairs: Sequence[tuple[int, int]], shape: tuple[int, int, int]) -> Tensor:
    """Return x_T for (seed, image index) pairs: float32 [B,C,H,W]."""
    return torch.from_numpy(np.stack([initial_noise(seed, index, shape) for seed, index in pairs]))


@torch.inference_mode()
def run_plan(
    network: nn.Module,
    plan: Plan,
    prediction_type: PredictionType,
    pairs: Sequence[tuple[int, int]],
    shape: tuple[int, int, int],
    class_label: Tensor | None,
    *,
    clip: tuple[float, float] | None = (-1.0, 1.0),
) -> Tensor:
    """Return images for (seed, index) pairs: float32 [B,C,H,W] in [-1, 1]."""
    x = starting_noise(pairs, shape)
    x0_prev = torch.zeros_like(x)
    for step in range(len(plan)):
        signal, noise, a, b, c = (float(value) for value in plan.coefficients[step])
        prediction = predict(network, x, timestep=torch.full((len(pairs),), int(plan.label[step])), class_label=class_label)
        x0 = signal * x - noise * prediction if prediction_type == "v_prediction" else (x - noise * prediction) / signal
        x0 = x0 if clip is None else x0.clamp(*clip)
        x = a * x + b * x0 + c * x0_prev
        if plan.s[step] > 0:
            fresh = np.stack([step_noise(seed, index, step, shape) for seed, index in pairs])
            x = x + float(plan.s[step]) * torch.from_numpy(fresh)
        x0_prev = x0
    return x
