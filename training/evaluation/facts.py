"""Facts by which tables tell models apart: settings and origin of a model, and the method whose curve it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.manifest import Provenance
from models.subsequence import Int64, uniform_phi
from training.run_facts import RecordedSettings

if TYPE_CHECKING:
    from training.torch_model import TorchModel

TEACHER = "teacher"  # the method of a teacher at all of its own steps
REAL_IMAGES = "real test images"  # the method of the data set's own images
METHODS = {
    "ddim": "DDIM",
    "dpmpp": "DPM-Solver++(2M)",
    "ddpm": "ancestral DDPM",
    "rollout": "student",
    "released": "released objective",
    "progressive": "progressive distillation",
    "consistency": "consistency distillation",
}


def method_of(kind: str, made: Provenance, solver: str | None = None) -> str:
    """Return the method of a model, or of a solver on it. Guided models have methods of their own."""
    own = TEACHER if kind == "teacher" else METHODS.get(made.objective, made.objective)
    return (own if solver is None else METHODS[solver]) + (", guided" if made.guidance else "")


def model_facts(kind: str, made: Provenance, *, parameters: int, phi: Int64) -> dict[str, Any]:
    """Return the facts by which models differ, as one flat mapping. Unknown facts are left out."""
    settings = RecordedSettings(made.settings)
    facts = {
        "kind": kind,
        "data": made.data,
        "objective": made.objective,
        "training_images": made.images,
        "training_cost": made.evaluations,
        "training_seconds": made.seconds,
        "seed": made.seed,
        "lr": settings.lr,
        "parameters": parameters,
        "teacher_steps": int(phi[-1]),
        "phi": "uniform" if np.array_equal(phi, uniform_phi(int(phi[-1]), len(phi) - 1)) else "other",
    }
    shown = settings.complete if made.objective == "rollout" else settings.recorded
    facts |= {key: value for key, value in shown.items() if isinstance(value, str | int | float | bool | list)}
    facts |= {"k": made.k, "guidance": made.guidance}  # None where it does not apply, such as k for other objectives
    if facts["phi"] == "other" and (part := settings.concentrate):
        facts["phi"] = f"half within {part[0]:g} ... {part[1]:g} of T"
    return {key: value for key, value in facts.items() if value is not None}


def provenance_of(model: TorchModel) -> Provenance:
    """Return the provenance of a torch model as a manifest would hold it, including its present guidance."""
    made = model.provenance
    loop = made.loop.model_dump() if made.loop else RecordedSettings(made.settings).loop
    present = made.model_copy(update={"guidance": model.guidance or made.guidance})
    return present.for_manifest(commit="", created="", settings={**made.settings, "loop": loop})
