"""The rollout objective: one student step lands where the teacher's k sub-steps do (SFDDM, section 3.5; training.walk).

    L = E_t gamma'_t || prediction(x_{phi_t}, t - 1) - prediction*(x0*) ||^2

k = 1 is the paper's loss exactly where clipping is inactive; with clipping its target is the teacher's prediction re-derived
from the clipped x0. k > 1 matches hidden variables that no walk of the teacher along phi reaches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network import predict, prediction_from_x0
from models.subsequence import Int64
from training.objective import STUDENT_EVALUATIONS, Noising, Objective, Weight, loss_weight, reachable_error
from training.torch_model import TorchModel
from training.walk import Solver, Walk


def rollout(
    teacher: TorchModel, phi: Int64, noising: Noising, *, k: int, solver: Solver, weight: Weight, max_weight: float
) -> Objective:
    """The objective for a student on phi. k: teacher sub-steps; weight: gamma' (training.objective.loss_weight)."""
    walk, kind = Walk(teacher, phi, k, solver), teacher.prediction_type
    weights = torch.from_numpy(loss_weight(teacher.alpha_bar[phi[1:]], kind, weight, max_weight)).float()

    def loss(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        batch = noising(x0, label, generator, share)
        x0_target, _ = walk(batch.x, batch.t, batch.label)
        target = prediction_from_x0(x0_target, batch.x, batch.signal, batch.noise, kind)
        prediction = predict(network, batch.x, (batch.t - 1).to(batch.x.device), batch.label).float()
        error = reachable_error(prediction, target, x0_target, batch, kind, teacher.clip)
        return (weights[batch.t - 1].to(error)[:, None, None, None] * error.square()).mean()

    return Objective(loss, walk.evaluations + STUDENT_EVALUATIONS)
