"""docs/results.md and its curves, out of the JSONs of every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from training.errors import TrainingError
from training.evaluation import tables
from training.evaluation.curves import draw_curves
from training.evaluation.measure import Row
from training.evaluation.parts import check_one_model, pooled
from training.evaluation.record import Run, read_run
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
    """Render every *.json of `folder` into `out` (Markdown) and `out`'s curves beside it, one picture a family.

    What `folder`/notes.md says, written by hand, comes before the tables.
    Raises TrainingError when there is nothing to render or a file is no report.
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


def _family(family: str, runs: Sequence[Run], picture: Path) -> list[str]:
    main_runs = [run for run in runs if not run.ablation]
    ablations = [run for run in runs if run.ablation]
    if not _comparable(main_runs):
        raise TrainingError(
            f"the reports of {family} differ in --seed, --data-images, data or features, so that they cannot share a table; "
            "measure them alike, or give those that differ an --ablation heading"
        )
    main = merged(main_runs)
    other = _whole([row for run in ablations if _comparable([*main_runs, run]) for row in run.rows])
    every = list({row.model: row for row in [*other, *main]}.values())
    parts, told = [f"## {family}"], set[str]()
    if main:
        draw_curves(main, picture)
        parts += [*_basis(main_runs, told), *_main_tables(main)]
        if picture.exists():
            parts.insert(2, f"![Quality against network evaluations]({picture.name})")
    for heading in dict.fromkeys(run.ablation for run in ablations):
        same = [run for run in ablations if run.ablation == heading]
        rows = _ordered(_whole([row for run in same for row in run.rows]))
        parts += [f"### Ablation: {heading}", *_basis(same, told), tables.ablation(rows), *_reconstructions(rows)]
    folded = {row.evaluations for row in main if row.method == PROGRESSIVE}
    folds = [row for row in main if row.method in (STUDENT, PROGRESSIVE) and row.evaluations in folded]
    if folds:
        shown = ["model", "evaluations", *(name for name, _ in tables.TRAINING), "KID", "PSNR dB", "cosine"]
        columns = [column for name in shown for column in dict.fromkeys([*tables.COST, *tables.QUALITY]) if column[0] == name]
        parts += ["### Single fold against progressive distillation", tables.table(_ordered(folds), columns)]
    parts += ["### The paper's claims", _NUMBERS, _verdicts(verdicts(main, every), _OF_THE_PAPER)]
    return [*parts, "### Our aims", _verdicts(aims(main), {})]


def _comparable(runs: Sequence[Run]) -> bool:
    """Whether runs share their noises and, those with distances, the training images and the features."""
    counts = {run.plan["data_images"] for run in runs} - {0}
    bases = {tuple(run.facts.get(name) for name in ("data", "features", "resize")) for run in runs if "features" in run.facts}
    return len({run.plan["seed"] for run in runs}) <= 1 and len(counts) <= 1 and len(bases) <= 1


def merged(runs: Sequence[Run]) -> list[Row]:
    """Rows of several runs, ordered, one a model: of those with a KID the one with more images, the later one of equals.

    Guided models prefer a row whose reference is guided too, plain ones a plain one. What the row lacks and does not rest on
    its N comes from the others: paths and noised images with the same reference, and times. Rows of further images join it.
    """
    rows = [row for run in runs for row in run.rows]
    made = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        check_one_model(mine)
        best = max(reversed(mine), key=lambda row: ("kid" in row.metrics, row.first_index == 0, _alike(row), row.images))
        more: dict[str, float] = {}
        for row in mine:
            kept = ("ms_", "best_batch") if row.reference != best.reference else ("ms_", "best_batch", "path_", "from_")
            more |= {name: value for name, value in row.metrics.items() if name.startswith(kept)}
        made.append(pooled(replace(best, metrics={**more, **best.metrics}), [row for row in mine if row.first_index]))
    return _ordered(made)


def _whole(rows: Sequence[Row]) -> list[Row]:
    """The rows that start at image 0, each with the parts of its model, and parts of models that have no such row."""
    made = []
    for row in rows:
        others = [other for other in rows if other.model == row.model and bool(other.first_index) != bool(row.first_index)]
        if row.first_index == 0:
            check_one_model([row, *others])
            made.append(pooled(row, others))
        elif not others:
            made.append(row)
    return made


def _alike(row: Row) -> bool:
    """Whether a row is guided as its reference is."""
    return row.method.endswith(", guided") == ("/guided:" in row.reference)


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.evaluations, row.model))


def _main_tables(rows: Sequence[Row]) -> list[str]:
    parts = []
    if any("kid" in row.metrics for row in rows):
        parts += ["### KID times 1000 by method and evaluations", tables.pivot(rows, tables.kid)]
    for reference in tables.references(rows):
        agreement = tables.pivot([row for row in rows if row.reference == reference], tables.agreement)
        parts += [f"### Agreement with {reference} by method and evaluations: PSNR dB (SSIM)", agreement]
    parts += ["### Everything measured", tables.quality(rows)]
    parts += ["### Cost", tables.table([row for row in rows if row.method != tables.TEST], tables.COST)]
    paths = [row for row in rows if "path_max_step" in row.metrics or "path_psnr_db" in row.metrics]
    if paths:
        parts += ["### Interpolation between two noises", tables.table(paths, tables.PATHS)]
    return [*parts, *_reconstructions(rows)]


def _reconstructions(rows: Sequence[Row]) -> list[str]:
    parts = []
    for name, text in tables.reconstructions(rows):
        parts += [f"### From noised images ({name}): agreement with the reference from the same x", text]
    return parts


def _basis(runs: Sequence[Run], told: set[str]) -> list[str]:
    """The commands of runs, each followed by its noises and reference, and by what else it rests on unless `told` before."""
    parts = []
    for run in runs:
        facts = run.facts
        first = run.plan.get("first_index", 0)
        source = f"images from seed {run.plan['seed']}"
        source += f", number {first:,} and on" if first else f"; agreement with {facts['reference']}"
        words = []
        if "features" in facts:
            words += [f"features {facts['features']}", facts["resize"], f"against {facts['data']}", facts["fid"]]
        if "classifier_accuracy" in facts:
            words.append(f"classifier right on {facts['classifier_accuracy']:.1%} of held-out images")
        if any("ms_alone" in row.metrics for row in run.rows):
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
