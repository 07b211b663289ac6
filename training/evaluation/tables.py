"""Results as tables in Markdown, which are aligned for a terminal too. Every number comes from a result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from training.evaluation.facts import REAL_IMAGES
from training.evaluation.result import Result

Cell = Callable[[Result], str]
_STEP_COUNT = re.compile(r"-\d{3,4}(?![^-@])")

LEGEND = """\
- **KID** is the unbiased kernel distance to the training images, times 1000, with the 95 % interval from ten disjoint subsets;
  lower is closer. Rankings rest on it.
- **FD** is the Fréchet distance over the same features. It is biased upwards by an amount that falls as 1/N: at N = 2,000 over
  1280 features it is mostly bias, so compare it only between rows with equal N. It is not FID; only the column called FID is.
- **Precision, recall**: improved precision and recall with k = 3 over as many training images as there are of the model, so
  compare these too only between rows with equal N.
- **PSNR, SSIM, cosine** (of features): agreement with the reference's own image from the same noise, over the seeds; p10 is the
  tenth percentile. PSNR is of 8-bit images, mean over images, an exact one counting as 58.9 dB. **Same noise** is the share of
  images whose nearest reference image, in features and of all seeds, is the one from their own noise. The reference is the
  teacher by DDIM at all of its steps unless the table names another.
- **From noised images**: noise is added to images up to a teacher step, and the model's way back compared with the reference's
  from the same x; beside it how near both come to the images that the noise was added to.
- **Class** is the share of images that the classifier puts in the class asked for.
- **Training images** of progressive distillation are those of its last fold, **training evaluations** and **training minutes**
  those of all folds: a teacher's evaluation counts 1, a guided one's 2, a student's forward and backward 3. Minutes are wall
  time on the machine that trained; models made before it was kept have none.
- A model measured in parts (`--first-index`) has the KID and class agreement of all of its images; FD, precision and recall
  cannot be had from parts.
