"""The torch side of a model: networks, their predictions, the step graph, and the initialisation of a student.

Training and export import this module. The service never does.

Notation: x [B,C,H,W] noised image, x0 clean image, eps noise, v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0
(Salimans & Ho 2022, section 4). signal = sqrt(alpha_bar) and noise = sqrt(1 - alpha_bar) broadcast against x.
All conversions between x0, eps and v live here.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from models.plan import COEFFICIENTS
from models.subsequence import Int64

# Configurations on the hub also carry private entries and entries of older versions of diffusers.
_UNET_ARGUMENTS = inspect.signature(UNet2DModel.__init__).parameters.keys()

PredictionType = Literal["epsilon", "v_prediction"]
Clip = tuple[float, float]


def x0_from_prediction(
    prediction: Tensor, *, x: Tensor, signal: Tensor, noise: Tensor, kind: PredictionType, clip: Clip | None
) -> Tensor:
    """Return the clean image that a prediction implies, clipped to the range `clip` unless `clip` is None.

    x0 = (x - noise eps)/signal for epsilon, x0 = signal x - noise v for v.
    """
    x0 = signal * x - noise * prediction if kind == "v_prediction" else (x - noise * prediction) / signal
    return clipped(x0, clip)


def clipped(x0: Tensor, clip: Clip | None) -> Tensor:
    """Return x0 clipped to the model's range `clip`; None: x0 as it is."""
    return x0 if clip is None else x0.clamp(*clip)


def prediction_from_x0(x0: Tensor, *, x: Tensor, signal: Tensor, noise: Tensor, kind: PredictionType) -> Tensor:
    """Return the prediction that implies x0: v = (signal x - x0)/noise, or eps = (x - signal x0)/noise."""
    if kind == "v_prediction":
        return (signal * x - x0) / noise
    return (x - signal * x0) / noise


def noised(x0: Tensor, *, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Return x = signal x0 + noise eps, the forward process (Ho et al. 2020, eq. 4)."""
    return signal * x0 + noise * eps


def training_target(x0: Tensor, *, eps: Tensor, signal: Tensor, noise: Tensor, kind: PredictionType) -> Tensor:
    """Return the target that a teacher is trained to predict: eps, or v = signal eps - noise x0."""
    if kind == "v_prediction":
        return signal * eps - noise * x0
    return eps


def build_unet(config: dict[str, Any]) -> UNet2DModel:
    """Build a UNet2DModel from its diffusers configuration. Entries that the class does not take are ignored."""
    return UNet2DModel(**{key: value for key, value in config.items() if key in _UNET_ARGUMENTS})


def unet_config(network: UNet2DModel) -> dict[str, Any]:
    """Return a network's configuration for `build_unet`: values that JSON can hold, without diffusers' private entries."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def predict(network: nn.Module, x: Tensor, *, timestep: Tensor, class_label: Tensor | None) -> Tensor:
    """Evaluate a network once. x [B,C,H,W], timestep int64 [B], class_label int64 [B] or None -> [B,C,H,W]."""
    if class_label is None:
        return network(x, timestep, return_dict=False)[0]  # type: ignore[no-any-return]
    return network(x, timestep, class_labels=class_label, return_dict=False)[0]  # type: ignore[no-any-return]


class StepGraph(nn.Module):
    """The denoise step as a torch module: one network evaluation and one step of a plan (models.plan).

        x0     = clip(x0 from the prediction)
        x_next = a x + b x0 + c x0_prev

    Inputs x, x0_prev float32 [B,C,H,W], timestep int64 [B], coefficients float32 [B,5] (models.plan.COEFFICIENTS),
    class_label int64 [B] for conditional models. Outputs x_next, x0 float32 [B,C,H,W]. Rows are independent.
    """

    def __init__(self, network: nn.Module, prediction_type: PredictionType, clip: Clip | None, *, conditional: bool) -> None:
        super().__init__()
        self.network, self.prediction_type, self.clip, self.conditional = network, prediction_type, clip, conditional

    # The order of the arguments is the order of the exported graph's inputs.
    def forward(
        self, x: Tensor, x0_prev: Tensor, timestep: Tensor, coefficients: Tensor, class_label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take one denoise step: (x_next, x0)."""
        signal, noise, a, b, c = (coefficients[:, i].reshape(-1, 1, 1, 1) for i in range(len(COEFFICIENTS)))
        prediction = predict(self.network, x, timestep=timestep, class_label=class_label if self.conditional else None)
        x0 = x0_from_prediction(prediction, x=x, signal=signal, noise=noise, kind=self.prediction_type, clip=self.clip)
        return a * x + b * x0 + c * x0_prev, x0


def student_from_teacher(teacher: UNet2DModel, timesteps: Int64) -> UNet2DModel:
    """Return a student that starts as its teacher: student label t - 1 embeds exactly as teacher label phi_t - 1.

    The student is a UNet2DModel with `time_embedding_type="learned"` and `num_train_timesteps` = T'. Its embedding rows
    are the teacher's embeddings at the kept steps. An untrained student therefore *is* the teacher on the sub-sequence
    (SFDDM, section 3.4). `save_pretrained` stores these embeddings with the weights.
    timesteps: teacher labels phi_t - 1, int64 [T'].
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
