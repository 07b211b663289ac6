"""The places where results are kept: one JSON a run, and the manifests and model cards of the zoo."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.catalogue import discover
from models.files import write_atomically
from models.manifest import Manifest, Quality, Ranking, write_manifest
from training.card import model_card
from training.errors import TrainingError
from training.evaluation.distances import SUBSETS
from training.evaluation.result import Measurements, Report, Result

# Manifests carry quality only. Times belong to one machine; the estimates behind intervals are in the run's JSON.
OF_IMAGES = (
    "kid",
    "kid_low",
    "kid_high",
    "fd",
    "fid",
    "precision",
    "recall",
    "class_agreement",
)  # over a result's N images
OF_PAIRS = ("psnr_db", "psnr_p10_db", "ssim", "rmse", "cosine", "same_noise")  # over pairs with the result's reference
_AND = " && "  # between the commands that a manifest's metrics come from


@dataclass(frozen=True)
class EvaluationRun:
    """One measured run as its JSON holds it. ablation: the heading of its table, empty for a run of the main tables."""

    family: str
    ablation: str
    command: str
    measurements: dict[str, Any]  # those of the version that wrote the file; "plan" in the JSON
    facts: dict[str, Any]
    results: list[Result]  # "rows" in the JSON


def write_run(path: Path, family: str, report: Report, measurements: Measurements, command: str, ablation: str = "") -> None:
    """Write the run's JSON atomically, one line a result. Raises TrainingError when the disk refuses."""
    shown = {"family": family, "ablation": ablation, "command": command}
    head = {**shown, "plan": asdict(measurements), "facts": report.facts}
    lines = ",\n  ".join(json.dumps(asdict(result)) for result in report.results)
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "rows": [\n  {lines}\n ]\n}}\n'
    try:
        with write_atomically(path) as draft:
            draft.write_text(text)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; choose another --out, what was computed is in the cache") from error


def read_run(path: Path) -> EvaluationRun:
    """Read a run's JSON. Raises TrainingError for any other file."""
    try:
        data = json.loads(path.read_text())
        shared = data["facts"].get("reference", "")  # results of older reports do not repeat it
        results = [Result(**{"reference": shared if "psnr_db" in row["metrics"] else "", **row}) for row in data["rows"]]
        if not isinstance(data["facts"]["reference"], str) or not all(isinstance(result.facts, dict) for result in results):
            raise ValueError("no reference, or facts that are none")
        if any("kid" in r.metrics and ("kid_low" not in r.metrics or len(r.kid_subsets) != SUBSETS) for r in results):
            raise ValueError(f"a KID without its interval or its {SUBSETS} estimates")
        numbers = [data["plan"]["seed"], data["plan"]["data_images"], *(result.first_index for result in results)]
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("a seed, first_index or data_images that is no number")
        head = {name: data[name] for name in ("family", "ablation", "command", "facts")}
        return EvaluationRun(**head, measurements=data["plan"], results=results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} is no report of this `sfddm-train evaluate` ({error}); measure again") from error


def record(zoo: Path, results: list[Result], command: str) -> None:
    """Add quality by plan to the manifests and model cards of the zoo. Results of other models are ignored.

    Agreement in a manifest is with the family's teacher at all of its steps. Agreement with another reference is only in the
    reports. A family is ranked by KID once every measured model in it has one, until then by RMSE to the teacher.
    """
    catalogue = discover([zoo])
    before = {owner: entry.manifest for owner, entry in catalogue.entries.items()}
    after = dict(before)
    for result in results:
        manifest = after.get(result.model.partition("@")[0])
        if manifest is None:
            continue
        teacher = next(m.id for m in before.values() if (m.family, m.kind) == (manifest.family, "teacher"))
        names = OF_IMAGES if result.reference not in ("", teacher) else (*OF_IMAGES, *OF_PAIRS)
        metrics = {name: float(f"{result.metrics[name]:.6g}") for name in names if name in result.metrics}
        if result.model == teacher:
            metrics.setdefault("rmse", 0.0)  # to itself
        measured = added(manifest.quality.get(result.plan), Quality(images=result.images, metrics=metrics, command=command))
        plans = dict(sorted({**manifest.quality, result.plan: measured}.items()))
        after[manifest.id] = manifest.model_copy(update={"quality": plans})
    for family in {after[owner].family for owner in after if after[owner] is not before[owner]}:
        _rank([manifest for manifest in after.values() if manifest.family == family and manifest.quality], after)
    for owner in after:
        if after[owner] is not before[owner]:
            folder = catalogue.entries[owner].folder
            write_manifest(folder, after[owner])
            with write_atomically(folder / "README.md") as draft:
                draft.write_text(model_card(after[owner]))


def added(old: Quality | None, new: Quality) -> Quality:
    """Return `new` with those metrics of `old` that it lacks.

    Metrics of N images stay together, so that `images` holds for all of them: those measured with a KID, else the new ones.
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
    """Set one ranking metric for all measured models of a family, because values of two metrics cannot be compared."""
    own = (m.quality.get(m.plan_name) for m in members)
    by_kid = all(quality is None or "kid" in quality.metrics for quality in own)
    ranking = Ranking(metric="kid" if by_kid else "rmse", better="lower")
    manifests |= {m.id: m.model_copy(update={"ranking": ranking}) for m in members if m.ranking != ranking}
