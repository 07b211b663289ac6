"""The configuration of each distillation objective: its own fields and no others.

They have a file of their own, which does not import torch: the command line shows their defaults without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.errors import TrainingError

Solver = Literal["ddim", "dpmpp"]
Weight = Literal["auto", "simple", "snr", "truncated-snr"]
Norm = Literal["squared", "l2"]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RolloutConfig(_Config):
    """One student step lands where `k` teacher sub-steps do (training.objectives.rollout)."""

    objective: Literal["rollout"] = "rollout"
    k: int = Field(default=4, gt=0, description="teacher sub-steps for one student step; 1 is the paper's loss")
    solver: Solver = Field(default="ddim", description="solver of the teacher's sub-steps")
    sampler: Solver = Field(default="ddim", description="sampler of the student's own steps")
    weight: Weight = Field(default="auto", description="gamma' (training.objectives.base.loss_weight)")
    max_weight: float = Field(default=1000.0, ge=1, description="cap of gamma' for epsilon students")
    norm: Norm = Field(default="squared", description="norm of an image's error in the loss: squared, or l2 (its square root)")


class ReleasedConfig(_Config):
    """The authors' released objective (training.objectives.released). It has no settings."""

    objective: Literal["released"] = "released"


class ConsistencyConfig(_Config):
    """Consistency distillation (training.objectives.consistency). It has no settings."""

    objective: Literal["consistency"] = "consistency"


class ProgressiveConfig(_Config):
    """One fold of progressive distillation (training.folds): the rollout of two DDIM steps."""

    objective: Literal["progressive"] = "progressive"
    weight: Weight = Field(default="auto", description="gamma' (training.objectives.base.loss_weight)")
    max_weight: float = Field(default=1000.0, ge=1, description="cap of gamma' for epsilon students")


ObjectiveConfig = Annotated[
    RolloutConfig | ReleasedConfig | ConsistencyConfig | ProgressiveConfig, Field(discriminator="objective")
]

_OF_ONE_PHASE: Mapping[str, type[RolloutConfig | ReleasedConfig | ConsistencyConfig]] = {
    "rollout": RolloutConfig,
    "released": ReleasedConfig,
    "consistency": ConsistencyConfig,
}


def objective_config(objective: str, given: Mapping[str, Any]) -> RolloutConfig | ReleasedConfig | ConsistencyConfig:
    """Return the configuration of a single-phase objective from the options given on the command line.

    given: fields of RolloutConfig, without those that were not given.
    Raises TrainingError for an objective that does not exist or an option that it does not have, ValidationError for a value
    out of range.
    """
    if objective not in _OF_ONE_PHASE:
        raise TrainingError(f"--objective must be {', '.join(_OF_ONE_PHASE)}, got {objective!r}")
    kind = _OF_ONE_PHASE[objective]
    for name in given:
        if name not in kind.model_fields:
            raise TrainingError(f"--{name} needs --objective rollout; leave it out for {objective}")
    return kind.model_validate(given)


def flat_settings(config: RolloutConfig | ReleasedConfig | ConsistencyConfig | ProgressiveConfig) -> dict[str, Any]:
    """Return the configuration as checkpoints and manifests record it: one flat layout for all objectives.

    Fields that the objective does not have get the rollout's defaults, as in every manifest so far.
    """
    return {**RolloutConfig().model_dump(mode="json"), **config.model_dump(mode="json")}
