"""The rollout objective: one student step lands where the teacher's k sub-steps do (SFDDM, section 3.5; training.walk).

    L = E_t gamma'_t || prediction(x_{phi_t}, t - 1) - prediction*(x0*) ||^2

k = 1 is the paper's loss exactly where clipping is inactive; with clipping its target is the teacher's prediction re-derived
from the clipped x0. k > 1 matches hidden variables that no walk of the teacher along phi reaches.

A student may take its own steps by DPM-Solver++(2M) too (models.plan.dpmpp_2m). Its step goes along D = x0 + g (x0 - x0_prev),
which is x0* where it predicts

    x0 = (x0* + g x0_prev) / (1 + g),      g = 1 / (2 r) of this step, 0 in the first step and the last,

x0_prev being its own prediction at step t + 1. To have one, the student comes to x_{phi_t} as it does when it samples: two of
its own steps without gradient from the noised image at t + 2, the first in first order. One step would leave x_{phi_t} and
x0_prev apart by an error of the very order that is to be learned. g = 0 everywhere is the DDIM student, which needs neither.

With norm = l2 an image's error is not squared: mean_i ||e_i|| for mean_i ||e_i||^2. The one step onto the image has most
of the squared error that a good solver leaves, so that many steps would pay for it; unsquared, every step has its say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.network import predict, prediction_from_x0, x0_from_prediction
from models.subsequence import Int64
from training.objectives.base import STUDENT_EVALUATIONS, Batch, Draw, Noising, Objective, Weight, loss_weight, reachable_error
from training.torch_model import TorchModel
from training.walk import Solver, Walk, multistep_gain

Norm = Literal["squared", "l2"]

NORM_FLOOR = 1e-4  # keeps the slope of the root finite where an image's error vanishes
LEAD = 2  # steps that a multistep student takes to where its loss is measured


def rollout(
    teacher: TorchModel,
    phi: Int64,
    noising: Noising,
    *,
    k: int,
    solver: Solver,
    sampler: Solver,
    weight: Weight,
    max_weight: float,
    norm: Norm,
) -> Objective:
    """The objective for a student on phi.

    k: teacher sub-steps; solver: what takes them; sampler: what takes the student's own steps; weight: gamma'
    (training.objectives.base.loss_weight); norm: whether an image's error enters squared.
    """
    walk, kind, clip = Walk(teacher, phi, k, solver), teacher.prediction_type, teacher.clip
    weights = torch.from_numpy(loss_weight(teacher.alpha_bar[phi[1:]], kind, weight, max_weight)).float()
    gains = torch.from_numpy(multistep_gain(teacher.alpha_bar, phi[None, ::-1])[0, ::-1].copy()).float()  # g at t = 1 ... T'

    def predicted(network: nn.Module, batch: Batch) -> Tensor:
        return predict(network, batch.x, (batch.t - 1).to(batch.x.device), batch.label).float()

    @torch.no_grad()
    def arrive(network: nn.Module, draw: Draw) -> tuple[Tensor, Tensor]:
        """x at the drawn steps as the student comes to it, and x0_prev; noised images and zero where no step comes before.

        It comes as it samples, without dropout.
        """
        trained = network.training
        network.eval()
        start = noising.at(draw, (draw.t + LEAD).clamp(max=noising.steps))
        x, previous = start.x, torch.zeros_like(start.x)
        for lead in range(LEAD, 0, -1):
            t = (draw.t + lead).clamp(max=noising.steps)
            signal, noise = noising.levels(t, x)
            following, rest = noising.levels(t - 1, x)
            prediction = predicted(network, Batch(x, t, signal, noise, draw.label))
            x0 = x0_from_prediction(prediction, x=x, signal=signal, noise=noise, kind=kind, clip=clip)
            gain = gains[t - 1].to(x)[:, None, None, None] if lead < LEAD else torch.zeros_like(noise)
            a = rest / noise
            stepped = a * x + (following - a * signal) * (x0 + gain * (x0 - previous))
            comes = (draw.t + lead <= noising.steps).to(x.device)[:, None, None, None]
            x, previous = torch.where(comes, stepped, x), torch.where(comes, x0, previous)
        network.train(trained)
        return x, previous

    def loss(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        draw = noising.draw(x0, label, generator, share)
        batch, previous, gain = noising.at(draw, draw.t), torch.zeros_like(x0), torch.zeros_like(x0[:, :1, :1, :1])
        if sampler == "dpmpp":
            x, previous = arrive(network, draw)
            batch = replace(batch, x=x)
            gain = gains[draw.t - 1].to(x0)[:, None, None, None]
        x0_target, _ = walk(batch.x, batch.t, batch.label)
        x0_target = (x0_target + gain * previous) / (1 + gain)
        if clip is not None:
            x0_target = x0_target.clamp(*clip)
        target = prediction_from_x0(x0_target, x=batch.x, signal=batch.signal, noise=batch.noise, kind=kind)
        error = reachable_error(predicted(network, batch), target, x0_target, batch, kind, clip)
        squared = weights[batch.t - 1].to(error) * error.square().mean(dim=(1, 2, 3))
        return squared.mean() if norm == "squared" else (squared + NORM_FLOOR**2).sqrt().mean()

    return Objective(loss, walk.evaluations + (LEAD if sampler == "dpmpp" else 0) + STUDENT_EVALUATIONS)
