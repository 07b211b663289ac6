"""The facts of a run: one versioned, typed object in the header of every checkpoint and snapshot.

    RunFacts
    ├── model       ModelFacts     the diffusion that the network belongs to
    ├── provenance  RunProvenance  data, objective, teacher, cost, settings
    ├── loop        LoopConfig     length, batch, learning rate, outputs
    └── progress    RunProgress    updates made, wall time, losses

`RunFacts.of_header` is the one place that knows older checkpoints. This module is free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.manifest import Provenance
from models.plan import SamplerName
from training.config import LoopConfig

VERSION: Final = 1

# Settings that were added after the first checkpoints, with the value that all runs before had. They are not written into the
# settings of an older run, because its manifest must not depend on the version that exports it.
_IMPLIED_SETTINGS: Final[Mapping[str, Any]] = {"sampler": "ddim", "norm": "squared"}


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFacts(_Facts):
    """The diffusion that the network belongs to. training.torch_model needs these facts to load it again."""

    kind: Literal["teacher", "student"]
    unet: dict[str, Any] = Field(description="UNet2DModel's configuration")
    alpha_bar: list[float] = Field(description="the model's own table, [steps + 1]")
    phi: list[int] = Field(description="steps kept of the first teacher, [steps + 1]")
    labels: list[int] = Field(description="network label of each step t = 1 ... steps")
    shape: tuple[int, int, int] = Field(description="of an image: C, H, W")
    prediction_type: Literal["epsilon", "v_prediction"]
    classes: tuple[str, ...] = ()
    null_label: int | None = None
    clip: tuple[float, float] | None = (-1.0, 1.0)
    sampler: SamplerName = "ddim"


class FirstTeacher(_Facts):
    """The first teacher of a chain of students. None in a field: not known."""

    images: int | None = Field(default=None, description="training images it has seen")
    data: str | None = None
    sha256: str | None = Field(default=None, description="of its model.onnx, where it is a model folder")


class Cost(_Facts):
    """The cost of a distillation in network evaluations."""

    per_image: int = Field(description="of this run, per training image")
    before: int = Field(default=0, description="of the folds before this run")
    seconds_before: float | None = Field(default=None, description="wall time of the folds before; None: not known")


class RunProvenance(_Facts):
    """The origin of a run's weights, as far as it is known before the first step."""

    data: str
    objective: str = Field(description="`diffusion` for a teacher, the distillation objective for a student")
    k: int | None = None
    guidance: str | None = None
    cost: Cost | None = Field(default=None, description="None for teachers and for students older than this field")
    teacher: FirstTeacher | None = None
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="the configuration without the loop, as the run recorded it; compared on resume and copied to the manifest",
    )


class ModelProvenance(RunProvenance):
    """The origin of a model's weights: the provenance of its run, and the facts that depend on the run's length."""

    images: int = Field(default=0, description="training images seen")
    evaluations: int | None = Field(default=None, description="network evaluations spent, all folds")
    seconds: float | None = Field(default=None, description="wall time of the training, all folds")
    seed: int = 0
    loop: LoopConfig | None = Field(default=None, description="None where the model is not a run folder")
    sha256: str | None = Field(default=None, description="of the model's own model.onnx, where it is a model folder")

    def for_manifest(self, *, commit: str, created: str, settings: Mapping[str, Any]) -> Provenance:
        """Return the provenance for a manifest. settings: the training configuration that the manifest lists."""
        return Provenance(
            data=self.data,
            objective=self.objective,
            k=self.k,
            guidance=self.guidance,
            images=self.images,
            evaluations=self.evaluations,
            seconds=self.seconds,
            seed=self.seed,
            commit=commit,
            created=created,
            teacher_sha256=self.teacher.sha256 if self.teacher is not None else None,
            settings=dict(settings),
        )


@dataclass(frozen=True)
class RecordedSettings:
    """The settings that a run of any version recorded. Checkpoints and manifests hold them as one flat mapping."""

    recorded: Mapping[str, Any]

    @property
    def complete(self) -> dict[str, Any]:
        """The settings, with defaults for those of a rollout that the run's version did not record."""
        return {**_IMPLIED_SETTINGS, **self.recorded}

    @property
    def loop(self) -> dict[str, Any]:
        """The settings of the loop. Manifests hold them; checkpoints hold them apart (RunFacts.loop)."""
        return dict(self.recorded.get("loop") or {})

    @property
    def lr(self) -> float | None:
        """The peak learning rate, None where it is not known."""
        return self.loop.get("lr")

    @property
    def concentrate(self) -> tuple[float, float] | None:
        """The part of T that half of the steps are within, None for steps that were not concentrated."""
        part = self.recorded.get("concentrate")
        return (part[0], part[1]) if part else None


class RunProgress(_Facts):
    """The progress of a run. A snapshot records its step only."""

    step: int = Field(default=0, ge=0, description="updates made")
    seconds: float | None = Field(default=None, description="wall time so far; None: not known")
    losses: list[tuple[int, float]] = Field(default_factory=list, description="(training images seen, mean loss)")
    recent: list[float] = Field(default_factory=list, description="losses since the last entry of `losses`")
    optimizer: list[dict[str, Any]] = Field(default_factory=list, description="the optimiser's parameter groups")


class RunFacts(_Facts):
    """The content of a checkpoint besides its tensors."""

    version: Literal[1] = VERSION
    model: ModelFacts
    provenance: RunProvenance
    loop: LoopConfig
    progress: RunProgress = RunProgress()

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> RunFacts:
        """Return the facts in a checkpoint's header, of this version or an older one.

        Raises ValueError (or pydantic's ValidationError, a subclass) when the header is not from a run.
        """
        return cls.model_validate(header if "version" in header else _from_unversioned(header))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run, with defaults for those that its version did not record. For comparison with other runs."""
        return RecordedSettings(self.provenance.settings).complete

    @property
    def images(self) -> int:
        """Training images seen."""
        return self.progress.step * self.loop.batch

    @property
    def finished(self) -> bool:
        return self.images >= self.loop.images

    def at_step(self, step: int) -> RunFacts:
        """Return the facts of the same run at another step."""
        return self.model_copy(update={"progress": self.progress.model_copy(update={"step": step})})

    def model_provenance(self) -> ModelProvenance:
        """Return the origin of the weights, with the facts that depend on the run's length: images, seconds, evaluations.

        Seconds and evaluations are those of all folds. Seconds are None when one of the folds did not record them.
        """
        cost, seconds = self.provenance.cost, self.progress.seconds
        before = cost.seconds_before if cost is not None and cost.before else 0.0
        return ModelProvenance(
            **dict(self.provenance),
            images=self.images,
            evaluations=None if cost is None else cost.before + cost.per_image * self.images,
            seconds=None if seconds is None or before is None else before + seconds,
            seed=self.loop.seed,
            loop=self.loop,
        )


def is_bare(header: Mapping[str, Any]) -> bool:
    """Return True for the header of an early snapshot, which has no facts of its model."""
    return "version" not in header and "phi" not in header


def _from_unversioned(header: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange the flat header of a checkpoint from before version 1 as RunFacts. Missing entries get the fields' defaults."""
    try:
        made = header["provenance"]
        return {
            "model": {name: header[name] for name in ModelFacts.model_fields if name in header},
            "provenance": {name: made[name] for name in RunProvenance.model_fields if name in made},
            "loop": header["loop"],
            "progress": {
                ("optimizer" if name == "groups" else name): header[name]
                for name in ("step", "seconds", "losses", "recent", "groups")
                if name in header
            },
        }
    except KeyError as error:
        raise ValueError(f"it does not say its {error.args[0]}") from error
