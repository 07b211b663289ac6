"""The configurations of a run: the loop, a teacher, a student, and progressive distillation.

Defaults are set here, in training.objective_config and in training.unet, and nowhere else. None of them imports torch, so
that the command line can show the defaults without loading it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.schedule import ScheduleName
from models.subsequence import Int64, check_phi, concentrated_phi, uniform_phi
from training.objective_config import ObjectiveConfig, ProgressiveConfig, RolloutConfig, flat_settings
from training.unet import UNetShape


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoopConfig(_Config):
    """The training loop: length, batch, learning rate, outputs. Lengths are in training images, whatever the batch size."""

    images: int = Field(gt=0, description="stop after this many training images")
    batch: int = Field(default=64, gt=0, description="global batch size: images of one update, over all processes")
    accumulate: int = Field(default=1, gt=0, description="parts into which a process splits its share of the batch")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    warmup_images: int = Field(default=20_000, ge=0, description="linear warm-up")
    lr_decay_images: int | None = Field(default=None, gt=0, description="from here on lr ~ 1/sqrt(images); None: constant")
    anneal: bool = Field(default=False, description="let the learning rate fall linearly to zero at the last image")
    ema: float = Field(default=0.1, gt=0, lt=0.28, description="relative width of the weight average (sigma_rel)")
    grad_clip: float = Field(default=1.0, gt=0, description="global gradient norm is clipped to this")
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    compile: bool = Field(default=False, description="torch.compile the network")
    workers: int = Field(default=0, ge=0, description="data loading processes")
    checkpoint_images: int = Field(default=20_000, gt=0, description="write a checkpoint this often")
    sample_images: int = Field(default=50_000, gt=0, description="write a sample grid this often")
    snapshot_images: int | None = Field(default=None, gt=0, description="keep the averaged weights this often")

    def learning_rate(self, images: int) -> float:
        """Return lr min(images/warm-up, 1) / sqrt(max(images/decay, 1)) (Karras et al. 2024, arXiv 2312.02696, eq. 67).

        Annealed runs also multiply it by 1 - images/(total + batch).
        """
        rate = self.lr * min(1.0, images / self.warmup_images) if self.warmup_images else self.lr
        if self.anneal:
            rate *= max(0.0, 1 - images / (self.images + self.batch))
        return rate / max(images / self.lr_decay_images, 1.0) ** 0.5 if self.lr_decay_images else rate


_STUDENT_WARMUP_BATCHES: Final = 10  # few, because a student starts from trained weights


def teacher_loop(**settings: Any) -> LoopConfig:
    """Return the loop of a teacher. settings: fields of LoopConfig. Raises ValidationError for a value out of range."""
    return LoopConfig.model_validate({"images": 1_000_000, "lr_decay_images": 150_000, **settings})


def student_loop(**settings: Any) -> LoopConfig:
    """Return the loop of a student: a short warm-up, then a learning rate that falls linearly to zero.

    settings: fields of LoopConfig, but not its warm-up. Raises ValidationError for a value out of range.
    """
    loop = LoopConfig.model_validate({"images": 16_000, "lr": 1e-4, "anneal": True, "precision": "no", **settings})
    return loop.model_copy(update={"warmup_images": min(_STUDENT_WARMUP_BATCHES * loop.batch, loop.images)})


class TeacherConfig(_Config):
    """The full configuration of a teacher."""

    data: str = "fashion-mnist"
    image_size: int | None = Field(default=None, gt=0)
    channels: int | None = Field(default=None)
    flip: bool = False
    steps: int = Field(default=1024, gt=1)
    schedule: ScheduleName = "cosine"
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    init: str | None = Field(default=None, description="start from the weights of this model, of the same shape")
    unet: UNetShape = UNetShape()
    loop: LoopConfig = teacher_loop()

    def settings(self) -> dict[str, Any]:
        """Return the settings that checkpoints and manifests record: all but the loop, which they record apart."""
        return self.model_dump(mode="json", exclude={"loop"})


class DistillConfig(_Config):
    """The full configuration of a student."""

    teacher: str
    data: str = "fashion-mnist"
    steps: int | None = Field(default=None, gt=0, description="T', for a uniform or concentrated phi; None: give phi")
    phi: tuple[int, ...] | None = Field(default=None, description="explicit teacher steps, 0 ... T")
    concentrate: tuple[float, float] | None = Field(default=None, description="put half of the steps within this range of T")
    objective: ObjectiveConfig = RolloutConfig()
    guidance: float | None = Field(default=None, description="scale w of a guided teacher; 1 is no guidance")
    guide: str | None = Field(default=None, description="the weaker network of autoguidance; None: classifier-free")
    init: Literal["teacher", "scratch"] = "teacher"
    unet: UNetShape | None = Field(default=None, description="a size other than the teacher's; implies init=scratch")
    flip: bool = False
    loop: LoopConfig = student_loop()

    def student_phi(self, teacher_steps: int) -> Int64:
        """Return phi of this student: int64 [T' + 1]. Raises ValueError when the teacher's steps do not allow it."""
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

    def settings(self) -> dict[str, Any]:
        """Return the settings that checkpoints and manifests record: one flat layout, without the loop, which is apart."""
        settings: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json", exclude={"loop"}).items():
            settings |= flat_settings(self.objective) if name == "objective" else {name: value}
        return settings


class FoldsConfig(_Config):
    """The full configuration of a progressive distillation: the settings shared by all folds, and the last fold's steps."""

    teacher: str
    to: int = Field(gt=0, description="T' of the last fold: the teacher's steps halved a few times")
    budget: int = Field(gt=0, description="network evaluations of all folds together")
    data: str = "fashion-mnist"
    objective: ProgressiveConfig = ProgressiveConfig()
    flip: bool = False
    loop: LoopConfig = student_loop()  # its `images` is ignored: the budget decides the length of a fold

    def fold(self, *, teacher: str, steps: int, images: int) -> DistillConfig:
        """Return the configuration of one fold: `teacher` halved to `steps`, trained on `images` images."""
        warmup = min(self.loop.warmup_images, images)
        loop = self.loop.model_copy(update={"images": images, "warmup_images": warmup})
        return DistillConfig(teacher=teacher, data=self.data, steps=steps, objective=self.objective, flip=self.flip, loop=loop)
