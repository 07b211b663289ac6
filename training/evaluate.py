"""Measuring the models of a zoo as they are served: class agreement, and agreement with the teacher from the same noise.

Image i of every model starts from the noise of (seed, i) and asks for class i mod (number of classes). Images are kept
under a cache folder in chunks, so a measurement that was stopped goes on where it was, and memory does not grow.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue, Resolved, discover
from models.manifest import Manifest, Quality, Ranking, write_manifest
from training.agreement import psnr, rmse, ssim
from training.card import model_card
from training.classifier import Classifier, load_classifier
from training.errors import TrainingError
from training.figure import labelled_rows
from training.onnx_model import OnnxModel
from training.progress import Progress
from training.sampling import to_uint8

CHUNK = 50  # images computed, kept and resumed together

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One line of the table. PSNR and SSIM are against the teacher's own images from the same noise."""

    model: str
    evaluations: int
    images: int
    class_agreement: float | None
    seeds: int
    psnr_db: float | None
    psnr_p10_db: float | None
    ssim: float | None
    rmse: float | None


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    images: int = 1000
    teacher_images: int = 300
    seeds: int = 200
    seed: int = 0
    solvers: tuple[str, ...] = ("ddim", "dpmpp")


class Images:
    """Images of resolved models, computed chunk by chunk and kept on disk under the graph's hash and the plan."""

    def __init__(self, cache: Path, seed: int) -> None:
        self.cache, self.seed = cache, seed
        self._loaded: tuple[Path, OnnxModel] | None = None

    def get(self, model: Resolved, count: int) -> UInt8:
        """The first `count` images: uint8 [count,C,H,W]."""
        manifest = model.entry.manifest
        folder = self.cache / f"{manifest.sha256[:16]}-{model.sampler}-{len(model.plan):04d}-seed{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, count, CHUNK)
        missing = [start for start in starts if not (folder / f"{start:06d}.npy").exists()]
        with Progress(model.id, len(missing) * CHUNK * len(model.plan), unit="evaluations", enabled=bool(missing)) as progress:
            for start in missing:
                self._compute(model, folder / f"{start:06d}.npy", start, progress)
        return np.concatenate([np.load(folder / f"{start:06d}.npy") for start in starts])[:count]

    def _compute(self, model: Resolved, path: Path, start: int, progress: Progress) -> None:
        manifest = model.entry.manifest
        pairs = [(self.seed, index) for index in range(start, start + CHUNK)]
        label = labels_for(pairs, len(manifest.classes))
        images = self._session(model).run_plan(model.plan, pairs, manifest.image.chw, label, progress.advance)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "wb") as file:
            np.save(file, to_uint8(images))
        temporary.replace(path)

    def _session(self, model: Resolved) -> OnnxModel:
        if self._loaded is None or self._loaded[0] != model.entry.graph:
            self._loaded = (model.entry.graph, OnnxModel(model.entry.graph))
        return self._loaded[1]


def labels_for(pairs: list[tuple[int, int]], classes: int) -> NDArray[np.int64] | None:
    """Class of each (seed, index): index mod classes, int64 [N]; None for an unconditional model."""
    return np.array([index % classes for _, index in pairs], dtype=np.int64) if classes else None


