"""Images made from noised images, also of kinds that the model never saw: the paper's open question on generalisation.

x at teacher step t is made from a given image x0: x = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps. The image that a
student makes from this x is compared with the image that the teacher makes from the same x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.image_metrics import UInt8
from models.runtime.base import Int64
from training.data import open_source
from training.errors import TrainingError
from training.evaluation.candidates import Candidate
from training.evaluation.classifier import has_test_split
from training.evaluation.images import NoisedStarts


def _blocked(images: UInt8) -> UInt8:
    """Paint the middle quarter of each image black."""
    height, width = images.shape[2:]
    damaged = images.copy()
    damaged[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4] = 0
    return damaged


CORRUPTIONS: dict[str, Callable[[UInt8], UInt8]] = {
    "clean": lambda images: images,
    "rotated": lambda images: np.ascontiguousarray(np.rot90(images, axes=(2, 3))),
    "inverted": lambda images: 255 - images,
    "blocked": _blocked,
}


@dataclass(frozen=True, eq=False)
class Originals:
    """Images to start from, uint8 [N,C,H,W]. labels: their classes, if they are from the model's own data set; else None."""

    name: str
    images: UInt8
    labels: Int64 | None

    @staticmethod
    def read(spec: str, model: Candidate, count: int) -> Originals:
        """Read images of `DATA` or `DATA:rotated`, fitted to the model's size and channels.

        Takes test images if the data set has them, else training images.
        Raises DataError, or TrainingError for an unknown corruption.
        """
        data, _, corruption = spec.rpartition(":") if spec.rpartition(":")[2] in CORRUPTIONS else (spec, "", "clean")
        if not data or (":" in data and not data.startswith("hf:")):
            raise TrainingError(f"--reconstruct {spec!r}: write DATA or DATA:{'|'.join(CORRUPTIONS)}")
        split = "test" if has_test_split(data) else "train"
        source = open_source(data, image_size=model.shape[1], channels=model.shape[0], split=split)
        picked = np.random.default_rng(0).permutation(len(source))[:count]
        images = CORRUPTIONS[corruption](np.stack([source.read(int(i)) for i in picked]))
        own = source.name == model.facts.data
        labels = source.labels[picked] if own and source.labels is not None else None
        stem = Path(data.removeprefix("hf:"))
        plain = f"{stem.parent.name}-{stem.stem}" if stem.suffix == ".zip" else stem.name
        return Originals(f"{plain}-{corruption}-{len(picked)}", images, labels)

    def starts(self, step: int, seed: int) -> NoisedStarts:
        """Return starting points at teacher step `step`."""
        return NoisedStarts(self.name, self.images, self.labels, step, seed)


def nearest_step(phi: Int64, share: float) -> int:
    """Return the kept teacher step, above 0, that is nearest to `share` of T."""
    kept = phi[1:]
    return int(kept[np.argmin(np.abs(kept - share * phi[-1]))])
