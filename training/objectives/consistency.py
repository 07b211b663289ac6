"""Consistency distillation, the few-evaluation baseline (Song et al. 2023, arXiv 2303.01469, algorithm 2).

    L = E_t || f(x_{phi_t}, t) - stopgrad f(x*_{phi_{t-1}}, t - 1) ||^2,      f = clipped x0 of the network, f(x, 0) = x

x* is one DDIM step of the teacher along phi, whose steps are the paper's discretisation t_1 ... t_N. v-prediction gives the
boundary condition by itself: x0 = signal x - noise v, the paper's c_skip and c_out, is x where noise = 0. The target network
is the student itself without gradient (Song & Dhariwal 2023, arXiv 2310.14189, section 3.2: no moving average). The network
is therefore the only state, and a resumed run continues exactly.

The sampler is the paper's stochastic multistep one (algorithm 1; models.plan.consistency): predict x0 from noise, add noise up
to the next step kept, repeat. With one evaluation it is deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network import clipped, predict, x0_from_prediction
from models.subsequence import Int64
from training.errors import TrainingError
from training.noising import Noising
from training.objectives.base import STUDENT_EVALUATIONS, Objective
from training.torch_model import TorchModel
from training.walk import Walk


def consistency(teacher: TorchModel, phi: Int64, noising: Noising) -> Objective:
    """Return the objective for a student whose steps are the discretisation phi.

    Raises TrainingError for a teacher that predicts epsilon: its x0 has no bound at the noisy end, where sampling starts.
    """
    if teacher.prediction_type != "v_prediction":
        raise TrainingError(
            "consistency distillation needs a teacher that predicts v; train one with --prediction v_prediction"
        )
    walk = Walk(teacher, phi, k=1)

    def loss(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        batch = noising(x0, label, generator, share)
        device, before = batch.x.device, batch.t - 1

        def clean(x: Tensor, t: Tensor) -> Tensor:
            """Return f(x, t) for t = 1 ... T', not clipped."""
            signal, noise = noising.levels(t, x)
            prediction = predict(network, x, timestep=(t - 1).to(device), class_label=batch.label).float()
            return x0_from_prediction(prediction, x=x, signal=signal, noise=noise, kind="v_prediction", clip=None)

        with torch.no_grad():
            _, landed = walk(batch.x, t=batch.t, label=batch.label)
            target = clean(landed, before.clamp(min=1))
            target = clipped(torch.where((before == 0).to(device)[:, None, None, None], landed, target), teacher.clip)
        return (clean(batch.x, batch.t) - target).square().mean()

    return Objective(loss, walk.evaluations + 1 + STUDENT_EVALUATIONS)
