"""Where measurements go: one JSON a run, and the manifests and model cards of the zoo."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from models.catalogue import discover
from models.manifest import Manifest, Quality, Ranking, write_manifest
from training.card import model_card
from training.errors import TrainingError
from training.evaluation.measure import Plan, Report, Row

# What manifests carry: quality. Times belong to a machine, intervals' raw material to the run's JSON.
MANIFEST_METRICS = ("kid", "kid_low", "kid_high", "fd", "fid", "precision", "recall", "class_agreement", "psnr_db",
                    "psnr_p10_db", "ssim", "rmse", "cosine", "same_noise")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One measured run as its JSON holds it. ablation: the heading of its table, empty for a run of the main tables."""

    family: str
    ablation: str
    command: str
    plan: dict[str, Any]
    facts: dict[str, Any]
    rows: list[Row]


def write_run(path: Path, family: str, report: Report, plan: Plan, command: str, ablation: str = "") -> None:
    """Write the run's JSON, whole or not at all. Raises TrainingError when the disk refuses."""
    run = Run(family, ablation, command, asdict(plan), report.facts, report.rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(run), indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; choose another --out, what was computed is in the cache") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_run(path: Path) -> Run:
    """A run's JSON. Raises TrainingError for a file that is none."""
    try:
        data = json.loads(path.read_text())
        rows = [Row(**row) for row in data.pop("rows")]
        return Run(**{name.name: data[name.name] for name in fields(Run) if name.name != "rows"}, rows=rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is no report of this `sfddm-train evaluate` ({error}); measure again") from error


def record(zoo: Path, rows: list[Row], command: str) -> None:
    """Write quality by plan into the manifests and model cards of the zoo; rows of other models are passed over.

    A model whose own plan has a KID is ranked by it, another by its RMSE to the teacher.
    """
    catalogue = discover([zoo])
    manifests: dict[str, Manifest] = {}
    for row in rows:
        owner = row.model.partition("@")[0]
        if owner not in catalogue.entries:
            continue
        manifest = manifests.get(owner, catalogue.entries[owner].manifest)
        metrics = {name: float(f"{row.metrics[name]:.6g}") for name in MANIFEST_METRICS if name in row.metrics}
        if row.model == owner and manifest.kind == "teacher":
            metrics.setdefault("rmse", 0.0)  # to itself
        quality = Quality(images=row.images, metrics=metrics, command=command)
        plans = dict(sorted({**manifest.quality, row.plan: quality}.items()))
        own = plans.get(f"ddim-{manifest.steps:03d}")
        by_kid = own is not None and "kid" in own.metrics
        ranking = Ranking(metric="kid" if by_kid else "rmse", better="lower")
        manifests[owner] = manifest.model_copy(update={"quality": plans, "ranking": ranking})
    for owner, manifest in manifests.items():
        folder = catalogue.entries[owner].folder
        write_manifest(folder, manifest)
        (folder / "README.md").write_text(model_card(manifest))
