"""Every measurement of one run: which models, what is measured of each, and the facts that the numbers rest on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.schedule import Float64
from training.data import open_source
from training.errors import TrainingError
from training.evaluation import distances
from training.evaluation.agreement import feature_agreement, pixel_agreement, psnr
from training.evaluation.classifier import Classifier, has_test_split, load_classifier
from training.evaluation.features import EfficientNetLite0, Features, InceptionV3, Reference, find_inception, image_features
from training.evaluation.features import source_features as features_of
from training.evaluation.images import CHUNK, ImageCache, NoiseStarts, Starts, UInt8, labels_for
from training.evaluation.paths import PathStarts, smoothness
from training.evaluation.reconstruction import Originals, nearest_step
from training.evaluation.samplers import TEACHER, Family, Float32, Sampler, StepNetwork

TIMED_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_TIMED_REPEATS = 3


@dataclass(frozen=True)
class Plan:
    """What to measure, and on how many images."""

    images: int = 1000
    teacher_images: int = 300
    seeds: int = 200
    seed: int = 0
    first_index: int = 0
    models: tuple[str, ...] = ()
    solvers: tuple[str, ...] = ("ddim", "dpmpp")
    evaluations: tuple[int, ...] = ()
    reference: str = "teacher"
    data_images: int = 10_000
    paths: int = 0
    frames: int = 9
    reconstruct: tuple[str, ...] = ()
    reconstruct_from: float = 0.5
    reconstruct_images: int = 100
    timing: bool = True


@dataclass(frozen=True)
class Row:
    """One model measured. `metrics` by name (training.evaluation.tables says what each means); absent: not measured.

    kid_subsets: the estimates that the KID interval rests on, which pair up between rows with the same seed and images.
    psnr: PSNR of each seed's image in dB, which pair up between rows with the same seeds and reference.
    reference: the model that the row agrees with or not; empty for the reference itself and for real images.
    first_index: number of the first image; those of further images (training.evaluation.parts) agree with no reference.
    parts: images of each part that the row was pooled from; empty for one that was measured as it is.
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
    """Rows and the facts they rest on."""

    rows: list[Row]
    facts: dict[str, Any]


