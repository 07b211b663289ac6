"""What every distillation objective shares: its interface, its cost, the noised batch, and the loss weight gamma'.

An objective is a function of a student and a batch (training.loop.Loss) and what it costs. Cost is counted one way
everywhere, in network evaluations per training image: a teacher's 1 (a guided teacher's 2), a student's forward and
backward 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.network import PredictionType, noised, x0_from_prediction
from models.schedule import Float64
from models.subsequence import Int64, student_alpha_bar
from training.loop import Loss
from training.teacher import mirrored, stratified_timesteps
from training.torch_model import TorchModel

STUDENT_EVALUATIONS = 3  # forward 1, backward 2

Weight = Literal["auto", "simple", "snr", "truncated-snr"]


@dataclass(frozen=True)
class Objective:
    """A distillation loss, and the network evaluations it takes per training image."""

    loss: Loss
    evaluations: int


@dataclass(frozen=True)
class Draw:
    """What is random in a batch. x0, eps [B,C,H,W]; t int64 [B], student steps in 1 ... T'; label or None."""

    x0: Tensor
    eps: Tensor
    t: Tensor
    label: Tensor | None


@dataclass(frozen=True)
class Batch:
    """Images noised to random student steps. x [B,C,H,W]; t int64 [B] in 1 ... T'; signal, noise [B,1,1,1]; label or None."""

    x: Tensor
    t: Tensor
    signal: Tensor
    noise: Tensor
    label: Tensor | None


class Noising:
    """q'(x'_t | x_0) = N(signal x_0, noise^2 I) at the steps that phi keeps (SFDDM, section 3.3)."""

    def __init__(self, teacher: TorchModel, phi: Int64, *, batch: int, flip: bool) -> None:
        kept = student_alpha_bar(teacher.alpha_bar, phi)
        self._signal, self._noise = (torch.from_numpy(f).float() for f in (np.sqrt(kept), np.sqrt(1 - kept)))
        self.steps, self.batch, self.flip = len(phi) - 1, batch, flip
        self.conditional = bool(teacher.network.config.num_class_embeds)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(signal, noise) [B,1,1,1] at student steps t (0 ... T', int64 [B])."""
        signal, noise = (table[t].to(like)[:, None, None, None] for table in (self._signal, self._noise))
        return signal, noise

    def draw(self, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Draw:
        """Draws for the global batch and keeps `share` of it, so that processes together see what one would."""
        t = stratified_timesteps(torch.rand(self.batch, generator=generator), self.steps)[share]
        eps = torch.randn(self.batch, *x0.shape[1:], generator=generator)[share].to(x0)
        x0 = mirrored(x0, torch.rand(self.batch, generator=generator)[share], self.flip)
        return Draw(x0, eps, t, label if self.conditional else None)

    def at(self, draw: Draw, t: Tensor) -> Batch:
        """The drawn images with the drawn noise at student steps t, int64 [B] in 1 ... T'."""
        signal, noise = self.levels(t, draw.x0)
        return Batch(noised(draw.x0, eps=draw.eps, signal=signal, noise=noise), t, signal, noise, draw.label)

    def __call__(self, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Batch:
        """A batch at the steps it draws."""
        draw = self.draw(x0, label, generator, share)
        return self.at(draw, draw.t)


def loss_weight(kept: Float64, kind: PredictionType, weight: Weight, cap: float) -> Float64:
    """What multiplies ||prediction - target||^2 at each student step: float64 [T'] (Salimans & Ho 2022, section 4).

    kept: alpha_bar at the student's steps 1 ... T'. SNR = alpha_bar/(1 - alpha_bar). As an error in x0 is 1/noise times
    as large in v and signal/noise times as large in epsilon, a loss w(SNR) ||x0 - x0*||^2 reads

        weight           w(SNR)                        in epsilon: w/SNR     in v: w (1 - alpha_bar)
        simple           SNR (epsilon), SNR + 1 (v)    1                     1
        snr              SNR                           1                     alpha_bar
        truncated-snr    max(SNR, 1)                   max(1, 1/SNR)         max(alpha_bar, 1 - alpha_bar)

    The epsilon column is the paper's gamma'_t; it is capped, for 1/SNR has no bound at the noisy end. `auto` is simple
    for v and truncated-snr for epsilon, whose error the noisy end magnifies in x0.
    """
    if weight == "auto":
        weight = "truncated-snr" if kind == "epsilon" else "simple"
    if weight == "simple":
        return np.ones_like(kept)
    if kind == "v_prediction":
        return kept if weight == "snr" else np.maximum(kept, 1 - kept)
    return np.ones_like(kept) if weight == "snr" else np.clip((1 - kept) / kept, 1, cap)


def reachable_error(
    prediction: Tensor, target: Tensor, x0_target: Tensor, batch: Batch, kind: PredictionType, clip: tuple[float, float] | None
) -> Tensor:
    """prediction - target [B,C,H,W], and zero where clipping already makes the student's x0 equal x0*.

    The samplers clip x0. Where x0* lies on a bound and the student's x0 beyond it, the step is right as it is; pulling the
    student back onto the bound would trade an exact background for one that is exact on average only.
    """
    error = prediction - target
    if clip is None:
        return error
    x0 = x0_from_prediction(prediction.detach(), x=batch.x, signal=batch.signal, noise=batch.noise, kind=kind, clip=None)
    right = ((x0 <= clip[0]) & (x0_target <= clip[0])) | ((x0 >= clip[1]) & (x0_target >= clip[1]))
    return error.masked_fill(right, 0.0)
