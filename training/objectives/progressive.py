"""Progressive distillation, the multi-fold baseline (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2).

Each fold halves the steps: the student's one step learns to land where two DDIM steps of its teacher do, and becomes the next
fold's teacher. That target is the rollout's with k = 2 (training.walk), so a fold is an ordinary distillation whose teacher
is the fold before. The budget counts every fold's network evaluations, and every fold gets the same share of it.
"""

from __future__ import annotations

from pathlib import Path

from training import checkpoint
from training.distill import DistillConfig, distill
from training.errors import TrainingError
from training.loop import CHECKPOINT, differences
from training.objectives.base import STUDENT_EVALUATIONS
from training.torch_model import load_model

PER_IMAGE = 2 + STUDENT_EVALUATIONS  # two teacher steps, one student update


def folds(teacher_steps: int, target: int) -> list[int]:
    """Steps of each fold's student, T/2 ... T'. Raises TrainingError when halving T does not reach T'."""
    steps = []
    while teacher_steps > target and teacher_steps % 2 == 0:
        teacher_steps //= 2
        steps.append(teacher_steps)
    if not steps or steps[-1] != target:
        raise TrainingError(f"halving the teacher's steps never gives {target}; choose its steps divided by a power of two")
    return steps


def progressive(config: DistillConfig, target: int, budget: int, run: Path, *, resume: bool = False) -> list[Path]:
    """Distil `config.teacher` down to `target` steps in folds; returns the run folders `run`/student-NNNN, one a fold.

    config: data, loop and weight of every fold; its steps and images are set here. budget: network evaluations, all folds.
    With `resume` finished folds are kept and the one that was stopped goes on.
    Raises TrainingError when T' is no halving of T, or the budget is below one batch a fold.
    """
    teacher = load_model(config.teacher)
    plan = folds(teacher.steps, target)
    batch = config.loop.batch
    images = budget // (len(plan) * PER_IMAGE) // batch * batch
    if images == 0:
        least = len(plan) * PER_IMAGE * batch
        raise TrainingError(f"a budget of {budget} is less than one batch a fold; {len(plan)} folds of {batch} need {least}")
    before, runs = config.teacher, []
    for steps in plan:
        out = run / f"student-{steps:04d}"
        runs.append(out)
        loop = config.loop.model_copy(update={"images": images, "warmup_images": min(config.loop.warmup_images, images)})
        step = config.model_copy(update={"teacher": before, "steps": steps, "objective": "progressive", "loop": loop})
        if not (resume and _finished(out, step)):
            started = (out / CHECKPOINT).is_file()
            distill(step, out, resume=resume and started)
        before = str(out)
    return runs


def _finished(run: Path, fold: DistillConfig) -> bool:
    """Whether a fold is done. Raises TrainingError where it was done with other settings."""
    if not (run / CHECKPOINT).is_file():
        return False
    facts = checkpoint.load(run / CHECKPOINT)[1]
    if facts["step"] * facts["loop"]["batch"] < facts["loop"]["images"]:
        return False
    settings = fold.model_dump(mode="json")
    changed = differences(facts, {"loop": settings.pop("loop"), "provenance": {"settings": settings}})
    if changed:
        raise TrainingError(f"{run} was made with other settings: {'; '.join(changed)}; repeat them or choose another --out")
    return True