class Measurement:
    """One run over one family."""

    def __init__(self, family: Family, plan: Plan, cache: Path, data: str | None) -> None:
        """data: the data set of the classifier and of the distances, default the teacher's; data_images = 0: no distances.

        Raises TrainingError, DataError or UnknownModelError before anything is computed.
        """
        if plan.first_index % CHUNK:
            raise TrainingError(f"--first-index takes a multiple of {CHUNK}, the images that are kept together")
        self.family, self.plan = family, plan
        self.images, self.starts = ImageCache(cache), NoiseStarts(plan.seed)
        self.step_seconds: dict[str, dict[int, float]] = {}
        manifest = family.teacher.manifest
        self.data = data or manifest.provenance.data
        self.samplers = [family.sampler(s) for s in plan.models or family.all(plan.solvers, plan.evaluations)]
        self.reference = family.sampler(plan.reference)
        size, bands = manifest.image.height, manifest.image.channels
        for sampler in (self.reference, *self.samplers):
            if sampler.shape != self.reference.shape or sampler.classes != self.reference.classes:
                raise TrainingError(f"{sampler.id} makes other images than {self.reference.id}; measure it on its own")
        named = {sampler.id: sampler for sampler in (*self.samplers, self.reference)}
        for sampler in self.samplers:
            if named[sampler.id].key != sampler.key:
                raise TrainingError(f"two models would both be called {sampler.id}; rename one's file, or measure them apart")
        self.samplers = list({sampler.id: sampler for sampler in self.samplers}.values())
        self.originals = [Originals.read(s, self.reference, plan.reconstruct_images) for s in plan.reconstruct]
        if len({originals.name for originals in self.originals}) < len(self.originals):
            raise TrainingError("two of --reconstruct have the same name; rename one of the folders, or measure them apart")
        self.judge: Classifier | None = None
        if manifest.classes:
            self.judge = load_classifier(self.data, cache, image_size=size, channels=bands, classes=len(manifest.classes))
        self.facts: dict[str, Any] = {} if self.judge is None else {"classifier_accuracy": self.judge.accuracy}
        self.extract: Features | None = None
        self.real: dict[str, Reference] = {}
        self.inception: InceptionV3 | None = None
        if plan.data_images:
            least = distances.least_images(len(manifest.classes))
            if plan.data_images < 2 * distances.SUBSETS:
                raise TrainingError(f"distances need at least {2 * distances.SUBSETS} training images; see --data-images")
            if min(plan.images, plan.teacher_images) < least:
                raise TrainingError(f"distances need at least {least} images of each model; see --no-distances")
            self._open_reference(cache, size, bands)

    def _open_reference(self, cache: Path, size: int, bands: int) -> None:
        self.extract = EfficientNetLite0()
        found = find_inception()
        self.inception = None if isinstance(found, str) else found
        source = open_source(self.data, image_size=size, channels=bands)
        self.real["train"] = features_of(source, "train", self.plan.data_images, self.extract, cache)
        if self.inception is not None:
            self.real["inception"] = features_of(source, "train", self.plan.data_images, self.inception, cache)
        if has_test_split(self.data):
            test = open_source(self.data, image_size=size, channels=bands, split="test")
            self.real["test"] = features_of(test, "test", self.plan.images, self.extract, cache)
        self.facts |= {
            "features": self.extract.name,
            "resize": self.extract.resize,
            "data": self.real["train"].text,
            "fid": found if isinstance(found, str) else f"{found.name}, {found.resize}",
        }

    def run(self) -> Report:
        """Measure every model. What was computed before comes from the cache."""
        rows = [self._row(sampler) for sampler in self.samplers]
        if "test" in self.real:
            rows.append(self._test_row())
        self.facts |= {"reference": self.reference.id, **machine()}
        return Report(sorted(rows, key=lambda row: (row.evaluations, row.model)), self.facts)

    def _row(self, sampler: Sampler) -> Row:
        at_all_steps = sampler.method.partition(",")[0] == TEACHER  # guided or not
        count = self.plan.teacher_images if at_all_steps else self.plan.images
        first = self.plan.first_index
        is_reference = sampler.key == self.reference.key
        seeds = 0 if is_reference or first else self.plan.seeds
        metrics: dict[str, float] = {}
        if self.judge is not None:
            metrics["class_agreement"] = self._class_agreement(sampler, count)
        subsets: list[float] = []
        features = None
        if self.extract is not None:
            features = image_features(self.images, sampler, self.starts, max(count, seeds), self.extract, first)
            measured, subsets = self._distances(features[:count], sampler.classes)
            metrics |= measured
        if self.inception is not None:
            wide = image_features(self.images, sampler, self.starts, count, self.inception, first)
            metrics["fid"] = distances.frechet(wide, self.real["inception"].features)
        decibels: list[float] = []
        if seeds:
            agreement, each = self._agreement(sampler, self.starts, seeds, features)
            metrics |= agreement
            decibels = each.round(2).tolist()
        if self.plan.paths:
            metrics |= self._path_metrics(sampler, is_reference)
        for originals in self.originals:
            if not is_reference:
                metrics |= self._reconstruction(sampler, originals)
        if self.plan.timing:
            if sampler.weights not in self.step_seconds:
                self.step_seconds[sampler.weights] = step_seconds(self.images.network(sampler), sampler)
            metrics |= time_per_image(self.step_seconds[sampler.weights], len(sampler.plan))
        return Row(
            sampler.id,
            sampler.method,
            sampler.name,
            sampler.evaluations,
            count,
            seeds,
            metrics,
            subsets,
            sampler.facts,
            "" if is_reference or first else self.reference.id,
            decibels,
            first,
        )

    def _test_row(self) -> Row:
        """The data set's own test images: as close to the training set as a perfect model comes."""
        test = self.real["test"]
        metrics, subsets = self._distances(test.features, classes=0)
        facts = {"kind": "data", "data": test.text}
        return Row("test images", "real test images", "", 0, len(test.features), 0, metrics, subsets, facts)

    def _class_agreement(self, sampler: Sampler, count: int) -> float:
        assert self.judge is not None
        right, number = 0, self.plan.first_index
        for images in self.images.chunks(sampler, self.starts, count, number):
            wanted = labels_for(np.arange(number, number + len(images)), sampler.classes)
            right += int((self.judge.predict(images) == wanted).sum())
            number += len(images)
        return right / count

    def _distances(self, features: Float32, classes: int) -> tuple[dict[str, float], list[float]]:
        real = self.real["train"].features
        subsets = distances.kid_subsets(features, real, classes)
        kid, low, high = distances.interval(subsets)
        same = min(len(features), len(real))
        precision, recall = distances.precision_recall(features[:same], real[:same])
        metrics = {"kid": kid, "kid_low": low, "kid_high": high, "fd": distances.frechet(features, real)}
        return {**metrics, "precision": precision, "recall": recall, "neighbourhood": float(same)}, subsets.tolist()

    def _agreement(
        self, sampler: Sampler, starts: Starts, count: int, features: Float32 | None
    ) -> tuple[dict[str, float], Float64]:
        """Metrics, and the PSNR of each image."""
        metrics, decibels = pixel_agreement(self._pairs(sampler, starts, count))
        if self.extract is not None:
            if features is None:
                features = image_features(self.images, sampler, starts, count, self.extract)
            theirs = image_features(self.images, self.reference, starts, count, self.extract)
            metrics |= feature_agreement(features[:count], theirs)
        return metrics, decibels

    def _pairs(self, sampler: Sampler, starts: Starts, count: int) -> Iterator[tuple[UInt8, UInt8]]:
        # The reference first and in full, so that one network is loaded at a time.
        self.images.ensure(self.reference, starts, count)
        yield from zip(
            self.images.chunks(sampler, starts, count), self.images.chunks(self.reference, starts, count), strict=True
        )

    def _path_metrics(self, sampler: Sampler, is_reference: bool) -> dict[str, float]:
        starts, count = PathStarts(self.plan.seed, self.plan.frames), self.plan.paths * self.plan.frames
        metrics = {}
        if not is_reference:
            metrics["path_psnr_db"] = pixel_agreement(self._pairs(sampler, starts, count))[0]["psnr_db"]
        if self.extract is not None:
            metrics |= smoothness(image_features(self.images, sampler, starts, count, self.extract), self.plan.frames)
        return metrics

    def _reconstruction(self, sampler: Sampler, originals: Originals) -> dict[str, float]:
        starts = originals.starts(nearest_step(sampler.phi, self.plan.reconstruct_from), self.plan.seed)
        count = len(originals.images)
        named, _ = self._agreement(sampler, starts, count, None)
        kept: dict[str, float] = {key: named[key] for key in ("psnr_db", "ssim", "cosine") if key in named}
        for model, key in ((sampler, "original_db"), (self.reference, "reference_original_db")):
            kept[key] = float(psnr(self.images.first(model, starts, count), originals.images).mean())
        kept |= {
            "step": float(starts.step),
            "steps_left": float(np.count_nonzero((sampler.phi > 0) & (sampler.phi <= starts.step))),
        }
        return {f"from_{originals.name}_{key}": number for key, number in kept.items()}


