"""The document of a job: everything that decides its bytes, written down when it is posted. The store keeps it as JSON."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from service.engine.load import ModelStatus
from service.engine.request import ImageSpec
from service.features.encode import FileStyle, ImageFormat

CHUNK_S: Final = 2.0  # device seconds of one chunk: small, since it may run before a request, and a crash loses it


class JobDocument(BaseModel):
    """The images of a job, and the model and runtime that make them. Stored as JSON, so fields keep their names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_sha256: str
    provider: str  # the runtime that makes every image
    precision: str
    steps: int
    seed: int
    first_index: int
    labels: list[int | None]  # image i has labels[i % len(labels)]
    class_names: list[str | None]  # names of these labels
    size: str
    scale: int
    output_format: ImageFormat
    quality: int | None = None  # of a lossy format

    def spec(self, position: int) -> ImageSpec:
        """Return the image at a position of the job."""
        return ImageSpec(self.seed, self.first_index + position, self.labels[position % len(self.labels)])

    @property
    def style(self) -> FileStyle:
        """The format of its image files."""
        return FileStyle(self.output_format, self.scale, self.quality)

    def class_name(self, position: int) -> str | None:
        """Return the name of the class of the image at a position."""
        return self.class_names[position % len(self.class_names)]


def chunk_size(status: ModelStatus, steps: int, most: int) -> int:
    """Return the images per chunk: about CHUNK_S of device time by the calibrated cost of a step, from 1 to `most`."""
    image_s = steps * min(ms / rows for rows, ms in status.step_ms.items()) / 1000
    return max(1, min(most, int(CHUNK_S / image_s)))
