"""manifest.json: all that the service needs to know about a model besides its graph.

The schema is versioned. A reader refuses unknown versions and unknown fields, so that nothing in a manifest is silently
ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.files import write_atomically
from models.plan import SamplerName
from models.schedule import Float64
from models.subsequence import Int64
from models.validation import describe_error

MANIFEST = "manifest.json"
GRAPH = "model.onnx"

SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Slug = Annotated[str, Field(pattern=SLUG)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0, le=2**31 - 1)]  # far below the limit of the int64 tables that are built from it

VERSION: Final = 1


class ManifestError(Exception):
    """A manifest or model folder that cannot be trusted; the message names the field and the reason."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImageShape(_Strict):
    """Pixels of the images a model makes."""

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)

    @property
    def chw(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def size(self, scale: int = 1) -> str:
        """Width x height of an image file whose pixels are enlarged `scale` times, as OpenAI writes it: `28x28`."""
        return f"{self.width * scale}x{self.height * scale}"


class Provenance(_Strict):
    """The origin of the weights."""

    data: str = Field(description="training data set")
    objective: str = Field(description="`diffusion` for a teacher, the distillation objective for a student")
    k: int | None = Field(default=None, ge=1, description="teacher sub-steps per student step")
    guidance: str | None = Field(default=None, description="guidance folded into the student, if any")
    images: int = Field(ge=0, description="training images seen")
    evaluations: int | None = Field(default=None, ge=0, description="network evaluations that distillation took, all folds")
    seconds: float | None = Field(default=None, ge=0, description="wall time of the training, all folds")
    seed: int = Field(ge=0)
    commit: str = Field(description="commit of the training code")
    created: str = Field(description="ISO 8601 time of the export")
    teacher_sha256: Sha256 | None = Field(default=None, description="model.onnx of the teacher distilled")
    settings: dict[str, Any] = Field(default_factory=dict, description="the full training configuration")


class Quality(_Strict):
    """Measured quality of one plan of this model: metric name -> value, and how many images it rests on."""

    images: int = Field(gt=0)
    metrics: dict[str, float]
    command: str = Field(description="the command that measured it")


class Ranking(_Strict):
    """Which metric ranks models of a family, and which way."""

    metric: str
    better: Literal["lower", "higher"]


class Manifest(_Strict):
    """One model folder. Tables are indexed as in models.schedule: alpha_bar[0] = 1 is the clean end."""

    manifest_version: Literal[1] = VERSION
    family: Slug
    name: Slug
    kind: Literal["teacher", "student"]
    steps: int = Field(ge=1, le=100_000, description="T for a teacher, T' for a student")
    phi: list[Index] = Field(description="teacher steps kept, phi[0] = 0 ... phi[steps] = T; a teacher keeps all")
    alpha_bar: list[float] = Field(description="cumulative signal level at each kept step, [steps + 1]")
    labels: list[Index] = Field(description="network label of each step t = 1 ... steps")
    image: ImageShape
    classes: list[str] = Field(default_factory=list, description="class names by label; empty: unconditional")
    null_label: int | None = Field(default=None, ge=0, description="label that means no class")
    prediction_type: Literal["epsilon", "v_prediction"]
    sampler: SamplerName = Field(default="ddim", description="how the model's own steps are taken (models.plan)")
    clip: tuple[float, float] | None = (-1.0, 1.0)
    dtype: Literal["float16", "float32"]
    parameters: int = Field(gt=0)
    provenance: Provenance
    quality: dict[str, Quality] = Field(default_factory=dict, description="plan name, e.g. ddim-016 -> measurements")
    ranking: Ranking | None = None
    sha256: Sha256 = Field(description="of model.onnx")

    @property
    def plan_name(self) -> str:
        """The name of the model's own plan in `quality`, such as ddim-016 or dpmpp-064."""
        return f"{self.sampler}-{self.steps:03d}"

    @property
    def id(self) -> str:
        """`<family>/<name>`."""
        return f"{self.family}/{self.name}"

    @property
    def alpha_bar_table(self) -> Float64:
        return np.asarray(self.alpha_bar, dtype=np.float64)

    @property
    def label_table(self) -> Int64:
        return np.asarray(self.labels, dtype=np.int64)

    @model_validator(mode="before")
    @classmethod
    def _known_version(cls, data: Any) -> Any:
        # Before all other checks: a newer manifest has newer fields, and an error about those would hide the reason.
        version = data.get("manifest_version", VERSION) if isinstance(data, dict) else VERSION
        if version != VERSION:
            raise ValueError(
                f"manifest_version {version!r} is not the version {VERSION} that this program reads; "
                "use the sfddm-serve release that exported the model, or export it again"
            )
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if (
            len(self.phi) != self.steps + 1
            or self.phi[0] != 0
            or any(b <= a for a, b in zip(self.phi, self.phi[1:], strict=False))
        ):
            raise ValueError(f"phi must hold steps + 1 = {self.steps + 1} strictly increasing entries that start at 0")
        if self.kind == "teacher" and self.phi[-1] != self.steps:
            raise ValueError(f"phi of a teacher must keep all of its steps, 0 ... {self.steps}")
        if len(self.alpha_bar) != self.steps + 1 or self.alpha_bar[0] != 1:
            raise ValueError(f"alpha_bar must hold steps + 1 = {self.steps + 1} entries that start at 1")
        if any(not b < a for a, b in zip(self.alpha_bar, self.alpha_bar[1:], strict=False)) or not self.alpha_bar[-1] > 0:
            raise ValueError("alpha_bar must be strictly decreasing and positive")
        if len(self.labels) != self.steps:
            raise ValueError(f"labels must hold steps = {self.steps} entries")
        if self.null_label is not None and not self.classes:
            raise ValueError("null_label needs classes; an unconditional model has neither")
        if self.null_label is not None and self.null_label < len(self.classes):
            raise ValueError("null_label must lie beyond the classes")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be distinct")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError("clip must be a range [low, high]")
        return self


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.json. Raises ManifestError with one sentence."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ManifestError(f"{path} is not a valid manifest: {describe_error(error)}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, in UTF-8."""
    with write_atomically(folder / MANIFEST) as draft:
        draft.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
