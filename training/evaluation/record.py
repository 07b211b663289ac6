"""Reading and writing of results: one JSON for each run, and the manifests and model cards of the zoo."""

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
from training.evaluation.result import Measurements, Report, Result, TableFacts

# Manifests hold quality only: times belong to one machine, and the estimates behind intervals are in the run's JSON.
OF_IMAGES = (
    "kid",
    "kid_low",
    "kid_high",
    "fd",
    "fid",
    "precision",
    "recall",
    "class_agreement",
)  # metrics over the N images of a result
OF_PAIRS = ("psnr_db", "psnr_p10_db", "ssim", "rmse", "cosine", "same_noise")  # over pairs with the reference's images
_AND = " && "  # between the commands that a manifest's metrics come from


@dataclass(frozen=True)
class EvaluationRun:
    """One measured run, as in its JSON. ablation: the heading of its own table; empty for a run of the main tables."""

    family: str
    ablation: str
    command: str
    measurements: dict[str, Any]  # fields of the version that wrote the file; "plan" in the JSON
    facts: dict[str, Any]
    results: list[Result]  # "rows" in the JSON


def write_run(path: Path, family: str, report: Report, measurements: Measurements, command: str, ablation: str = "") -> None:
    """Write the run's JSON atomically, one line a result. Raises TrainingError when it cannot be written."""
    shown = {"family": family, "ablation": ablation, "command": command}
    head = {**shown, "plan": asdict(measurements), "facts": report.facts}
    lines = ",\n  ".join(json.dumps({**asdict(result), "facts": result.facts.known}) for result in report.results)
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "rows": [\n  {lines}\n ]\n}}\n'
    try:
        with write_atomically(path) as draft:
            draft.write_text(text)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; choose another --out, what was computed is in the cache") from error


def read_run(path: Path) -> EvaluationRun:
    """Read a run's JSON. Raises TrainingError when the file is no such JSON."""
    try:
        data = json.loads(path.read_text())
        shared = data["facts"].get("reference", "")  # results of older reports do not repeat it
        rows = [{"reference": shared if "psnr_db" in row["metrics"] else "", "facts": {}, **row} for row in data["rows"]]
        if not isinstance(data["facts"]["reference"], str) or not all(isinstance(row["facts"], dict) for row in rows):
            raise ValueError("no reference, or facts that are none")
        results = [Result(**{**row, "facts": TableFacts.model_validate(row["facts"])}) for row in rows]
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
    """Add the results to the manifests and model cards of the zoo, by plan. Results of other models are ignored.

    A manifest holds agreement with the family's teacher at all of its steps; agreement with other references is only in the
    run's JSON. A family is ranked by KID if all of its measured models have one, else by RMSE to the teacher.
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
            metrics.setdefault("rmse", 0.0)  # the teacher agrees with itself
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

    `images` must hold for all metrics over N images. If `images` differs, only one set of these is kept: the new set, unless
    only the old set has a KID.
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
    """Set one ranking metric for all measured models of a family. Models can only be ranked by the same metric."""
    own = (m.quality.get(m.plan_name) for m in members)
    by_kid = all(quality is None or "kid" in quality.metrics for quality in own)
    ranking = Ranking(metric="kid" if by_kid else "rmse", better="lower")
    manifests |= {m.id: m.model_copy(update={"ranking": ranking}) for m in members if m.ranking != ranking}
