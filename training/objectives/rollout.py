"""The rollout objective: one student step lands where the teacher's k sub-steps do (SFDDM, section 3.5; training.walk).

    L = E_t gamma'_t || prediction(x_{phi_t}, t - 1) - prediction*(x0*) ||^2

k = 1 is exactly the paper's loss where clipping is inactive. With clipping, its target is the teacher's prediction re-derived
from the clipped x0. k > 1 matches hidden variables that single steps of the teacher along phi do not reach.

A student may also take its own steps by DPM-Solver++(2M) (models.plan.dpmpp_2m). Its step goes along D = x0 + g (x0 - x0_prev).
D equals x0* when the student predicts

    x0 = (x0* + g x0_prev) / (1 + g),      g = 1 / (2 r) of this step, 0 in the first step and the last,

with x0_prev its own prediction at step t + 1. To get x0_prev, the student reaches x_{phi_t} as it does in sampling: it takes
two of its own steps without gradient from the noised image at t + 2, the first of them in first order. With one step only,
x_{phi_t} and x0_prev would differ by an error of the order that is to be learned. The DDIM student has g = 0 and needs no
such steps.

With norm = l2 an image's error is not squared: mean_i ||e_i|| in place of mean_i ||e_i||^2. With a good solver, most of the
squared error is in the last step, onto the image, and the loss would neglect the other steps. With l2 every step counts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.network import clipped, predict, prediction_from_x0, x0_from_prediction
from models.subsequence import Int64
from training.noising import Draw, NoisedBatch, Noising
from training.objective_config import RolloutConfig
from training.objectives.base import STUDENT_EVALUATIONS, Objective, loss_weight, reachable_error
from training.torch_model import TorchModel
from training.walk import Walk, multistep_gain

NORM_FLOOR = 1e-4  # keeps the gradient of the square root finite where an image's error is zero
LEAD = 2  # steps that a multistep student takes by itself before the step of its loss


def rollout(teacher: TorchModel, phi: Int64, noising: Noising, config: RolloutConfig) -> Objective:
    """Return the objective for a student on phi."""
    walk, kind, clip = Walk(teacher, phi, config.k, config.solver), teacher.prediction_type, teacher.clip
    kept = teacher.alpha_bar[phi[1:]]
    weights = torch.from_numpy(loss_weight(kept, kind, config.weight, config.max_weight)).float()
    gains = torch.from_numpy(multistep_gain(teacher.alpha_bar, phi[None, ::-1])[0, ::-1].copy()).float()  # g at t = 1 ... T'

    def predicted(network: nn.Module, batch: NoisedBatch) -> Tensor:
        return predict(network, batch.x, timestep=(batch.t - 1).to(batch.x.device), class_label=batch.label).float()

    @torch.no_grad()
    def arrive(network: nn.Module, draw: Draw) -> tuple[Tensor, Tensor]:
        """Run the student two steps without gradient and without dropout, down to the drawn step t.

        Return (x at t, the student's x0 at t + 1). Where t = T', no step comes before: they are the noised image and zero.
        """
        trained = network.training
        network.eval()
        start = noising.at(draw, (draw.t + LEAD).clamp(max=noising.steps))
        x, previous = start.x, torch.zeros_like(start.x)
        for lead in range(LEAD, 0, -1):
            t = (draw.t + lead).clamp(max=noising.steps)
            signal, noise = noising.levels(t, x)
            following, rest = noising.levels(t - 1, x)
            batch = NoisedBatch(x=x, t=t, signal=signal, noise=noise, label=draw.label)
            prediction = predicted(network, batch)
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
        if config.sampler == "dpmpp":
            x, previous = arrive(network, draw)
            batch = replace(batch, x=x)
            gain = gains[draw.t - 1].to(x0)[:, None, None, None]
        x0_target, _ = walk(batch.x, t=batch.t, label=batch.label)
        x0_target = clipped((x0_target + gain * previous) / (1 + gain), clip)
        target = prediction_from_x0(x0_target, x=batch.x, signal=batch.signal, noise=batch.noise, kind=kind)
        error = reachable_error(
            prediction=predicted(network, batch), target=target, x0_target=x0_target, batch=batch, kind=kind, clip=clip
        )
        squared = weights[batch.t - 1].to(error) * error.square().mean(dim=(1, 2, 3))
        return squared.mean() if config.norm == "squared" else (squared + NORM_FLOOR**2).sqrt().mean()

    return Objective(loss, walk.evaluations + (LEAD if config.sampler == "dpmpp" else 0) + STUDENT_EVALUATIONS)