def measure(zoo: Path, family: str, plan: Plan, cache: Path, data: str | None) -> tuple[list[Row], dict[str, float]]:
    """Every model of a family, and the teacher's solver variants at the students' step counts.

    Returns the rows and the facts they rest on (classifier accuracy). Raises TrainingError without a teacher.
    """
    catalogue = discover([zoo])
    members = [entry for entry in catalogue.entries.values() if entry.manifest.family == family]
    teachers = [entry for entry in members if entry.manifest.kind == "teacher"]
    if len(teachers) != 1:
        reasons = "; ".join(refusal.reason for refusal in catalogue.refusals)
        raise TrainingError(
            f"{zoo}/{family} needs exactly one teacher, found {len(teachers)}{'; ' + reasons if reasons else ''}"
        )
    teacher = teachers[0]
    image = teacher.manifest.image
    judge = None
    if teacher.manifest.classes:
        judge = load_classifier(
            data or teacher.manifest.provenance.data, cache, image_size=image.height, channels=image.channels
        )
    images = Images(cache, plan.seed)
    reference = images.get(catalogue.resolve(teacher.id), max(plan.seeds, plan.teacher_images))
    rows = []
    for model, count in _models(catalogue, [entry.id for entry in members], teacher.id, plan):
        made = images.get(model, max(count, plan.seeds))
        is_reference = model.id == teacher.id
        rows.append(_row(model, made, count, judge, None if is_reference else reference[: plan.seeds]))
    facts = {} if judge is None else {"classifier_accuracy": judge.accuracy}
    return sorted(rows, key=lambda row: (row.evaluations, row.model)), facts


def draw(zoo: Path, family: str, plan: Plan, cache: Path, rows: list[Row], path: Path, columns: int = 12) -> None:
    """The first images of every measured model, from the same noises, as one labelled picture."""
    catalogue, images = discover([zoo]), Images(cache, plan.seed)
    made = [(row.model.removeprefix(f"{family}/"), images.get(catalogue.resolve(row.model), columns)) for row in reversed(rows)]
    labelled_rows(made, path)


def _models(catalogue: Catalogue, members: list[str], teacher: str, plan: Plan) -> list[tuple[Resolved, int]]:
    """What to measure, and on how many images."""
    chosen = [(catalogue.resolve(teacher), plan.teacher_images)]
    students = [catalogue.resolve(member) for member in members if member != teacher]
    chosen += [(student, plan.images) for student in students]
    counts = sorted({len(student.plan) for student in students})
    chosen += [(catalogue.resolve(f"{teacher}@{solver}-{n:03d}"), plan.seeds) for n in counts for solver in plan.solvers]
    return chosen


def _row(model: Resolved, made: UInt8, count: int, judge: Classifier | None, reference: UInt8 | None) -> Row:
    agreement = None
    if judge is not None:
        wanted = np.arange(count) % len(model.entry.manifest.classes)
        agreement = float((judge.predict(made[:count]) == wanted).mean())
    if reference is None:
        return Row(model.id, len(model.plan), count, agreement, 0, None, None, None, 0.0)
    ours = made[: len(reference)]
    decibels = psnr(ours, reference)
    return Row(
        model=model.id,
        evaluations=len(model.plan),
        images=count,
        class_agreement=agreement,
        seeds=len(reference),
        psnr_db=float(decibels.mean()),
        psnr_p10_db=float(np.quantile(decibels, 0.1)),
        ssim=float(ssim(ours, reference).mean()),
        rmse=rmse(ours, reference),
    )


def record(zoo: Path, rows: list[Row], command: str) -> None:
    """Write the measured quality into the manifests and model cards of the zoo."""
    catalogue = discover([zoo])
    manifests: dict[Path, Manifest] = {}
    for row in rows:
        model = catalogue.resolve(row.model)
        manifest = manifests.get(model.entry.folder, model.entry.manifest)
        metrics = {
            name: round(value, 4)
            for name, value in asdict(row).items()
            if name in ("class_agreement", "psnr_db", "psnr_p10_db", "ssim", "rmse") and value is not None
        }
        quality = Quality(images=row.images, metrics=metrics, command=command)
        plans = {**manifest.quality, f"{model.sampler}-{len(model.plan):03d}": quality}
        update = {"quality": dict(sorted(plans.items())), "ranking": Ranking(metric="rmse", better="lower")}
        manifests[model.entry.folder] = manifest.model_copy(update=update)
    for folder, manifest in manifests.items():
        write_manifest(folder, manifest)
        (folder / "README.md").write_text(model_card(manifest))


def write_report(path: Path, rows: list[Row], facts: dict[str, float], plan: Plan, command: str) -> None:
    """One JSON a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": command, "plan": asdict(plan), **facts, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n")
