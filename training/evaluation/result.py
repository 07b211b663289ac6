"""The settings of a run, and its results: one `Result` a model, as the run's JSON holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurements:
    """The choice of what to measure, and on how many images."""

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


@dataclass(frozen=True)
class Result:
    """The result of one model.

    metrics      by name (training.evaluation.tables says what each means); a name that is absent was not measured
    kid_subsets  the estimates that the KID interval rests on; results with the same seed and images pair them up
    facts        how the model was made
    reference    the model that this one is compared with from the same noise; empty for the reference and for real images
    psnr         PSNR of each seed's image in dB; results with the same seeds and reference pair them up
    first_index  number of the first image; results of further images (training.evaluation.parts) have no reference
    parts        number of images of each part that the result was pooled from; empty for a result measured in one piece
    """

    model: str
    method: str
    plan: str
    evaluations: int
    images: int
    seeds: int
    metrics: dict[str, float]
    kid_subsets: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    reference: str = ""
    psnr: list[float] = field(default_factory=list)
    first_index: int = 0
    parts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All results of a run, and the facts they rest on."""

    results: list[Result]
    facts: dict[str, Any]