def time_per_image(seconds: dict[int, float], steps: int) -> dict[str, float]:
    """Milliseconds an image of so many steps takes, from the seconds of a step by batch: alone, and in the best batch."""
    best = min(seconds, key=lambda batch: seconds[batch] / batch)
    return {"ms_alone": 1000 * steps * seconds[1], "ms_batched": 1000 * steps * seconds[best] / best, "best_batch": float(best)}


def step_seconds(network: StepNetwork, sampler: Sampler) -> dict[int, float]:
    """Seconds of one step by batch size, the shortest of a few; weights cost the same whatever plan they follow."""
    return {batch: _step_seconds(network, sampler, batch) for batch in TIMED_BATCHES}


def _step_seconds(network: StepNetwork, sampler: Sampler, batch: int) -> float:
    start = NoiseStarts(0).at(sampler, range(batch))
    timestep = np.repeat(sampler.plan.label[:1], batch)
    coefficients = np.repeat(sampler.plan.coefficients[:1].astype(np.float32), batch, axis=0)
    durations = []
    for _ in range(1 + _TIMED_REPEATS):
        before = time.perf_counter()
        network.step(start.x, np.zeros_like(start.x), timestep, start.label, coefficients)
        durations.append(time.perf_counter() - before)
    return min(durations[1:])  # the first warms up


def machine() -> dict[str, Any]:
    """Where the times were taken."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"machine": platform.machine(), "cores": cores, "load": round(os.getloadavg()[0], 1), "accelerator": accelerator}
