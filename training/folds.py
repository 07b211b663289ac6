"""Progressive distillation, the multi-fold baseline (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2).

Each fold halves the steps: one step of the student learns to land where two DDIM steps of its teacher land. The student is
the teacher of the next fold. The target is that of the rollout with k = 2 (training.walk), so a fold is an ordinary
distillation. The budget counts the network evaluations of all folds, and every fold gets the same share of it.
"""

from __future__ import annotations

from pathlib import Path

from training.checkpoint import CHECKPOINT, load_run
from training.config import DistillConfig, FoldsConfig
from training.distill import distill
from training.errors import TrainingError
from training.objectives.base import STUDENT_EVALUATIONS
from training.resume import changed_settings
from training.torch_model import load_model

PER_IMAGE = 2 + STUDENT_EVALUATIONS  # two teacher steps, one student update


def folds(teacher_steps: int, target: int) -> list[int]:
    """Return the steps of each fold's student, T/2 ... T'. Raises TrainingError when halving T does not reach T'."""
    steps = []
    while teacher_steps > target and teacher_steps % 2 == 0:
        teacher_steps //= 2
        steps.append(teacher_steps)
    if not steps or steps[-1] != target:
        raise TrainingError(f"halving the teacher's steps never gives {target}; choose its steps divided by a power of two")
    return steps


def progressive(config: FoldsConfig, run: Path, *, resume: bool = False) -> list[Path]:
    """Distil `config.teacher` down to `config.to` steps in folds. Return the run folders `run`/student-NNNN, one a fold.

    resume: keep finished folds and continue the one that was stopped.
    Raises TrainingError when T' is no halving of T, or the budget is below one batch a fold.
    """
    counts = folds(load_model(config.teacher).steps, config.to)
    batch = config.loop.batch
    images = config.budget // (len(counts) * PER_IMAGE) // batch * batch
    if images == 0:
        least = len(counts) * PER_IMAGE * batch
        raise TrainingError(
            f"a budget of {config.budget} is less than one batch a fold; {len(counts)} folds of {batch} need {least}"
        )
    before, runs = config.teacher, []
    for steps in counts:
        out = run / f"student-{steps:04d}"
        runs.append(out)
        fold = config.fold(teacher=before, steps=steps, images=images)
        started = resume and (out / CHECKPOINT).is_file()
        if not (started and _finished(out, fold)):
            distill(fold, out, resume=started)
        before = str(out)
    return runs


def _finished(run: Path, fold: DistillConfig) -> bool:
    """Return True when a fold has seen all of its images. Raises TrainingError when it was trained with other settings."""
    _, facts = load_run(run / CHECKPOINT)
    if not facts.finished:
        return False
    if changed := changed_settings(facts, loop=fold.loop, settings=fold.settings()):
        raise TrainingError(f"{run} was made with other settings: {'; '.join(changed)}; repeat them or choose another --out")
    return True
