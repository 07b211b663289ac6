"""The parts that distillation objectives share: the interface, the loss weight gamma', and the clip-aware error.

An objective is a loss of a student on a batch (training.loss.Loss), and its cost. All objectives count cost in the same way,
in network evaluations per training image: 1 for a teacher (2 for a guided one), 3 for a student's forward and backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from models.network import PredictionType, x0_from_prediction
from models.schedule import Float64
from training.loss import Loss
from training.noising import NoisedBatch
from training.objective_config import Weight

STUDENT_EVALUATIONS = 3  # forward 1, backward 2


@dataclass(frozen=True)
class Objective:
    """A distillation loss, and the network evaluations it takes per training image."""

    loss: Loss
    evaluations: int


def loss_weight(kept: Float64, kind: PredictionType, weight: Weight, cap: float) -> Float64:
    """Return the factor of ||prediction - target||^2 at each student step: float64 [T'] (Salimans & Ho 2022, section 4).

    kept: alpha_bar at the student's steps 1 ... T'; cap: bound of the factor in epsilon.
    SNR = alpha_bar/(1 - alpha_bar). An error in x0 is 1/noise times as large in v and signal/noise times as large in epsilon.
    A loss w(SNR) ||x0 - x0*||^2 therefore has these factors:

        weight           w(SNR)                        in epsilon: w/SNR     in v: w (1 - alpha_bar)
        simple           SNR (epsilon), SNR + 1 (v)    1                     1
        snr              SNR                           1                     alpha_bar
        truncated-snr    max(SNR, 1)                   max(1, 1/SNR)         max(alpha_bar, 1 - alpha_bar)

    The epsilon column is the paper's gamma'_t. It is capped, because 1/SNR has no bound at the noisy end. `auto` is simple
    for v. It is truncated-snr for epsilon, because an error in epsilon at the noisy end is a large error in x0.
    """
    if weight == "auto":
        weight = "truncated-snr" if kind == "epsilon" else "simple"
    if weight == "simple":
        return np.ones_like(kept)
    if kind == "v_prediction":
        return kept if weight == "snr" else np.maximum(kept, 1 - kept)
    return np.ones_like(kept) if weight == "snr" else np.clip((1 - kept) / kept, 1, cap)


def reachable_error(
    *,
    prediction: Tensor,
    target: Tensor,
    x0_target: Tensor,
    batch: NoisedBatch,
    kind: PredictionType,
    clip: tuple[float, float] | None,
) -> Tensor:
    """Return prediction - target [B,C,H,W], but zero where clipping already makes the student's x0 equal x0*.

    The samplers clip x0. Where x0* lies on a bound and the student's x0 lies beyond it, the step is already exact. A loss that
    pulled the student back to the bound would replace an exact background by one that is exact only on average.
    """
    error = prediction - target
    if clip is None:
        return error
    x0 = x0_from_prediction(prediction.detach(), x=batch.x, signal=batch.signal, noise=batch.noise, kind=kind, clip=None)
    right = ((x0 <= clip[0]) & (x0_target <= clip[0])) | ((x0 >= clip[1]) & (x0_target >= clip[1]))
    return error.masked_fill(right, 0.0)
