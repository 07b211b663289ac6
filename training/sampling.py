"""Sampling with a network in torch: the step interface of models.runtime, and contact sheets of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from PIL import Image
from torch import nn

from models.image_metrics import UInt8
from models.network import Clip, PredictionType, StepGraph
from models.pictures import channels_last, contact_sheet, to_uint8
from models.plan import SAMPLERS, Plan, relabel
from models.runtime.base import Float32, StepInputs
from models.runtime.denoise import denoise, starting_noise
from models.subsequence import uniform_phi
from training.errors import TrainingError
from training.progress import Progress

if TYPE_CHECKING:
    from training.torch_model import TorchModel

SAMPLE_BATCH = 50
_SHEET_GAP = 2  # white pixels between the images of a sheet and around them


class TorchNetwork:
    """Adapts a torch network to models.runtime.denoise.StepNetwork, on the device where its weights are."""

    def __init__(self, network: nn.Module, prediction_type: PredictionType, clip: Clip | None) -> None:
        # With conditional=True the graph passes labels on only if it gets some, so it runs unconditional networks too.
        self._graph = StepGraph(network, prediction_type, clip, conditional=True)

    @torch.inference_mode()
    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        """Take one denoise step of B rows: (x_next, x0), float32 [B,C,H,W] each."""
        device = next(self._graph.parameters()).device
        label = inputs["class_label"]
        x_next, x0 = self._graph(
            x=torch.from_numpy(inputs["x"]).to(device),
            x0_prev=torch.from_numpy(inputs["x0_prev"]).to(device),
            timestep=torch.from_numpy(inputs["timestep"]).to(device),
            coefficients=torch.from_numpy(inputs["coefficients"]).to(device),
            class_label=None if label is None else torch.from_numpy(label).to(device),
        )
        return x_next.float().cpu().numpy(), x0.float().cpu().numpy()


def save_sheet(images: UInt8, out: Path, *, columns: int) -> None:
    """Write images, uint8 [N,C,H,W], as one PNG with `columns` of them in a row."""
    sheet = contact_sheet(images, columns=columns, gap=_SHEET_GAP, border=_SHEET_GAP)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(channels_last(sheet)).save(out)


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
    if label is not None and not 0 <= label < len(model.classes):
        raise TrainingError(f"the label must be below {len(model.classes)}, the number of the model's classes")
    plan = _plan(model, sampler, steps)
    network = TorchNetwork(model.network, model.prediction_type, model.clip)
    images = []
    with Progress("sample", count * len(plan), unit="evaluations") as progress:
        for start in range(0, count, SAMPLE_BATCH):
            numbers = np.arange(start, min(start + SAMPLE_BATCH, count))
            keys = [(seed, int(number)) for number in numbers]
            classes = np.full_like(numbers, label) if label is not None else numbers % max(len(model.classes), 1)
            made = denoise(
                network,
                plan,
                starting_noise(keys, model.shape),
                keys=keys,
                class_label=classes if model.classes else None,
                on_step=progress.advance,
            )
            images.append(to_uint8(made))
    save_sheet(np.concatenate(images), out, columns=columns)


def _plan(model: TorchModel, sampler: str | None, steps: int | None) -> Plan:
    """Return a plan over `steps` of the model's steps. sampler None: the model's own; steps None: all of them."""
    if sampler is not None and sampler not in SAMPLERS:
        raise TrainingError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    try:
        phi = uniform_phi(model.steps, steps or model.steps)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if sampler is None:
        return model.subsampled(len(phi) - 1).plan()
    return relabel(SAMPLERS[sampler](model.alpha_bar, phi), model.labels[phi[1:] - 1])
