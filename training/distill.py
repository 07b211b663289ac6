"""Distilling a teacher into a student of any step count, in a single training phase (SFDDM, section 3).

What is minimised is an objective of its own file: rollout, released or consistency. This one puts the parts together:
the (guided) teacher, the sub-sequence phi, the student before training, and the facts its checkpoint tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import BaseModel, ConfigDict, Field

from models.network import build_unet, student_from_teacher
from models.plan import SamplerName, own_plan
from models.subsequence import Int64, check_phi, concentrated_phi, student_alpha_bar, uniform_phi
from training.data import ImageSource, open_source
from training.errors import TrainingError
from training.guidance import load_guided, unguided
from training.loop import LoopConfig, fit, make_accelerator
from training.objectives.base import Noising, Objective, Weight
from training.objectives.consistency import consistency
from training.objectives.released import released
from training.objectives.rollout import Norm, rollout
from training.teacher import UNetShape, model_facts, sample_writer
from training.torch_model import TorchModel
from training.walk import Solver


class DistillConfig(BaseModel):
    """Everything that decides a student, besides its teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str
    data: str = "fashion-mnist"
    steps: int | None = Field(default=None, gt=0, description="T', uniform phi; or give phi")
    phi: tuple[int, ...] | None = Field(default=None, description="explicit teacher steps, 0 ... T")
    concentrate: tuple[float, float] | None = Field(default=None, description="half of the steps within this range of T")
    objective: Literal["rollout", "released", "consistency", "progressive"] = "rollout"
    k: int = Field(default=4, gt=0, description="rollout: teacher sub-steps for one student step; 1 is the paper's loss")
    solver: Solver = Field(default="ddim", description="rollout: what takes the teacher's sub-steps")
    sampler: Solver = Field(default="ddim", description="rollout: what takes the student's own steps")
    weight: Weight = Field(default="auto", description="rollout: gamma'")
    max_weight: float = Field(default=1000.0, ge=1, description="rollout: cap of gamma' for epsilon students")
    norm: Norm = Field(default="squared", description="rollout: the error of an image enters squared or as it is")
    guidance: float | None = Field(default=None, description="scale w of a guided teacher; 1 is no guidance")
    guide: str | None = Field(default=None, description="the weaker network of autoguidance; None: classifier-free")
    init: Literal["teacher", "scratch"] = "teacher"
    unet: UNetShape | None = Field(default=None, description="another size than the teacher's; implies init=scratch")
    flip: bool = False
    loop: LoopConfig = LoopConfig(images=16_000, lr=1e-4, warmup_images=640, anneal=True)

    def student_phi(self, teacher_steps: int) -> Int64:
        """phi of this student: int64 [T' + 1]. Raises ValueError when it cannot be had."""
        if (self.phi is None) == (self.steps is None):
            raise ValueError("give either the student's number of steps or its phi")
        if self.phi is not None and self.concentrate is not None:
            raise ValueError("--phi says where the steps are; leave out --concentrate")
        if self.phi is not None:
            return check_phi(self.phi, teacher_steps)
        assert self.steps is not None
        if self.concentrate is not None:
            return concentrated_phi(teacher_steps, self.steps, start=self.concentrate[0], end=self.concentrate[1])
        return uniform_phi(teacher_steps, self.steps)


_OF_ROLLOUTS = ("k", "solver", "sampler", "weight", "norm")


def make_objective(config: DistillConfig, teacher: TorchModel, student: UNet2DModel, phi: Int64) -> Objective:
    """The objective that the configuration names. Raises TrainingError when it does not fit the teacher or the student."""
    if config.objective in ("released", "consistency"):
        fields = DistillConfig.model_fields
        if given := [name for name in _OF_ROLLOUTS if getattr(config, name) != fields[name].default]:
            raise TrainingError(f"--{given[0]} needs --objective rollout; leave it out for {config.objective}")
    noising = Noising(teacher, phi, batch=config.loop.batch, flip=config.flip)
    if config.objective == "released":
        return released(teacher, student, phi, noising)
    if config.objective == "consistency":
        return consistency(teacher, phi, noising)
    # A fold of progressive distillation is the rollout of two DDIM steps (training.objectives.progressive).
    if config.objective == "progressive":
        config = config.model_copy(update={"k": 2, "solver": "ddim", "sampler": "ddim"})
    return rollout(
        teacher, phi, noising, k=config.k, solver=config.solver, sampler=config.sampler,
        weight=config.weight, max_weight=config.max_weight, norm=config.norm,
    )  # fmt: skip


