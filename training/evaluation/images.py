"""Images of candidates, computed chunk by chunk and kept on disk.

A stopped measurement continues where it stopped, and memory does not grow with the number of images.

A `Starts` decides where image i starts: from the noise of (seed, i), on a path between two noises, or from another image
with noise added. The class of image i is i mod (number of classes), unless that other image has a class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.files import write_atomically
from models.image_metrics import UInt8
from models.pictures import to_uint8
from models.runtime.base import Float32, Int64
from models.runtime.denoise import ImageKey, StepNetwork, denoise, starting_noise
from training.errors import TrainingError
from training.evaluation.candidates import Candidate
from training.progress import Progress

CHUNK = 50  # images computed, kept and resumed together


@dataclass(frozen=True)
class Start:
    """The start of a batch: x float32 [B,C,H,W] before the plan's step `first_step`, and the images' keys and classes [B]."""

    x: Float32
    keys: list[ImageKey]
    label: Int64 | None
    first_step: int = 0


class Starts(Protocol):
    """Starting points by image number. `key` names them in the cache."""

    @property
    def key(self) -> str: ...

    def at(self, candidate: Candidate, numbers: range) -> Start:
        """Return the starting points of these images."""


@dataclass(frozen=True)
class NoiseStarts:
    """Starts from noise: image i starts from the noise of (seed, i), as the service's images do."""

    seed: int

    @property
    def key(self) -> str:
        return f"seed{self.seed}"

    def at(self, candidate: Candidate, numbers: range) -> Start:
        keys = [(self.seed, number) for number in numbers]
        return Start(starting_noise(keys, candidate.shape), keys, labels_for(np.asarray(numbers), candidate.classes))


@dataclass(frozen=True, eq=False)
class NoisedStarts:
    """Starts from noised images: image i starts at teacher step `step` from x0_i with the noise eps of (seed, i).

    x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps. x0: uint8 [N,C,H,W]; name: the name of this set of images; labels:
    int64 [N], or None for i mod classes.
    """

    name: str
    x0: UInt8
    labels: Int64 | None
    step: int
    seed: int

    @property
    def key(self) -> str:
        digest = hashlib.sha256(self.x0.tobytes() + (b"" if self.labels is None else self.labels.tobytes())).hexdigest()[:8]
        return f"from-{self.name}-{digest}-{self.step:04d}-seed{self.seed}"

    def at(self, candidate: Candidate, numbers: range) -> Start:
        kept = np.flatnonzero(candidate.phi == self.step)
        if not len(kept):
            raise TrainingError(f"{candidate.id} cannot start at teacher step {self.step}; reconstruct without it")
        first_step = len(candidate.plan) - int(kept[0])
        signal, noise = candidate.plan.coefficients[first_step, :2]
        keys = [(self.seed, number) for number in numbers]
        eps = starting_noise(keys, candidate.shape)
        x0 = self.x0[numbers.start : numbers.stop].astype(np.float32) / 127.5 - 1
        labels = labels_for(np.asarray(numbers), candidate.classes)
        if labels is not None and self.labels is not None:
            labels = self.labels[numbers.start : numbers.stop]
        return Start((signal * x0 + noise * eps).astype(np.float32), keys, labels, first_step)


def labels_for(numbers: Int64, classes: int) -> Int64 | None:
    """Return the class of each image number, number mod classes, as int64; None for an unconditional model."""
    return np.asarray(numbers % classes, dtype=np.int64) if classes else None


class ImageCache:
    """Keeps images under a folder, by candidate and starts. Only one network is loaded at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: tuple[str, StepNetwork] | None = None

    def folder(self, candidate: Candidate, starts: Starts) -> Path:
        return self.root / f"{candidate.key}-{starts.key}"

    def ensure(self, candidate: Candidate, starts: Starts, count: int, first: int = 0) -> None:
        """Compute those of `count` images from number `first` on that are missing. `first` is a multiple of CHUNK."""
        missing = [
            (numbers, path) for numbers, path in self._chunks(candidate, starts, count, first)
            if (kept := load_array(path)) is None or len(kept) < len(numbers)
        ]  # fmt: skip
        if not missing:
            return
        steps = len(candidate.plan) - starts.at(candidate, range(1)).first_step
        total = sum(len(numbers) for numbers, _ in missing) * steps * candidate.per_step
        with Progress(candidate.id, total, unit="evaluations") as progress:
            for numbers, path in missing:
                self._compute(candidate, starts, numbers, path, progress)

    def chunks(self, candidate: Candidate, starts: Starts, count: int, first: int = 0) -> Iterator[UInt8]:
        """Yield images `first` ... `first` + `count` - 1, uint8 [at most CHUNK,C,H,W] at a time."""
        self.ensure(candidate, starts, count, first)
        for numbers, path in self._chunks(candidate, starts, count, first):
            yield np.load(path)[: len(numbers)]

    def first(self, candidate: Candidate, starts: Starts, count: int) -> UInt8:
        """Return the first `count` images at once. For pictures and other small sets."""
        return np.concatenate(list(self.chunks(candidate, starts, count)))

    def _chunks(self, candidate: Candidate, starts: Starts, count: int, first: int) -> list[tuple[range, Path]]:
        folder = self.folder(candidate, starts)
        return [(numbers, folder / f"{numbers.start:06d}.npy") for numbers in chunk_numbers(first, count)]

    def network(self, candidate: Candidate) -> StepNetwork:
        """Return the candidate's network, loaded."""
        if self._loaded is None or self._loaded[0] != candidate.weights:
            self._loaded = (candidate.weights, candidate.load())
        return self._loaded[1]

    def _compute(self, candidate: Candidate, starts: Starts, numbers: range, path: Path, progress: Progress) -> None:
        start = starts.at(candidate, numbers)
        made = denoise(
            self.network(candidate),
            candidate.plan,
            start.x,
            keys=start.keys,
            class_label=start.label,
            first_step=start.first_step,
            on_step=lambda images: progress.advance(images * candidate.per_step),
        )
        save_array(path, to_uint8(made))


def chunk_numbers(first: int, count: int) -> list[range]:
    """List the image numbers of each chunk from `first` on."""
    return [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an .npy file whole or not at all. Raises TrainingError when it cannot be written."""
    try:
        with write_atomically(path) as draft, open(draft, "wb") as file:
            np.save(file, array)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; free some space or choose another --cache") from error


def load_array(path: Path) -> NDArray[Any] | None:
    """Map an .npy file into memory. Return None when it is missing or damaged: its images are then computed again."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
        return array
    except (FileNotFoundError, ValueError, EOFError):
        return None
