"""The torch side of a model: building networks, turning predictions into clean images, and student initialisation.

Only training and export import this module; the service never does.

Notation: x [B,C,H,W] noised image, x0 clean image, eps noise, v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0
(Salimans & Ho 2022, section 4). All conversions between them live here.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from models.subsequence import Int64

# Configurations on the hub also carry private entries and leftovers of old versions.
_UNET_ARGUMENTS = inspect.signature(UNet2DModel.__init__).parameters.keys()

PredictionType = Literal["epsilon", "v_prediction"]


def x0_from_prediction(prediction: Tensor, x: Tensor, signal: Tensor, noise: Tensor, kind: PredictionType) -> Tensor:
    """Clean image from a network output: x0 = (x - noise eps)/signal, or x0 = signal x - noise v.

    signal = sqrt(alpha_bar) and noise = sqrt(1 - alpha_bar), shaped to broadcast against x [B,C,H,W].
    """
    if kind == "v_prediction":
        return signal * x - noise * prediction
    return (x - noise * prediction) / signal


def prediction_from_x0(x0: Tensor, x: Tensor, signal: Tensor, noise: Tensor, kind: PredictionType) -> Tensor:
    """The network output that means x0: v = (signal x - x0)/noise, or eps = (x - signal x0)/noise. Inverse of the above."""
    if kind == "v_prediction":
        return (signal * x - x0) / noise
    return (x - signal * x0) / noise


def noised(x0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Forward process x = signal x0 + noise eps (Ho et al. 2020, eq. 4)."""
    return signal * x0 + noise * eps


def training_target(x0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor, kind: PredictionType) -> Tensor:
    """What a teacher regresses: eps, or v = signal eps - noise x0."""
    if kind == "v_prediction":
        return signal * eps - noise * x0
    return eps


def build_unet(config: dict[str, Any]) -> UNet2DModel:
    """A UNet2DModel from its diffusers configuration; entries that are none of its arguments are ignored."""
    return UNet2DModel(**{key: value for key, value in config.items() if key in _UNET_ARGUMENTS})


def unet_config(network: UNet2DModel) -> dict[str, Any]:
    """The configuration that `build_unet` takes, JSON-able and without diffusers' private entries."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def predict(network: nn.Module, x: Tensor, timestep: Tensor, class_label: Tensor | None) -> Tensor:
    """One network evaluation. x [B,C,H,W], timestep int64 [B], class_label int64 [B] or None -> [B,C,H,W]."""
    if class_label is None:
        return network(x, timestep, return_dict=False)[0]  # type: ignore[no-any-return]
    return network(x, timestep, class_labels=class_label, return_dict=False)[0]  # type: ignore[no-any-return]


def student_from_teacher(teacher: UNet2DModel, timesteps: Int64) -> UNet2DModel:
    """A student that starts as its teacher: student label t - 1 embeds exactly as teacher label phi_t - 1.

    The student is a UNet2DModel with `time_embedding_type="learned"` and `num_train_timesteps` = T' whose embedding
    rows are the teacher's embeddings at the kept steps, so an untrained student *is* the teacher on the sub-sequence
    (SFDDM, section 3.4) and survives `save_pretrained`. timesteps: teacher labels phi_t - 1, int64 [T'].
    """
    config = dict(teacher.config)
    config.update(time_embedding_type="learned", num_train_timesteps=len(timesteps))
    student = build_unet(config)
    device = next(teacher.parameters()).device
    with torch.no_grad():
        rows = teacher.time_proj(torch.as_tensor(np.asarray(timesteps), device=device)).float()
        state = copy.deepcopy(teacher.state_dict())
        state["time_proj.weight"] = rows
        student.load_state_dict(state)
    return student.to(device)
