"""Running a plan on a torch network: the reference that exported graphs and the service are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.network import PredictionType, predict, x0_from_prediction
from models.noise import initial_noise, step_noise
from models.plan import SAMPLERS, Plan, relabel
from models.subsequence import uniform_phi
from training.errors import TrainingError
from training.progress import Progress

if TYPE_CHECKING:
    from training.torch_model import TorchModel

SAMPLE_BATCH = 50


def starting_noise(pairs: Sequence[tuple[int, int]], shape: tuple[int, int, int]) -> Tensor:
    """x_T for (seed, image index) pairs: float32 [B,C,H,W]."""
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
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Images for (seed, index) pairs: float32 [B,C,H,W] in [-1, 1]. `on_step(images)` follows each evaluation."""
    device = next(network.parameters()).device
    x = starting_noise(pairs, shape).to(device)
    x0_prev = torch.zeros_like(x)
    label = None if class_label is None else class_label.to(device)
    for row in range(len(plan)):
        signal, noise, a, b, c = (float(value) for value in plan.coefficients[row])
        timestep = torch.full((len(pairs),), int(plan.label[row]), dtype=torch.int64, device=device)
        prediction = predict(network, x, timestep, label).float()
        x0 = x0_from_prediction(prediction, x, torch.tensor(signal), torch.tensor(noise), prediction_type)
        if clip is not None:
            x0 = x0.clamp(*clip)
        x = a * x + b * x0 + c * x0_prev
        if plan.s[row] > 0:
            fresh = np.stack([step_noise(seed, index, row, shape) for seed, index in pairs])
            x = x + float(plan.s[row]) * torch.from_numpy(fresh).to(device)
        x0_prev = x0
        if on_step is not None:
            on_step(len(pairs))
    return x


def to_uint8(images: Tensor | NDArray[np.float32]) -> NDArray[np.uint8]:
    """[-1, 1] to 8 bits: round((x + 1) 127.5), uint8 of the same shape."""
    array = images.cpu().numpy() if isinstance(images, Tensor) else images
    return np.clip(np.rint((array + 1) * 127.5), 0, 255).astype(np.uint8)


def grid(images: NDArray[np.uint8], columns: int, pad: int = 2) -> NDArray[np.uint8]:
    """A contact sheet: uint8 [N,C,H,W] to [H', W', C] on white, row by row."""
    count, bands, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, bands), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = pad + (i // columns) * (height + pad), pad + (i % columns) * (width + pad)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return sheet


def sample_grid(
    model: TorchModel,
    out: Path,
    *,
    count: int,
    columns: int,
    sampler: str | None,
    steps: int | None,
    label: int | None,
    seed: int,
) -> None:
    """Draw `count` images of `model` and write them as one PNG. sampler None: the model's own.

    Raises TrainingError for a sampler, a step count or a label that the model does not have.
    """
    if sampler is not None and sampler not in SAMPLERS:
        raise TrainingError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    if label is not None and not 0 <= label < len(model.classes):
        raise TrainingError(f"the label must be below {len(model.classes)}, the number of the model's classes")
    try:
        phi = uniform_phi(model.steps, steps or model.steps)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if sampler is None:
        plan = model.subsampled(len(phi) - 1).plan()
    else:
        plan = relabel(SAMPLERS[sampler](model.alpha_bar, phi), model.labels[phi[1:] - 1])
    classes = [index % len(model.classes) if label is None else label for index in range(count)] if model.classes else None
    images = []
    with Progress("sample", count * len(plan), unit="evaluations") as progress:
        for start in range(0, count, SAMPLE_BATCH):
            pairs = [(seed, index) for index in range(start, min(start + SAMPLE_BATCH, count))]
            part = None if classes is None else torch.tensor(classes[start : start + SAMPLE_BATCH])
            made = run_plan(
                model.network,
                plan,
                model.prediction_type,
                pairs,
                model.shape,
                part,
                clip=model.clip,
                on_step=progress.advance,
            )
            images.append(to_uint8(made))
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(np.concatenate(images), columns).squeeze()).save(out)
