"""docs/results.md and its curves, rendered from the JSON of every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from training.errors import TrainingError
from training.evaluation import tables
from training.evaluation.curves import draw_curves
from training.evaluation.facts import REAL_IMAGES
from training.evaluation.parts import check_one_model, pooled
from training.evaluation.record import EvaluationRun, read_run
from training.evaluation.result import Result
from training.evaluation.verdicts import PROGRESSIVE, STUDENT, Verdict, aims, verdicts

_OF_THE_PAPER = {
    "holds": "reproduced",
    "holds where measured": "reproduced where measured",
    "holds in part": "reproduced in part",
    "does not hold": "not reproduced",
}

_NUMBERS = """\
By evaluations: the difference in KID times 1000, paired by subset where both rows have as many images, or in PSNR, paired by
seed, with its 95 % interval in brackets. A claim holds at a count where the whole interval is on its side; a tie is no support.
Intervals are not widened for the number of comparisons in a claim."""


def write_results(folder: Path, out: Path, command: str) -> None:
    """Render every *.json of `folder` into `out` (Markdown), with a picture of curves for each family beside it.

    The text of `folder`/notes.md, written by hand, comes before the tables.
    Raises TrainingError when there is nothing to render or a file is not a report.
    """
    runs = [read_run(path) for path in sorted(folder.glob("*.json"))]
    if not runs:
        raise TrainingError(f"{folder} holds no reports; `sfddm-train evaluate ... --out {folder}/NAME.json` writes them")
    intro = f"Written by `{command}` from the runs' own reports in `{folder}`: change those, not this page."
    notes = folder / "notes.md"
    try:
        words = [notes.read_text(encoding="utf-8").strip()] if notes.is_file() else []
    except UnicodeDecodeError as error:
        raise TrainingError(f"{notes} is not UTF-8 ({error}); save it as UTF-8") from error
    parts = ["# Results", intro, *words, "## How to read the tables", tables.LEGEND]
    for family in dict.fromkeys(run.family for run in runs):
        picture = out.with_name(f"{out.stem}-{family}.png")
        parts += _family(family, [run for run in runs if run.family == family], picture)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _family(family: str, runs: Sequence[EvaluationRun], picture: Path) -> list[str]:
    main_runs = [run for run in runs if not run.ablation]
    ablations = [run for run in runs if run.ablation]
    if not _comparable(main_runs):
        raise TrainingError(
            f"the reports of {family} differ in --seed, --data-images, data or features, so that they cannot share a table; "
            "measure them alike, or give those that differ an --ablation heading"
        )
    main = merged(main_runs)
    other = _whole([result for run in ablations if _comparable([*main_runs, run]) for result in run.results])
    every = list({result.model: result for result in [*other, *main]}.values())
    parts, told = [f"## {family}"], set[str]()
    if main:
        draw_curves(main, picture)
        parts += [*_basis(main_runs, told), *_main_tables(main)]
        if picture.exists():
            parts.insert(2, f"![Quality against network evaluations]({picture.name})")
    for heading in dict.fromkeys(run.ablation for run in ablations):
        same = [run for run in ablations if run.ablation == heading]
        results = _ordered(_whole([result for run in same for result in run.results]))
        parts += [f"### Ablation: {heading}", *_basis(same, told), tables.ablation(results), *_reconstructions(results)]
    folded = {result.evaluations for result in main if result.method == PROGRESSIVE}
    folds = [result for result in main if result.method in (STUDENT, PROGRESSIVE) and result.evaluations in folded]
    if folds:
        shown = ["model", "evaluations", *(name for name, _ in tables.TRAINING), "KID", "PSNR dB", "cosine"]
        columns = [column for name in shown for column in dict.fromkeys([*tables.COST, *tables.QUALITY]) if column[0] == name]
        parts += ["### Single fold against progressive distillation", tables.table(_ordered(folds), columns)]
    parts += ["### The paper's claims", _NUMBERS, _verdicts(verdicts(main, every), _OF_THE_PAPER)]
    return [*parts, "### Our aims", _verdicts(aims(main), {})]


def _comparable(runs: Sequence[EvaluationRun]) -> bool:
    """Return True when runs have the same seed and, if they have distances, the same training images and features."""
    counts = {run.measurements["data_images"] for run in runs} - {0}
    bases = {tuple(run.facts.get(name) for name in ("data", "features", "resize")) for run in runs if "features" in run.facts}
    return len({run.measurements["seed"] for run in runs}) <= 1 and len(counts) <= 1 and len(bases) <= 1


def merged(runs: Sequence[EvaluationRun]) -> list[Result]:
    """Return the results of several runs in order, one a model.

    - Of the results of a model, the best one counts. These count most, in this order: a KID, images from 0 on, a reference that
      is guided exactly if the model is, more images, a later run.
    - Metrics that the best result lacks are taken from the others if they do not depend on its N. These are the times and, if
      the reference is the same, the metrics of paths and noised images.
    - Results of further images are pooled with the best result.
    """
    results = [result for run in runs for result in run.results]
    made = []
    for model in dict.fromkeys(result.model for result in results):
        mine = [result for result in results if result.model == model]
        check_one_model(mine)
        best = max(reversed(mine), key=lambda r: ("kid" in r.metrics, r.first_index == 0, _alike(r), r.images))
        more: dict[str, float] = {}
        for result in mine:
            kept = ("ms_", "best_batch") if result.reference != best.reference else ("ms_", "best_batch", "path_", "from_")
            more |= {name: value for name, value in result.metrics.items() if name.startswith(kept)}
        made.append(pooled(replace(best, metrics={**more, **best.metrics}), [result for result in mine if result.first_index]))
    return _ordered(made)


def _whole(results: Sequence[Result]) -> list[Result]:
    """Pool every result from image 0 on with the parts of its model. Keep the parts of a model without such a result."""
    made = []
    for result in results:
        others = [
            other for other in results if other.model == result.model and bool(other.first_index) != bool(result.first_index)
        ]
        if result.first_index == 0:
            check_one_model([result, *others])
            made.append(pooled(result, others))
        elif not others:
            made.append(result)
    return made


def _alike(result: Result) -> bool:
    """Return True when model and reference are both guided, or both not guided."""
    return result.method.endswith(", guided") == ("/guided:" in result.reference)


def _ordered(results: Iterable[Result]) -> list[Result]:
    return sorted(results, key=lambda result: (result.evaluations, result.model))


def _main_tables(results: Sequence[Result]) -> list[str]:
    parts = []
    if any("kid" in result.metrics for result in results):
        parts += ["### KID times 1000 by method and evaluations", tables.pivot(results, tables.kid)]
    for reference in tables.references(results):
        agreement = tables.pivot([result for result in results if result.reference == reference], tables.agreement)
        parts += [f"### Agreement with {reference} by method and evaluations: PSNR dB (SSIM)", agreement]
    parts += ["### Everything measured", tables.quality(results)]
    parts += ["### Cost", tables.table([result for result in results if result.method != REAL_IMAGES], tables.COST)]
    paths = [result for result in results if "path_max_step" in result.metrics or "path_psnr_db" in result.metrics]
    if paths:
        parts += ["### Interpolation between two noises", tables.table(paths, tables.PATHS)]
    return [*parts, *_reconstructions(results)]


def _reconstructions(results: Sequence[Result]) -> list[str]:
    parts = []
    for name, text in tables.reconstructions(results):
        parts += [f"### From noised images ({name}): agreement with the reference from the same x", text]
    return parts


def _basis(runs: Sequence[EvaluationRun], told: set[str]) -> list[str]:
    """List the commands of runs. Each is followed by its seed, its reference, and its other facts unless `told` has them."""
    parts = []
    for run in runs:
        facts = run.facts
        first = run.measurements.get("first_index", 0)
        source = f"images from seed {run.measurements['seed']}"
        source += f", number {first:,} and on" if first else f"; agreement with {facts['reference']}"
        words = []
        if "features" in facts:
            words += [f"features {facts['features']}", facts["resize"], f"against {facts['data']}", facts["fid"]]
        if "classifier_accuracy" in facts:
            words.append(f"classifier right on {facts['classifier_accuracy']:.1%} of held-out images")
        if any("ms_alone" in result.metrics for result in run.results):
            words.append(
                f"times on {facts['cores']} cores of {facts['machine']}, accelerator {facts['accelerator']}, "
                f"load {facts['load']} when the run ended"
            )
        rest = "; ".join(words)
        parts += [f"    {run.command}", f"{source}{f'; {rest}' if rest and rest not in told else ''}."]
        told.add(rest)
    return parts


def _verdicts(found: Sequence[Verdict], words: dict[str, str]) -> str:
    lines = [f"| {v.claim} | **{words.get(v.verdict, v.verdict)}** | {v.evidence} |" for v in found]
    return "\n".join(["| claim | verdict | numbers |", "|---|---|---|", *lines])
