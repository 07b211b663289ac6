"""The settings of a run, and its results: one `Result` a model, as the run's JSON holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Measurements:
    """The settings of a run: its models, its measurements, and the numbers of images."""

    images: int = 1000
    teacher_images: int = 300
    seeds: int = 200
    seed: int = 0
    first_index: int = 0
    models: tuple[str, ...] = ()
    solvers: tuple[str, ...] = ("ddim", "dpmpp")
    evaluations: tuple[int, ...] = ()
    reference: str = "teacher"
    data_images: int = 10_000  # 0: no distances
    paths: int = 0
    frames: int = 9
    reconstruct: tuple[str, ...] = ()
    reconstruct_from: float = 0.5
    reconstruct_images: int = 100
    timing: bool = True


class TableFacts(BaseModel):
    """The facts by which tables tell models apart. None: not known, or it does not apply.

    Further facts are the settings of the training, the guidance, the runtime and the weights. They differ by objective and by
    version, and tables read them by name (`known`).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str | None = None
    data: str | None = None
    objective: str | None = None
    training_images: int | None = None
    training_cost: int | None = None
    training_seconds: float | None = None
    seed: int | None = None
    lr: float | None = None
    parameters: int | None = None
    teacher_steps: int | None = None
    phi: str | None = None

    @property
    def known(self) -> dict[str, Any]:
        """The facts that are known, by name, as the run's JSON holds them."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class Result:
    """The result of one model.

    metrics      metrics by name (training.evaluation.tables explains them); a missing name was not measured
    kid_subsets  the estimates behind the KID interval; paired between results with the same seed and images
    facts        facts of how the model was made
    reference    the model that this one is compared with from the same noise; empty for the reference, for real images, and
                 for a part that does not start at image 0 (training.evaluation.parts)
    psnr         PSNR of each image in dB; paired between results with the same seeds and reference
    first_index  number of the first image
    parts        number of images of each part that was pooled into this result; empty for a result measured at once
    """

    model: str
    method: str
    plan: str
    evaluations: int
    images: int
    seeds: int
    metrics: dict[str, float]
    kid_subsets: list[float] = field(default_factory=list)
    facts: TableFacts = field(default_factory=TableFacts)
    reference: str = ""
    psnr: list[float] = field(default_factory=list)
    first_index: int = 0
    parts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All results of a run, and facts that hold for all of them: data, features, reference, machine."""

    results: list[Result]
    facts: dict[str, Any]
