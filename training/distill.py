"""Distilling a teacher into a student of any step count, in a single training phase (SFDDM, section 3.5).

The `rollout` objective. For student step t, the teacher walks from x_{phi_t} to the hidden variable at phi_{t-1} in k
deterministic DDIM sub-steps tau_0 = phi_t > tau_1 > ... > tau_k = phi_{t-1}. With r = sqrt(alpha_bar)/sqrt(1 - alpha_bar) a
DDIM step is

    x_next / sqrt(1 - alpha_bar_next) = x / sqrt(1 - alpha_bar) + (r_next - r) x0

so the single student step that lands on the same variable predicts the weighted mean of the walk's predictions,

    x0* = sum_i w_i x0_i,    w_i ~ r_{i+1} - r_i,    and the last x0_i alone where phi_{t-1} = 0.

The student regresses x0*, expressed in its own prediction type. k = 1 is the paper's loss, its target the teacher's
prediction re-derived from the clipped x0.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.network import build_unet, noised, predict, prediction_from_x0, student_from_teacher, x0_from_prediction
from models.plan import ddim, relabel
from models.schedule import Float64
from models.subsequence import Int64, check_phi, concentrated_phi, student_alpha_bar, uniform_phi
from training.data import open_source
from training.errors import TrainingError
from training.loop import LoopConfig, Loss, fit, make_accelerator
from training.teacher import UNetShape, mirrored, model_facts, sample_writer, stratified_timesteps
from training.torch_model import TorchModel, load_model


class DistillConfig(BaseModel):
    """Everything that decides a student, besides its teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str
    data: str = "fashion-mnist"
    steps: int | None = Field(default=None, gt=0, description="T', uniform phi; or give phi")
    phi: tuple[int, ...] | None = Field(default=None, description="explicit teacher steps, 0 ... T")
    concentrate: tuple[float, float] | None = Field(default=None, description="half of the steps within this range of T")
    k: int = Field(default=4, gt=0, description="teacher sub-steps for one student step; 1 is the paper's loss")
    init: Literal["teacher", "scratch"] = "teacher"
    unet: UNetShape | None = Field(default=None, description="another size than the teacher's; implies init=scratch")
    max_weight: float = Field(default=1000.0, ge=1, description="cap of gamma' = max(1, 1/SNR) for epsilon students")
    flip: bool = False
    loop: LoopConfig = LoopConfig(images=16_000, lr=1e-4, warmup_images=640, anneal=True)

    def student_phi(self, teacher_steps: int) -> Int64:
        """phi of this student: int64 [T' + 1]. Raises ValueError when it cannot be had."""
        if (self.phi is None) == (self.steps is None):
            raise ValueError("give either the student's number of steps or its phi")
        if self.phi is not None:
            return check_phi(self.phi, teacher_steps)
        assert self.steps is not None
        if self.concentrate is not None:
            return concentrated_phi(teacher_steps, self.steps, start=self.concentrate[0], end=self.concentrate[1])
        return uniform_phi(teacher_steps, self.steps)


def walk_table(phi: Int64, k: int) -> Int64:
    """tau for every student step t = 1 ... T': int64 [T', k + 1] from phi_t down to phi_{t-1}, evenly spaced.

    Where the interval is shorter than k the walk first stays at phi_t; those sub-steps weigh nothing.
    """
    table = np.empty((len(phi) - 1, k + 1), dtype=np.int64)
    for row, (low, high) in enumerate(itertools.pairwise(phi)):
        steps = min(k, int(high - low))
        table[row, : k - steps] = high
        table[row, k - steps :] = np.rint(np.linspace(high, low, steps + 1))
    return table


def walk_weights(alpha_bar: Float64, tau: Int64) -> Float64:
    """w_i ~ r(tau_{i+1}) - r(tau_i), each row summing to one: float64 [T', k]; the last alone where tau_k = 0."""
    with np.errstate(divide="ignore"):
        r = np.sqrt(alpha_bar[tau]) / np.sqrt(1 - alpha_bar[tau])
    weights = np.diff(np.where(np.isinf(r), 0, r), axis=1)
    to_image = tau[:, -1] == 0
    weights[to_image] = 0
    weights[to_image, -1] = 1
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