def make_student(config: DistillConfig, teacher: TorchModel, phi: Int64) -> UNet2DModel:
    """The student before training: its teacher on phi, or a fresh network of its own size."""
    network, kept = unguided(teacher), teacher.labels[phi[1:] - 1]
    if config.init == "teacher" and config.unet is None:
        return student_from_teacher(network, kept)
    torch.manual_seed(config.loop.seed)
    shape = dict(network.config)
    if config.unet is not None:
        shape = {**config.unet.unet_config(teacher.shape, 0), "num_class_embeds": network.config.num_class_embeds}
    # A fresh student too starts from the teacher's sinusoids, in its own width.
    return student_from_teacher(build_unet(shape), kept)


def distill(config: DistillConfig, run: Path, *, resume: bool = False) -> None:
    """Distil a student into the folder `run`: checkpoint, sample grids, loss curve, TensorBoard.

    Raises TrainingError when the data do not fit the teacher, phi cannot be had, or the objective asks for something else.
    """
    teacher = load_guided(config.teacher, scale=config.guidance, guide=config.guide)
    try:
        phi = config.student_phi(teacher.steps)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    source = _open_data(config, teacher)
    accelerator = make_accelerator(config.loop.precision)
    teacher.network.to(accelerator.device, memory_format=torch.channels_last).requires_grad_(False)
    student = make_student(config, teacher, phi)
    objective = make_objective(config, teacher, student, phi)
    labels = np.arange(len(phi) - 1)
    alpha_bar = student_alpha_bar(teacher.alpha_bar, phi)
    sampler: SamplerName = "consistency" if config.objective == "consistency" else config.sampler
    facts = model_facts(
        student,
        kind="student",
        alpha_bar=alpha_bar,
        phi=teacher.phi[phi],  # of the first teacher, where this one is a student itself
        labels=labels,
        shape=teacher.shape,
        prediction_type=teacher.prediction_type,
        classes=teacher.classes,
        null_label=teacher.null_label,
        clip=teacher.clip,
        provenance=_provenance(config, teacher, source, objective),
    )
    fit(
        student,
        objective.loss,
        source,
        config.loop,
        run,
        facts={**facts, "sampler": sampler},
        resume=resume,
        accelerator=accelerator,
        sample=sample_writer(
            own_plan(sampler, alpha_bar, labels), teacher.prediction_type, teacher.shape, len(teacher.classes), teacher.clip
        ),
    )


def _open_data(config: DistillConfig, teacher: TorchModel) -> ImageSource:
    bands, height, _ = teacher.shape
    source = open_source(config.data, image_size=height, channels=bands)
    embeds = teacher.network.config.num_class_embeds
    if embeds and source.labels is None:
        raise TrainingError(f"the teacher is class-conditional but {config.data} has no labels; use a data set with classes")
    if embeds and len(source.classes) > len(teacher.classes):
        raise TrainingError(
            f"{config.data} has {len(source.classes)} classes, the teacher only {len(teacher.classes)}; give the --data it was "
            "trained on, or leave its other classes out"
        )
    return source


def _provenance(config: DistillConfig, teacher: TorchModel, source: ImageSource, objective: Objective) -> dict[str, Any]:
    # Where the teacher is a student itself, such as a fold before this one, the teacher to name is the one that all come
    # from, and what they cost adds up.
    made, origin = teacher.provenance, None
    before: dict[str, Any] = {"before": 0}
    if teacher.kind == "student":
        origin, before = made.get("teacher"), {"before": made.get("evaluations") or 0, "seconds_before": made.get("seconds")}
    return {
        "data": source.name,
        "objective": config.objective,
        "k": config.k if config.objective == "rollout" else None,
        "guidance": teacher.guidance,
        "cost": {"per_image": objective.evaluations, **before},
        "teacher": origin or {key: made.get(key) for key in ("images", "data", "sha256")},
        "settings": config.model_dump(mode="json", exclude={"loop"}),
    }
