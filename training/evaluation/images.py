"""Images of samplers, chunk by chunk, kept on disk: a stopped measurement goes on where it was, and memory does not grow.

Where image i starts is a `Starts`: from the noise of (seed, i), on a path between two noises, or from other images
with noise added. Image i asks for class i mod (number of classes) unless its source knows better.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.noise import initial_noise
from training.errors import TrainingError
from training.evaluation.samplers import Float32, Sampler, StepNetwork, denoise
from training.progress import Progress
from training.sampling import to_uint8

CHUNK = 50  # images computed, kept and resumed together

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Start:
    """Where a batch starts: x float32 [B,C,H,W] before plan row `first`; pairs key the fresh noise of stochastic plans."""

    x: Float32
    pairs: list[tuple[int, int]]
    label: Int64 | None
    first: int = 0


class Starts(Protocol):
    """Starting points by image number; `key` names them in the cache."""

    @property
    def key(self) -> str: ...

    def at(self, sampler: Sampler, numbers: range) -> Start:
        """The starting points of these images."""


@dataclass(frozen=True)
class NoiseStarts:
    """Image i starts from the noise of (seed, i), as the service's images do."""

    seed: int

    @property
    def key(self) -> str:
        return f"seed{self.seed}"

    def at(self, sampler: Sampler, numbers: range) -> Start:
        pairs = [(self.seed, number) for number in numbers]
        x = np.stack([initial_noise(*pair, sampler.shape) for pair in pairs])
        return Start(x, pairs, labels_for(np.asarray(numbers), sampler.classes))


@dataclass(frozen=True, eq=False)
class NoisedStarts:
    """Image i starts at teacher step `step` from x0_i: x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, eps of (seed, i).

    x0: uint8 [N,C,H,W]; name: what they are; labels: int64 [N], or None for i mod classes.
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

    def at(self, sampler: Sampler, numbers: range) -> Start:
        kept = np.flatnonzero(sampler.phi == self.step)
        if not len(kept):
            raise TrainingError(f"{sampler.id} cannot start at teacher step {self.step}; reconstruct without it")
        first = len(sampler.plan) - int(kept[0])
        signal, noise = sampler.plan.coefficients[first, :2]
        pairs = [(self.seed, number) for number in numbers]
        eps = np.stack([initial_noise(*pair, sampler.shape) for pair in pairs])
        x0 = self.x0[numbers.start : numbers.stop].astype(np.float32) / 127.5 - 1
        labels = labels_for(np.asarray(numbers), sampler.classes)
        if labels is not None and self.labels is not None:
            labels = self.labels[numbers.start : numbers.stop]
        return Start((signal * x0 + noise * eps).astype(np.float32), pairs, labels, first)


def labels_for(numbers: Int64, classes: int) -> Int64 | None:
    """Class of each image number: number mod classes, int64; None for an unconditional model."""
    return np.asarray(numbers % classes, dtype=np.int64) if classes else None


class ImageCache:
    """Images under a folder, by sampler and start. One network is kept loaded at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: tuple[str, StepNetwork] | None = None

    def folder(self, sampler: Sampler, starts: Starts) -> Path:
        return self.root / f"{sampler.key}-{starts.key}"

    def ensure(self, sampler: Sampler, starts: Starts, count: int, first: int = 0) -> None:
        """Compute what is missing of `count` images from number `first` on, which is a multiple of CHUNK."""
        missing = [
            (numbers, path) for numbers, path in self._chunks(sampler, starts, count, first)
            if (kept := load_array(path)) is None or len(kept) < len(numbers)
        ]  # fmt: skip
        if not missing:
            return
        rows = len(sampler.plan) - starts.at(sampler, range(1)).first
        total = sum(len(numbers) for numbers, _ in missing) * rows * sampler.per_step
        with Progress(sampler.id, total, unit="evaluations") as progress:
            for numbers, path in missing:
                self._compute(sampler, starts, numbers, path, progress)

    def chunks(self, sampler: Sampler, starts: Starts, count: int, first: int = 0) -> Iterator[UInt8]:
        """Images `first` ... `first` + `count` - 1, uint8 [at most CHUNK,C,H,W] at a time."""
        self.ensure(sampler, starts, count, first)
        for numbers, path in self._chunks(sampler, starts, count, first):
            yield np.load(path)[: len(numbers)]

    def first(self, sampler: Sampler, starts: Starts, count: int) -> UInt8:
        """The first `count` images at once: for pictures and other small sets."""
        return np.concatenate(list(self.chunks(sampler, starts, count)))

    def _chunks(self, sampler: Sampler, starts: Starts, count: int, first: int) -> list[tuple[range, Path]]:
        folder = self.folder(sampler, starts)
        return [(numbers, folder / f"{numbers.start:06d}.npy") for numbers in chunk_numbers(first, count)]

    def network(self, sampler: Sampler) -> StepNetwork:
        """The sampler's network, loaded."""
        if self._loaded is None or self._loaded[0] != sampler.weights:
            self._loaded = (sampler.weights, sampler.load())
        return self._loaded[1]

    def _compute(self, sampler: Sampler, starts: Starts, numbers: range, path: Path, progress: Progress) -> None:
        start = starts.at(sampler, numbers)
        made = denoise(
            self.network(sampler),
            sampler.plan,
            start.x,
            start.pairs,
            start.label,
            first=start.first,
            on_step=lambda images: progress.advance(images * sampler.per_step),
        )
        save_array(path, to_uint8(made))


def chunk_numbers(first: int, count: int) -> list[range]:
    """The image numbers of each chunk from `first` on."""
    return [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an .npy file whole or not at all. Raises TrainingError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.save(file, array)
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; free some space or choose another --cache") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_array(path: Path) -> NDArray[Any] | None:
    """An .npy file, mapped; None where it is missing or damaged, so that what it held is computed again."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
        return array
    except (FileNotFoundError, ValueError, EOFError):
        return None
