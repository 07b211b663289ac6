"""One run over one family: it measures every model, and collects facts such as the data set and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.image_metrics import UInt8, psnr
from models.runtime.base import Float32
from models.schedule import Float64
from training.data import open_source
from training.errors import TrainingError
from training.evaluation import distances
from training.evaluation.agreement import feature_agreement, pixel_agreement
from training.evaluation.candidates import Candidate
from training.evaluation.classifier import Classifier, has_test_split, load_classifier
from training.evaluation.facts import REAL_IMAGES, TEACHER
from training.evaluation.family import Family
from training.evaluation.features import EfficientNetLite0, Features, InceptionV3, Reference, find_inception, image_features
from training.evaluation.features import source_features as features_of
from training.evaluation.images import CHUNK, ImageCache, NoiseStarts, Starts, labels_for
from training.evaluation.paths import PathStarts, smoothness
from training.evaluation.reconstruction import Originals, nearest_step
from training.evaluation.result import Measurements, Report, Result, TableFacts
from training.evaluation.timing import machine, step_seconds, time_per_image


class Measurement:
    """One run: the models of a family, the measurements wanted, and the images and facts so far."""

    def __init__(self, family: Family, wanted: Measurements, cache: Path, data: str | None) -> None:
        """Open the models and the data. data: data set of the judge and of the distances; None: the teacher's.

        Raises TrainingError, DataError or UnknownModelError before anything is computed.
        """
        if wanted.first_index % CHUNK:
            raise TrainingError(f"--first-index takes a multiple of {CHUNK}, the images that are kept together")
        self.family, self.wanted = family, wanted
        self.images, self.starts = ImageCache(cache), NoiseStarts(wanted.seed)
        self.step_seconds: dict[str, dict[int, float]] = {}
        manifest = family.teacher.manifest
        self.data = data or manifest.provenance.data
        self.candidates = [family.candidate(s) for s in wanted.models or family.all(wanted.solvers, wanted.evaluations)]
        self.reference = family.candidate(wanted.reference)
        size, bands = manifest.image.height, manifest.image.channels
        for candidate in (self.reference, *self.candidates):
            if candidate.shape != self.reference.shape or candidate.classes != self.reference.classes:
                raise TrainingError(f"{candidate.id} makes other images than {self.reference.id}; measure it on its own")
        named = {candidate.id: candidate for candidate in (*self.candidates, self.reference)}
        for candidate in self.candidates:
            if named[candidate.id].key != candidate.key:
                raise TrainingError(f"two models would both be called {candidate.id}; rename one's file, or measure them apart")
        self.candidates = list({candidate.id: candidate for candidate in self.candidates}.values())
        self.originals = [Originals.read(s, self.reference, wanted.reconstruct_images) for s in wanted.reconstruct]
        if len({originals.name for originals in self.originals}) < len(self.originals):
            raise TrainingError("two of --reconstruct have the same name; rename one of the folders, or measure them apart")
        self.judge: Classifier | None = None
        if manifest.classes:
            self.judge = load_classifier(self.data, cache, image_size=size, channels=bands, classes=len(manifest.classes))
        self.facts: dict[str, Any] = {} if self.judge is None else {"classifier_accuracy": self.judge.accuracy}
        self.extract: Features | None = None
        self.real: dict[str, Reference] = {}
        self.inception: InceptionV3 | None = None
        if wanted.data_images:
            least = distances.least_images(len(manifest.classes))
            if wanted.data_images < 2 * distances.SUBSETS:
                raise TrainingError(f"distances need at least {2 * distances.SUBSETS} training images; see --data-images")
            if min(wanted.images, wanted.teacher_images) < least:
                raise TrainingError(f"distances need at least {least} images of each model; see --no-distances")
            self._open_reference(cache, size, bands)

    def _open_reference(self, cache: Path, size: int, bands: int) -> None:
        self.extract = EfficientNetLite0()
        found = find_inception()
        self.inception = None if isinstance(found, str) else found
        source = open_source(self.data, image_size=size, channels=bands)
        self.real["train"] = features_of(source, "train", self.wanted.data_images, self.extract, cache)
        if self.inception is not None:
            self.real["inception"] = features_of(source, "train", self.wanted.data_images, self.inception, cache)
        if has_test_split(self.data):
            test = open_source(self.data, image_size=size, channels=bands, split="test")
            self.real["test"] = features_of(test, "test", self.wanted.images, self.extract, cache)
        self.facts |= {
            "features": self.extract.name,
            "resize": self.extract.resize,
            "data": self.real["train"].text,
            "fid": found if isinstance(found, str) else f"{found.name}, {found.resize}",
        }

    def run(self) -> Report:
        """Measure every model. Take images and features that were computed before from the cache."""
        results = [self._result(candidate) for candidate in self.candidates]
        if "test" in self.real:
            results.append(self._test_result())
        self.facts |= {"reference": self.reference.id, **machine()}
        return Report(sorted(results, key=lambda result: (result.evaluations, result.model)), self.facts)

    def _result(self, candidate: Candidate) -> Result:
        at_all_steps = candidate.method.partition(",")[0] == TEACHER  # guided or not
        count = self.wanted.teacher_images if at_all_steps else self.wanted.images
        first = self.wanted.first_index
        is_reference = candidate.key == self.reference.key
        seeds = 0 if is_reference or first else self.wanted.seeds
        metrics: dict[str, float] = {}
        if self.judge is not None:
            metrics["class_agreement"] = self._class_agreement(candidate, count)
        subsets: list[float] = []
        features = None
        if self.extract is not None:
            features = image_features(self.images, candidate, self.starts, max(count, seeds), self.extract, first)
            measured, subsets = self._distances(features[:count], candidate.classes)
            metrics |= measured
        if self.inception is not None:
            wide = image_features(self.images, candidate, self.starts, count, self.inception, first)
            metrics["fid"] = distances.frechet(wide, self.real["inception"].features)
        decibels: list[float] = []
        if seeds:
            agreement, each = self._agreement(candidate, self.starts, seeds, features)
            metrics |= agreement
            decibels = each.round(2).tolist()
        if self.wanted.paths:
            metrics |= self._path_metrics(candidate, is_reference)
        for originals in self.originals:
            if not is_reference:
                metrics |= self._reconstruction(candidate, originals)
        if self.wanted.timing:
            if candidate.weights not in self.step_seconds:
                self.step_seconds[candidate.weights] = step_seconds(self.images.network(candidate), candidate)
            metrics |= time_per_image(self.step_seconds[candidate.weights], len(candidate.plan))
        return Result(
            model=candidate.id,
            method=candidate.method,
            plan=candidate.name,
            evaluations=candidate.evaluations,
            images=count,
            seeds=seeds,
            metrics=metrics,
            kid_subsets=subsets,
            facts=candidate.facts,
            reference="" if is_reference or first else self.reference.id,
            psnr=decibels,
            first_index=first,
        )

    def _test_result(self) -> Result:
        """Measure the data set's own test images. A perfect model would be as close to the training images as these."""
        test = self.real["test"]
        metrics, subsets = self._distances(test.features, classes=0)
        facts = TableFacts(kind="data", data=test.text)
        return Result(
            model="test images",
            method=REAL_IMAGES,
            plan="",
            evaluations=0,
            images=len(test.features),
            seeds=0,
            metrics=metrics,
            kid_subsets=subsets,
            facts=facts,
        )

    def _class_agreement(self, candidate: Candidate, count: int) -> float:
        assert self.judge is not None
        right, number = 0, self.wanted.first_index
        for images in self.images.chunks(candidate, self.starts, count, number):
            wanted = labels_for(np.arange(number, number + len(images)), candidate.classes)
            right += int((self.judge.predict(images) == wanted).sum())
            number += len(images)
        return right / count

    def _distances(self, features: Float32, classes: int) -> tuple[dict[str, float], list[float]]:
        real = self.real["train"].features
        subsets = distances.kid_subsets(features, real, classes)
        kid, low, high = distances.mean_interval(subsets)
        same = min(len(features), len(real))
        precision, recall = distances.precision_recall(ours=features[:same], reference=real[:same])
        metrics = {"kid": kid, "kid_low": low, "kid_high": high, "fd": distances.frechet(features, real)}
        return {**metrics, "precision": precision, "recall": recall, "neighbourhood": float(same)}, subsets.tolist()

    def _agreement(
        self, candidate: Candidate, starts: Starts, count: int, features: Float32 | None
    ) -> tuple[dict[str, float], Float64]:
        """Return the metrics of agreement with the reference, and the PSNR of each image."""
        metrics, decibels = pixel_agreement(self._pairs(candidate, starts, count))
        if self.extract is not None:
            if features is None:
                features = image_features(self.images, candidate, starts, count, self.extract)
            theirs = image_features(self.images, self.reference, starts, count, self.extract)
            metrics |= feature_agreement(features[:count], theirs)
        return metrics, decibels

    def _pairs(self, candidate: Candidate, starts: Starts, count: int) -> Iterator[tuple[UInt8, UInt8]]:
        # Compute all images of the reference first, because only one network is loaded at a time.
        self.images.ensure(self.reference, starts, count)
        yield from zip(
            self.images.chunks(candidate, starts, count), self.images.chunks(self.reference, starts, count), strict=True
        )

    def _path_metrics(self, candidate: Candidate, is_reference: bool) -> dict[str, float]:
        starts, count = PathStarts(self.wanted.seed, self.wanted.frames), self.wanted.paths * self.wanted.frames
        metrics = {}
        if not is_reference:
            metrics["path_psnr_db"] = pixel_agreement(self._pairs(candidate, starts, count))[0]["psnr_db"]
        if self.extract is not None:
            metrics |= smoothness(image_features(self.images, candidate, starts, count, self.extract), self.wanted.frames)
        return metrics

    def _reconstruction(self, candidate: Candidate, originals: Originals) -> dict[str, float]:
        starts = originals.starts(nearest_step(candidate.phi, self.wanted.reconstruct_from), self.wanted.seed)
        count = len(originals.images)
        named, _ = self._agreement(candidate, starts, count, None)
        kept: dict[str, float] = {key: named[key] for key in ("psnr_db", "ssim", "cosine") if key in named}
        for model, key in ((candidate, "original_db"), (self.reference, "reference_original_db")):
            kept[key] = float(psnr(self.images.first(model, starts, count), originals.images).mean())
        kept |= {
            "step": float(starts.step),
            "steps_left": float(np.count_nonzero((candidate.phi > 0) & (candidate.phi <= starts.step))),
        }
        return {f"from_{originals.name}_{key}": number for key, number in kept.items()}
