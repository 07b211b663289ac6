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
from training.evaluation.distances import SUBSETS
from training.evaluation.measure import Plan, Report, Row

# What manifests carry: quality. Times belong to a machine, intervals' raw material to the run's JSON.
OF_IMAGES = ("kid", "kid_low", "kid_high", "fd", "fid", "precision", "recall", "class_agreement")  # rest on a row's N images
OF_PAIRS = ("psnr_db", "psnr_p10_db", "ssim", "rmse", "cosine", "same_noise")  # agreement with the row's reference
_AND = " && "  # between the commands that a manifest's metrics come from


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
    """Write the run's JSON, a line a row, whole or not at all. Raises TrainingError when the disk refuses."""
    head = {"family": family, "ablation": ablation, "command": command, "plan": asdict(plan), "facts": report.facts}
    rows = ",\n  ".join(json.dumps(asdict(row)) for row in report.rows)
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "rows": [\n  {rows}\n ]\n}}\n'
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; choose another --out, what was computed is in the cache") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_run(path: Path) -> Run:
    """A run's JSON. Raises TrainingError for a file that is none."""
    try:
        data = json.loads(path.read_text())
        shared = data["facts"].get("reference", "")  # rows of older reports do not repeat it
        rows = [Row(**{"reference": shared if "psnr_db" in row["metrics"] else "", **row}) for row in data.pop("rows")]
        if not isinstance(data["facts"]["reference"], str) or not all(isinstance(row.facts, dict) for row in rows):
            raise ValueError("no reference, or facts that are none")
        if any("kid" in row.metrics and ("kid_low" not in row.metrics or len(row.kid_subsets) != SUBSETS) for row in rows):
            raise ValueError(f"a KID without its interval or its {SUBSETS} estimates")
        numbers = [data["plan"]["seed"], data["plan"]["data_images"], *(row.first_index for row in rows)]
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("a seed, first_index or data_images that is no number")
        return Run(**{name.name: data[name.name] for name in fields(Run) if name.name != "rows"}, rows=rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} is no report of this `sfddm-train evaluate` ({error}); measure again") from error


def record(zoo: Path, rows: list[Row], command: str) -> None:
    """Add quality by plan to the manifests and model cards of the zoo; rows of other models are passed over.

    Agreement in a manifest is with the family's teacher at all of its steps; with another reference it stays in the reports.
    A family is ranked by KID once every measured model in it has one, until then by RMSE to the teacher.
    """
    catalogue = discover([zoo])
    before = {owner: entry.manifest for owner, entry in catalogue.entries.items()}
    after = dict(before)
    for row in rows:
        manifest = after.get(row.model.partition("@")[0])
        if manifest is None:
            continue
        teacher = next(m.id for m in before.values() if (m.family, m.kind) == (manifest.family, "teacher"))
        names = OF_IMAGES if row.reference not in ("", teacher) else (*OF_IMAGES, *OF_PAIRS)
        metrics = {name: float(f"{row.metrics[name]:.6g}") for name in names if name in row.metrics}
        if row.model == teacher:
            metrics.setdefault("rmse", 0.0)  # to itself
        measured = added(manifest.quality.get(row.plan), Quality(images=row.images, metrics=metrics, command=command))
        plans = dict(sorted({**manifest.quality, row.plan: measured}.items()))
        after[manifest.id] = manifest.model_copy(update={"quality": plans})
    for family in {after[owner].family for owner in after if after[owner] is not before[owner]}:
        _rank([manifest for manifest in after.values() if manifest.family == family and manifest.quality], after)
    for owner in after:
        if after[owner] is not before[owner]:
            folder = catalogue.entries[owner].folder
            write_manifest(folder, after[owner])
            (folder / "README.md").write_text(model_card(after[owner]))


def added(old: Quality | None, new: Quality) -> Quality:
    """What is known after `new` was measured: its metrics, and those of `old` that it lacks.

    Metrics of N images stay together, so that `images` is true of all: those measured with a KID, of two the new ones.
    """
    if old is None or old.metrics.keys() <= new.metrics.keys():
        return new
    of_old, of_new = ({name: value for name, value in q.metrics.items() if name in OF_IMAGES} for q in (old, new))
    of_pairs = {name: value for q in (old, new) for name, value in q.metrics.items() if name in OF_PAIRS}
    keep = old.images != new.images and "kid" in of_old and "kid" not in of_new
    if old.images == new.images:
        of_new = {**of_old, **of_new}
    commands = dict.fromkeys([*old.command.split(_AND), *new.command.split(_AND)])
    return Quality(
        images=old.images if keep else new.images,
        metrics={**(of_old if keep else of_new), **of_pairs},
        command=_AND.join(commands),
    )


def _rank(members: list[Manifest], manifests: dict[str, Manifest]) -> None:
    """One metric for all measured models of a family, in `manifests`: values of two could not be compared."""
    own = (m.quality.get(m.plan_name) for m in members)
    by_kid = all(quality is None or "kid" in quality.metrics for quality in own)
    ranking = Ranking(metric="kid" if by_kid else "rmse", better="lower")
    manifests |= {m.id: m.model_copy(update={"ranking": ranking}) for m in members if m.ranking != ranking}