- **Evaluations** are network evaluations an image. `guided:SCALE` is the teacher with classifier-free guidance, and
  `guided:SCALE:GUIDE` with autoguidance away from GUIDE; a step of theirs takes two evaluations, so `@dpmpp-008` is at 16."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table with aligned columns, the first to the left and the others to the right."""
    body = [list(row) for row in rows]
    widths = [max(len(str(row[i])) for row in [header, *body]) for i in range(len(header))]
    widths = [max(width, 3) for width in widths]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join([":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, body)])


def value(result: Result, name: str, form: str = ".4g", scale: float = 1) -> str:
    """Format a metric or fact of a result. Return an empty text when it was not measured."""
    found = result.metrics.get(name, result.facts.known.get(name))
    if found is None:
        return ""
    return f"{scale * found:{form}}" if isinstance(found, int | float) and not isinstance(found, bool) else str(found)


def kid(result: Result) -> str:
    """Format KID times 1000 with its interval."""
    if "kid" not in result.metrics:
        return ""
    mean, low, high = (value(result, name, ".2f", 1000) for name in ("kid", "kid_low", "kid_high"))
    return f"{mean} [{low}, {high}]"


def agreement(result: Result) -> str:
    """Format PSNR to the reference, and SSIM."""
    return f"{value(result, 'psnr_db', '.1f')} ({value(result, 'ssim', '.3f')})" if "psnr_db" in result.metrics else ""


def _metric(name: str, form: str = ".4g", scale: float = 1) -> Cell:
    return lambda result: value(result, name, form, scale)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


_IDENTITY: list[tuple[str, Cell]] = [("model", lambda r: r.model), ("evaluations", lambda r: _count(r.evaluations))]
QUALITY: list[tuple[str, Cell]] = [
    *_IDENTITY,
    ("N", lambda r: f"{r.images:,}" + (f" from {r.first_index:,} on" if r.first_index else "")),
    ("KID", kid),
    ("FD", _metric("fd", ".1f")),
    ("FID", _metric("fid", ".2f")),
    ("precision", _metric("precision", ".3f")),
    ("recall", _metric("recall", ".3f")),
    ("class", _metric("class_agreement", ".1%")),
    ("PSNR dB", _metric("psnr_db", ".1f")),
    ("p10", _metric("psnr_p10_db", ".1f")),
    ("SSIM", _metric("ssim", ".3f")),
    ("cosine", _metric("cosine", ".3f")),
    ("same noise", _metric("same_noise", ".1%")),
    ("seeds", lambda r: _count(r.seeds)),
]
REFERENCE: tuple[str, Cell] = ("reference", lambda r: r.reference)
TRAINING: list[tuple[str, Cell]] = [
    ("training images", _metric("training_images", ",")),
    ("training evaluations", _metric("training_cost", ",")),
    ("training minutes", _metric("training_seconds", ",.1f", 1 / 60)),
]
COST: list[tuple[str, Cell]] = [
    *_IDENTITY,
    ("runtime", _metric("runtime")),
    ("parameters", _metric("parameters", ",")),
    *TRAINING,
    ("ms alone", _metric("ms_alone", ".1f")),
    ("ms batched", _metric("ms_batched", ".2f")),
    ("best batch", _metric("best_batch", ".0f")),
]
PATHS: list[tuple[str, Cell]] = [
    *_IDENTITY,
    ("path length", _metric("path_length", ".1f")),
    ("largest / mean step", _metric("path_max_step", ".2f")),
    ("PSNR dB of the frames", _metric("path_psnr_db", ".1f")),
]


def table(results: Sequence[Result], columns: Sequence[tuple[str, Cell]]) -> str:
    """Render one line for each result. Leave out columns in which nothing was measured."""
    cells = [[cell(result) for _, cell in columns] for result in results]
    kept = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    return markdown([columns[i][0] for i in kept], [[line[i] for i in kept] for line in cells])


def quality(results: Sequence[Result]) -> str:
    """Render all metrics of images, with a column for the reference if there is more than one."""
    several = len(references(results)) > 1
    return table(results, [*QUALITY, REFERENCE] if several else QUALITY)


def references(results: Iterable[Result]) -> list[str]:
    """List the models that results are compared with, in order of appearance."""
    return list(dict.fromkeys(result.reference for result in results if result.reference))


def methods(results: Iterable[Result]) -> list[str]:
    """List the methods in the order of tables and pictures: students, then baselines, then the teacher."""
    found = {result.method for result in results if result.method != REAL_IMAGES}
    return sorted(found, key=lambda m: (not m.startswith("student"), m.startswith("teacher"), m))


def series(results: Sequence[Result]) -> list[tuple[str, str, list[Result]]]:
    """Group results into curves: (label, method, results by evaluations).

    A curve holds those models of a method whose names differ only in the step count.
    """
    made = []
    for method in methods(results):
        found: dict[str, list[Result]] = {}
        for result in sorted((r for r in results if r.method == method), key=lambda r: r.evaluations):
            found.setdefault(_STEP_COUNT.sub("", result.model.partition("/")[2]), []).append(result)
        made += [(f"{method} ({name})" if len(found) > 1 else method, method, points) for name, points in found.items()]
    return made


def pivot(results: Sequence[Result], cell: Cell) -> str:
    """Render a line for each number of evaluations and a column for each series."""
    columns = series([result for result in results if cell(result)])
    counts = sorted({result.evaluations for _, _, points in columns for result in points})
    lines = [
        [f"{count}", *(" / ".join(cell(r) for r in points if r.evaluations == count) for _, _, points in columns)]
        for count in counts
    ]
    return markdown(["evaluations", *(label for label, _, _ in columns)], lines)


def varying(results: Sequence[Result]) -> list[str]:
    """List the facts that differ between results. A fact counts if at least two results have it."""
    shown_elsewhere = {"kind", "runtime", "steps", "phi", "concentrate", "weights"}
    shown_elsewhere |= {"training_cost", "training_images", "training_seconds"}
    facts = [result.facts.known for result in results]
    names = sorted({name for known in facts for name in known} - shown_elsewhere)
    different = []
    for name in names:
        values = [str(known[name]) for known in facts if name in known]
        if len(values) > 1 and len(set(values)) > 1:
            different.append(name)
    return different


def ablation(results: Sequence[Result]) -> str:
    """Render the settings that differ, with cost and quality. Leave out real images, which have no settings."""
    results = [result for result in results if result.method != REAL_IMAGES]
    settings = [(name, _metric(name, "," if name == "parameters" else ".4g")) for name in varying(results)]
    phi: list[tuple[str, Cell]] = [("phi", _metric("phi"))] if len({result.facts.phi for result in results}) > 1 else []
    columns = [_IDENTITY[0], *settings, *phi, *_IDENTITY[1:], *TRAINING, *QUALITY[2:]]
    return table(results, [*columns, REFERENCE] if len(references(results)) > 1 else columns)


def reconstructions(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Render one table for each set of images that models started from: (name of the set, table)."""
    names = sorted(
        {name.removeprefix("from_").removesuffix("_psnr_db") for result in results for name in result.metrics
         if name.startswith("from_") and name.endswith("_psnr_db")}
    )  # fmt: skip
    made = []
    for name in names:
        columns: list[tuple[str, Cell]] = [
            _IDENTITY[0],
            ("phi", _metric("phi")),
            ("from teacher step", _metric(f"from_{name}_step", ".0f")),
            ("steps left", _metric(f"from_{name}_steps_left", ".0f")),
            ("PSNR dB", _metric(f"from_{name}_psnr_db", ".1f")),
            ("SSIM", _metric(f"from_{name}_ssim", ".3f")),
            ("cosine", _metric(f"from_{name}_cosine", ".3f")),
            ("PSNR dB to the originals", _metric(f"from_{name}_original_db", ".1f")),
            ("the reference's", _metric(f"from_{name}_reference_original_db", ".1f")),
        ]
        made.append((name, table([result for result in results if f"from_{name}_psnr_db" in result.metrics], columns)))
    return made