class Rollout:
    """The teacher's walk for a batch of student steps."""

    def __init__(self, teacher: TorchModel, phi: Int64, k: int) -> None:
        self.teacher, self.k = teacher, k
        tau = walk_table(phi, k)
        ab = teacher.alpha_bar[tau]
        here, following = ab[:, :-1], ab[:, 1:]
        a = np.sqrt(1 - following) / np.sqrt(1 - here)
        self._weights = torch.from_numpy(walk_weights(teacher.alpha_bar, tau)).float()
        self._labels = torch.from_numpy(teacher.labels[np.maximum(tau[:, :-1], 1) - 1])
        columns = (np.sqrt(here), np.sqrt(1 - here), a, np.sqrt(following) - a * np.sqrt(here))
        self._signal, self._noise, self._a, self._b = (torch.from_numpy(np.ascontiguousarray(c)).float() for c in columns)

    @torch.no_grad()
    def target_x0(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """x0* for student steps t (1 ... T', int64 [B]) from x = x_{phi_t} [B,C,H,W]."""
        row = t - 1
        total = torch.zeros_like(x)
        for i in range(self.k):
            signal, noise, a, b, weight = (
                table[row, i].to(x)[:, None, None, None]
                for table in (self._signal, self._noise, self._a, self._b, self._weights)
            )
            prediction = predict(self.teacher.network, x, self._labels[row, i].to(x.device), label).float()
            x0 = x0_from_prediction(prediction, x, signal, noise, self.teacher.prediction_type)
            if self.teacher.clip is not None:
                x0 = x0.clamp(*self.teacher.clip)
            total = total + weight * x0
            x = a * x + b * x0
        return total


def rollout_loss(config: DistillConfig, teacher: TorchModel, phi: Int64) -> Loss:
    """E_t gamma'_t || prediction*(x0*) - student(x_{phi_t}, t - 1) ||^2 (SFDDM, section 3.5, with the rollout target).

    gamma' = 1 for v; max(1, 1/SNR), capped, for epsilon, whose error the noisy end magnifies by 1/SNR in x0.
    """
    kept = student_alpha_bar(teacher.alpha_bar, phi)
    signal_table, noise_table = (torch.from_numpy(f).float() for f in (np.sqrt(kept), np.sqrt(1 - kept)))
    rollout = Rollout(teacher, phi, config.k)
    kind = teacher.prediction_type

    def loss_of(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        batch = config.loop.batch
        t = stratified_timesteps(torch.rand(batch, generator=generator), len(phi) - 1)[share]
        eps = torch.randn(batch, *x0.shape[1:], generator=generator)[share].to(x0)
        x0 = mirrored(x0, torch.rand(batch, generator=generator)[share], config.flip)
        signal, noise = (table[t].to(x0)[:, None, None, None] for table in (signal_table, noise_table))
        given = label if teacher.network.config.num_class_embeds else None
        x = noised(x0, eps, signal, noise)
        target = prediction_from_x0(rollout.target_x0(x, t, given), x, signal, noise, kind)
        error = (predict(network, x, (t - 1).to(x0.device), given).float() - target).square()
        if kind == "epsilon":
            error = error * (noise / signal).square().clamp(min=1, max=config.max_weight)
        return error.mean()

    return loss_of


def make_student(config: DistillConfig, teacher: TorchModel, phi: Int64) -> UNet2DModel:
    """The student before training: its teacher on phi, or a fresh network of its own size."""
    if config.init == "teacher" and config.unet is None:
        return student_from_teacher(teacher.network, teacher.labels[phi[1:] - 1])
    torch.manual_seed(config.loop.seed)
    shape = dict(teacher.network.config)
    if config.unet is not None:
        embeds = teacher.network.config.num_class_embeds
        shape = {**config.unet.unet_config(teacher.shape, 0), "num_class_embeds": embeds}
    # A fresh student too starts from the teacher's sinusoids, in its own width.
    return student_from_teacher(build_unet(shape), teacher.labels[phi[1:] - 1])


def distill(config: DistillConfig, run: Path, *, resume: bool = False) -> None:
    """Distil a student into the folder `run`: checkpoint, sample grids, loss curve, TensorBoard.

    Raises TrainingError when the data do not fit the teacher or phi cannot be had.
    """
    teacher = load_model(config.teacher)
    try:
        phi = config.student_phi(teacher.steps)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    bands, height, _ = teacher.shape
    source = open_source(config.data, image_size=height, channels=bands)
    embeds = teacher.network.config.num_class_embeds
    if embeds and source.labels is None:
        raise TrainingError(f"the teacher is class-conditional but {config.data} has no labels; use a data set with classes")
    if embeds and len(source.classes) > embeds:
        raise TrainingError(f"{config.data} has {len(source.classes)} classes, the teacher only {embeds} labels")
    accelerator = make_accelerator(config.loop.precision)
    teacher.network.to(accelerator.device).requires_grad_(False)
    teacher.network.to(memory_format=torch.channels_last)
    student = make_student(config, teacher, phi)
    labels = np.arange(len(phi) - 1)
    alpha_bar = student_alpha_bar(teacher.alpha_bar, phi)
    settings = config.model_dump(mode="json", exclude={"loop"})
    facts = model_facts(
        student,
        kind="student",
        alpha_bar=alpha_bar,
        phi=phi,
        labels=labels,
        shape=teacher.shape,
        prediction_type=teacher.prediction_type,
        classes=teacher.classes,
        null_label=teacher.null_label,
        clip=teacher.clip,
        provenance={
            "data": source.name,
            "objective": "rollout",
            "k": config.k,
            "teacher": {key: teacher.provenance.get(key) for key in ("images", "data", "sha256")},
            "settings": settings,
        },
    )
    plan = relabel(ddim(alpha_bar, uniform_phi(len(labels), len(labels))), labels)
    fit(
        student,
        rollout_loss(config, teacher, phi),
        source,
        config.loop,
        run,
        facts=facts,
        resume=resume,
        accelerator=accelerator,
        sample=sample_writer(plan, teacher.prediction_type, teacher.shape, len(teacher.classes)),
    )
