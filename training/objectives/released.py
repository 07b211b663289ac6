"""The authors' released objective (github.com/ChiHong-Xtautau/SFDDM_Diffusion_Distillation, `p_losses`).

    L = E_t [ mean | prediction_student - prediction_teacher |  +  mean | h_student - h_teacher | ]

with h the network's last hidden feature map, the input of its output layers. Both networks see x_{phi_t}. The paper's section
3.5 has only the squared error of the noise. Predictions are compared without clipping. Two things differ from the released
code:

- phi ends at T; the released mapping never trains at the noisiest step;
- the prediction may be v.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from models.network import predict
from models.subsequence import Int64
from training.errors import TrainingError
from training.noising import Noising
from training.objectives.base import STUDENT_EVALUATIONS, Objective
from training.torch_model import TorchModel


class _LastFeatures:
    """Keeps the last input of a network's output layers: float [B,C,H,W]."""

    def __init__(self, network: UNet2DModel) -> None:
        self.value = torch.empty(0)
        network.conv_norm_out.register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.value = arguments[0]


def released(teacher: TorchModel, student: UNet2DModel, phi: Int64, noising: Noising) -> Objective:
    """Return the objective for `student` on phi.

    Raises TrainingError when the last feature maps differ in width, or when the teacher is guided and therefore has two.
    """
    if teacher.guidance is not None:
        raise TrainingError("the released objective compares feature maps, which a guided teacher does not have; use rollout")
    ours, theirs = (int(n.config.block_out_channels[0]) for n in (student, teacher.network))
    if ours != theirs:
        raise TrainingError(
            f"the released objective compares last feature maps, {ours} channels wide in the student and {theirs} in the "
            "teacher; keep the teacher's first width, or use the rollout objective"
        )
    labels = torch.from_numpy(teacher.labels[phi[1:] - 1])
    features, teacher_features = _LastFeatures(student), _LastFeatures(teacher.network)

    def loss(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        batch = noising(x0, label, generator, share)
        device = batch.x.device
        with torch.no_grad():
            target = predict(teacher.network, batch.x, timestep=labels[batch.t - 1].to(device), class_label=batch.label).float()
        prediction = predict(network, batch.x, timestep=(batch.t - 1).to(device), class_label=batch.label).float()
        hidden = (features.value.float() - teacher_features.value.float()).abs().mean()
        return (prediction - target).abs().mean() + hidden

    return Objective(loss, teacher.evaluations + STUDENT_EVALUATIONS)
