"""Distillation of a teacher into a student of any step count, in a single training phase (SFDDM, section 3).

Each loss has its own file in training/objectives. This file puts the parts together: the (guided) teacher, the sub-sequence
phi, the student before training, the objective, and the facts of its checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

from models.network import build_unet, student_from_teacher, unet_config
from models.plan import SamplerName, own_plan
from models.subsequence import Int64, student_alpha_bar
from training.accelerator import make_accelerator
from training.config import DistillConfig
from training.data import ImageSource, open_source
from training.errors import TrainingError
from training.guidance import load_guided, unguided
from training.loop import fit
from training.noising import Noising
from training.objective_config import ConsistencyConfig, ProgressiveConfig, ReleasedConfig, RolloutConfig
from training.objectives.base import Objective
from training.objectives.consistency import consistency
from training.objectives.released import released
from training.objectives.rollout import rollout
from training.pictures import sample_writer
from training.run_facts import Cost, FirstTeacher, ModelFacts, RunFacts, RunProvenance
from training.torch_model import TorchModel


def make_objective(config: DistillConfig, teacher: TorchModel, student: UNet2DModel, phi: Int64) -> Objective:
    """Return the configured objective. Raises TrainingError when it does not fit the teacher or the student."""
    noising = Noising(teacher, phi, batch=config.loop.batch, flip=config.flip)
    match config.objective:
        case ReleasedConfig():
            return released(teacher, student, phi, noising)
        case ConsistencyConfig():
            return consistency(teacher, phi, noising)
        case ProgressiveConfig(weight=weight, max_weight=cap):
            return rollout(teacher, phi, noising, RolloutConfig(k=2, weight=weight, max_weight=cap))
        case RolloutConfig() as settings:
            return rollout(teacher, phi, noising, settings)


def make_student(config: DistillConfig, teacher: TorchModel, phi: Int64) -> UNet2DModel:
    """Return the student before training: its teacher on phi, or a fresh network of its own size."""
    network, kept = unguided(teacher), teacher.labels[phi[1:] - 1]
    if config.init == "teacher" and config.unet is None:
        return student_from_teacher(network, kept)
    torch.manual_seed(config.loop.seed)
    shape = dict(network.config)
    if config.unet is not None:
        shape = {**config.unet.unet_config(teacher.shape, 0), "num_class_embeds": network.config.num_class_embeds}
    # A fresh student, too, embeds its steps by the sinusoids of the kept teacher steps, in its own width.
    return student_from_teacher(build_unet(shape), kept)


def distill(config: DistillConfig, run: Path, *, resume: bool = False) -> None:
    """Distil a student into the folder `run`: checkpoint, sample grids, loss curve, TensorBoard.

    Raises TrainingError when phi is impossible, or when the data or the objective do not fit the teacher or the student.
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
    sampler = _sampler(config)
    model = ModelFacts(
        kind="student",
        unet=unet_config(student),
        alpha_bar=alpha_bar.tolist(),
        phi=teacher.phi[phi].tolist(),  # steps of the first teacher, also when this teacher is itself a student
        labels=labels.tolist(),
        shape=teacher.shape,
        prediction_type=teacher.prediction_type,
        classes=teacher.classes,
        null_label=teacher.null_label,
        clip=teacher.clip,
        sampler=sampler,
    )
    fit(
        student,
        objective.loss,
        source,
        RunFacts(model=model, provenance=_provenance(config, teacher, source, objective), loop=config.loop),
        run,
        resume=resume,
        accelerator=accelerator,
        sample=sample_writer(
            own_plan(sampler, alpha_bar, labels),
            teacher.prediction_type,
            shape=teacher.shape,
            classes=len(teacher.classes),
            clip=teacher.clip,
        ),
    )


def _sampler(config: DistillConfig) -> SamplerName:
    """Return the name of the sampler of the student's own steps."""
    match config.objective:
        case ConsistencyConfig():
            return "consistency"
        case RolloutConfig(sampler=sampler):
            return sampler
        case _:
            return "ddim"


def _open_data(config: DistillConfig, teacher: TorchModel) -> ImageSource:
    """Open the training data at the teacher's image size. Raises TrainingError when the classes do not fit."""
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


def _provenance(config: DistillConfig, teacher: TorchModel, source: ImageSource, objective: Objective) -> RunProvenance:
    """Return the origin of the student.

    The teacher may itself be a student, such as the fold before this one. The record then names the first teacher of the
    chain, and the costs of all distillations are added.
    """
    made = teacher.provenance
    first, cost = None, Cost(per_image=objective.evaluations)
    if teacher.kind == "student":
        first = made.teacher
        cost = cost.model_copy(update={"before": made.evaluations or 0, "seconds_before": made.seconds})
    return RunProvenance(
        data=source.name,
        objective=config.objective.objective,
        k=config.objective.k if isinstance(config.objective, RolloutConfig) else None,
        guidance=teacher.guidance,
        cost=cost,
        teacher=first or FirstTeacher(images=made.images, data=made.data, sha256=made.sha256),
        settings=config.settings(),
    )
