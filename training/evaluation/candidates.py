"""Candidates: weights that take denoise steps, and the plan of these steps.

Model folders run in the service's own runtime (training.evaluation.family), so the images are those that the service makes.
Checkpoints, diffusers pipelines and guided teachers run in torch. Both take their steps in models.runtime.denoise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from models.plan import SAMPLERS, Plan, relabel
from models.runtime.denoise import StepNetwork
from models.subsequence import Int64, uniform_phi
from training.errors import TrainingError
from training.evaluation.facts import method_of, model_facts, provenance_of
from training.evaluation.result import TableFacts
from training.guidance import GuidedNetwork
from training.sampling import TorchNetwork
from training.torch_model import TorchModel, load_model


@dataclass(frozen=True)
class Candidate:
    """One way to make images, to be measured: weights and a plan.

    id       its name in tables, as a user would write it
    weights  fingerprint of the weights; an image depends only on `weights`, `name` and its start
    name     the name of the plan, as in manifests, e.g. ddim-016
    method   the method whose curve it belongs to; candidates of one method differ in evaluations
    phi      int64 [steps + 1] teacher step at each step's start, in increasing order
    per_step network evaluations of a step: 1, or 2 for a guided teacher
    facts    facts of how it was made, for the tables
    """

    id: str
    weights: str
    name: str
    method: str
    plan: Plan
    phi: Int64
    shape: tuple[int, int, int]
    classes: int
    load: Callable[[], StepNetwork]
    per_step: int = 1
    facts: TableFacts = field(default_factory=TableFacts)

    @property
    def key(self) -> str:
        """The name of the folder of its images: weights and plan."""
        return f"{self.weights}-{self.name.rpartition('-')[0]}-{len(self.plan):04d}"

    @property
    def evaluations(self) -> int:
        return self.per_step * len(self.plan)


def torch_candidate(spec: str) -> Candidate:
    """Return the candidate of a run folder, diffusers pipeline or hub id, with `@sampler-steps`, else by its own plan."""
    base, _, variant = spec.partition("@")
    return model_candidate(base, load_model(base), variant)


def model_candidate(name: str, model: TorchModel, variant: str = "") -> Candidate:
    """Return the candidate of a torch model: by its own plan, or by the solver that `variant` names (ddim-016)."""
    solver, _, count = (variant or f"{model.sampler}-{model.steps}").partition("-")
    if (variant and solver not in SAMPLERS) or not count.isdecimal() or not 1 <= int(count) <= model.steps:
        choices = ", ".join(f"@{known}-016" for known in SAMPLERS)
        raise TrainingError(f"{name}@{variant} names no solver; write {choices} with 1 to {model.steps} steps")
    plan_name = f"{solver}-{int(count):03d}"
    phi = uniform_phi(model.steps, int(count))
    made, weights = provenance_of(model), fingerprint(model)
    facts = model_facts(model.kind, made, parameters=sum(p.numel() for p in model.network.parameters()), phi=model.phi)
    return Candidate(
        id=f"{name}@{plan_name}" if variant else name,
        weights=weights,
        name=plan_name,
        method=method_of(model.kind, made, solver if variant else None),
        plan=relabel(SAMPLERS[solver](model.alpha_bar, phi), model.labels[phi[1:] - 1]) if variant else model.plan(),
        phi=model.phi[phi],
        shape=model.shape,
        classes=len(model.classes),
        load=lambda: _on_device(model),
        per_step=model.evaluations,
        facts=TableFacts.model_validate({**facts, "runtime": "torch", "weights": weights}),
    )


def fingerprint(model: TorchModel) -> str:
    """Return sixteen hex digits of a sha256 over weights (of both networks if guided), schedule and guidance scale."""
    digest = hashlib.sha256(model.alpha_bar.tobytes() + model.labels.tobytes())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    if isinstance(model.network, GuidedNetwork):
        digest.update(repr(model.network.scale).encode())
    return digest.hexdigest()[:16]


def _on_device(model: TorchModel) -> TorchNetwork:
    """Move a model to the GPU where there is one, and return it ready to take steps."""
    model.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return TorchNetwork(model.network, model.prediction_type, model.clip)
