"""What makes images: weights that take one denoise step at a time, and the plan they follow.

Model folders run on the service's own backend, so what is measured is what is served; checkpoints, diffusers pipelines
and guided teachers run in torch. Both take the step of models.plan:

    x0 = clip(x0 from the prediction),    x_next = a x + b x0 + c x0_prev
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.catalogue import Entry, discover
from models.manifest import Manifest
from models.network import predict, x0_from_prediction
from models.noise import step_noise
from models.plan import SAMPLERS, Plan, relabel
from models.subsequence import Int64, uniform_phi
from training.errors import TrainingError
from training.guidance import GuidedNetwork, guided_model
from training.torch_model import TorchModel, load_model

Float32 = NDArray[np.float32]

_GUIDED = re.compile(r"guided:(?P<scale>\d+(\.\d+)?)(:(?P<guide>[^@]+))?(@(?P<variant>.+))?")

TEACHER = "teacher"  # the method of a teacher at all of its own steps
METHODS = {
    "ddim": "DDIM",
    "dpmpp": "DPM-Solver++(2M)",
    "ddpm": "ancestral DDPM",
    "rollout": "student",
    "released": "released objective",
    "progressive": "progressive distillation",
    "consistency": "consistency distillation",
}


class StepNetwork(Protocol):
    """Weights on a device; models.runtime.base.Network is one."""

    def step(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        """One denoise step of B rows: (x_next, x0), float32 [B,C,H,W] each; coefficients [B,5] as in models.plan."""


class TorchNetwork:
    """A model in torch, on the GPU where there is one."""

    def __init__(self, model: TorchModel) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model
        model.network.to(self.device)

    @torch.inference_mode()
    def step(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        at, before, t = (torch.from_numpy(np.ascontiguousarray(v)).to(self.device) for v in (x, x0_prev, timestep))
        label = None if class_label is None else torch.from_numpy(class_label).to(self.device)
        table = torch.from_numpy(coefficients).to(self.device)
        signal, noise, a, b, c = (table[:, i].reshape(-1, 1, 1, 1) for i in range(table.shape[1]))
        prediction = predict(self.model.network, at, t, label).float()
        x0 = x0_from_prediction(prediction, at, signal, noise, self.model.prediction_type)
        if self.model.clip is not None:
            x0 = x0.clamp(*self.model.clip)
        return (a * at + b * x0 + c * before).cpu().numpy(), x0.cpu().numpy()


@dataclass(frozen=True)
class Sampler:
    """One way to make images.

    id       what tables call it, as a user would ask for it
    weights  fingerprint of the weights; with `name`, the images depend on nothing else but where they start
    name     the plan within the weights, as manifests call it, e.g. ddim-016
    method   the curve it belongs to; samplers of one method differ in evaluations
    phi      int64 [rows + 1] teacher step at each row's start, in increasing order
    per_step network evaluations a row costs: 1, or 2 for a guided teacher
    facts    how it was made, for the tables
    entry    the model folder, where it is one
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
    facts: dict[str, Any] = field(default_factory=dict)
    entry: Entry | None = None

    @property
    def key(self) -> str:
        """Names the folder of its images: weights and plan."""
        return f"{self.weights}-{self.name.rpartition('-')[0]}-{len(self.plan):04d}"

    @property
    def evaluations(self) -> int:
        return self.per_step * len(self.plan)


def denoise(
    network: StepNetwork,
    plan: Plan,
    x: Float32,
    pairs: Sequence[tuple[int, int]],
    class_label: Int64 | None,
    *,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Float32:
    """Rows `first` ... of the plan from x [B,C,H,W] on: images, float32 [B,C,H,W] in [-1, 1].

    Row `first` is of first order, as a multistep plan's first row is: D = x0 where there is no x0_prev (models.plan.dpmpp_2m).
    pairs: the (seed, index) that keys each image's fresh noise. `on_step(images)` follows each row.
    """
    x0_prev = np.zeros_like(x)
    table = plan.coefficients.astype(np.float32)
    table[first, 3:] = table[first, 3:].sum(), 0  # b + c and 0
    for row in range(first, len(plan)):
        timestep = np.full(len(x), plan.label[row], dtype=np.int64)
        coefficients = np.repeat(table[row : row + 1], len(x), axis=0)
        x, x0_prev = network.step(x, x0_prev, timestep, class_label, coefficients)
        if plan.s[row] > 0:
            fresh = np.stack([step_noise(seed, index, row, x.shape[1:]) for seed, index in pairs])
            x = x + np.float32(plan.s[row]) * fresh
        if on_step is not None:
            on_step(len(x))
    return x


class Family:
    """The models of one family of a zoo, around their teacher, and torch models from anywhere else."""

    def __init__(self, zoo: Path, family: str) -> None:
        """Raises TrainingError unless the family has exactly one teacher."""
        self.name = family
        self._loaded: dict[str, TorchModel] = {}
        self.catalogue = discover([zoo])
        self.entries = [entry for entry in self.catalogue.entries.values() if entry.manifest.family == family]
        teachers = [entry for entry in self.entries if entry.manifest.kind == "teacher"]
        if len(teachers) != 1:
            reasons = "".join(f"; {refusal.reason}" for refusal in self.catalogue.refusals)
            raise TrainingError(f"{zoo}/{family} needs exactly one teacher, found {len(teachers)}{reasons}")
        self.teacher = teachers[0]

    def all(self, solvers: Sequence[str], evaluations: Sequence[int]) -> list[str]:
        """Every model, teacher first, and the teacher's solvers at `evaluations`, or where empty at the students' counts."""
        students = [entry.manifest for entry in self.entries if entry is not self.teacher]
        counts = evaluations or sorted({manifest.steps for manifest in students})
        teacher = self.teacher.manifest.name
        variants = [f"{teacher}@{solver}-{count:03d}" for count in counts for solver in solvers]
        return [teacher, *(manifest.name for manifest in students), *variants]

    def sampler(self, spec: str) -> Sampler:
        """A name in the family (student-016, teacher@ddim-016, with or without `family/`), or what load_model takes.

        A torch teacher too takes a solver: `runs/teacher@dpmpp-016`. `guided:SCALE` is the family's teacher guided
        classifier-free, `guided:SCALE:GUIDE` by autoguidance away from the network at GUIDE, either with `@dpmpp-016`.
        Raises UnknownModelError, CheckpointError or TrainingError with what there is.
        """
        name = spec.removeprefix(f"{self.name}/")
        if name.startswith("guided:"):
            return self._guided(name)
        if f"{self.name}/{name.partition('@')[0]}" in self.catalogue.entries:
            return self._served(f"{self.name}/{name}")
        if not Path(spec.partition("@")[0]).exists():
            known = ", ".join(entry.manifest.name for entry in self.entries)
            raise TrainingError(
                f"{spec!r} is neither a model of {self.name} ({known}) nor a path; solvers: teacher@ddim-016, guided:2@ddim-016"
            )
        return torch_sampler(spec)

    def _guided(self, spec: str) -> Sampler:
        """`guided:SCALE[:GUIDE][@solver-steps]`; tables name the guide by its file, and facts tell how much it had seen."""
        match = _GUIDED.fullmatch(spec)
        if match is None:
            raise TrainingError(f"{spec!r}: write guided:SCALE, guided:SCALE:GUIDE, or either with @dpmpp-016")
        scale, guide = float(match["scale"]), match["guide"]
        model = guided_model(self._load(str(self.teacher.folder)), scale, self._load(guide) if guide else None)
        model = replace(model, provenance=model.provenance.model_copy(update={"guidance": model.guidance}))
        name = f"{self.name}/guided:{scale:g}" + (f":{Path(guide).stem}" if guide else "")
        return model_sampler(name, model, match["variant"] or "")

    def _load(self, spec: str) -> TorchModel:
        """load_model, once for all scales of guidance."""
        if spec not in self._loaded:
            self._loaded[spec] = load_model(spec)
        return self._loaded[spec]

    def _served(self, model_id: str) -> Sampler:
        from models.runtime.onnx import OnnxBackend

        model = self.catalogue.resolve(model_id)
        manifest = model.entry.manifest
        variant = "@" in model_id
        return Sampler(
            id=model.id,
            weights=manifest.sha256[:16],
            name=f"{model.sampler}-{len(model.plan):03d}",
            method=_method(manifest.kind, manifest.provenance.model_dump(), model.sampler if variant else None),
            plan=model.plan,
            phi=uniform_phi(manifest.steps, len(model.plan)) if variant else np.asarray(manifest.phi, dtype=np.int64),
            shape=manifest.image.chw,
            classes=len(manifest.classes),
            load=lambda: OnnxBackend().load(model.entry),
            facts={**_facts(manifest), "weights": manifest.sha256[:16]},
            entry=model.entry,
        )


def torch_sampler(spec: str) -> Sampler:
    """A run folder, diffusers pipeline or hub id, with `@sampler-steps` or its own plan."""
    base, _, variant = spec.partition("@")
    return model_sampler(base, load_model(base), variant)


def model_sampler(name: str, model: TorchModel, variant: str = "") -> Sampler:
    """Images from a model in torch: by its own plan, or by the solver that `variant` names (ddim-016)."""
    solver, _, count = (variant or f"{model.sampler}-{model.steps}").partition("-")
    if (variant and solver not in SAMPLERS) or not count.isdecimal() or not 1 <= int(count) <= model.steps:
        choices = ", ".join(f"@{known}-016" for known in SAMPLERS)
        raise TrainingError(f"{name}@{variant} names no solver; write {choices} with 1 to {model.steps} steps")
    plan_name = f"{solver}-{int(count):03d}"
    phi = uniform_phi(model.steps, int(count))
    parameters, weights = sum(p.numel() for p in model.network.parameters()), fingerprint(model)
    provenance = model.provenance.model_dump()
    made = _provenance_facts(model.kind, provenance, parameters, model.phi)
    return Sampler(
        id=f"{name}@{plan_name}" if variant else name,
        weights=weights,
        name=plan_name,
        method=_method(model.kind, provenance, solver if variant else None),
        plan=relabel(SAMPLERS[solver](model.alpha_bar, phi), model.labels[phi[1:] - 1]) if variant else model.plan(),
        phi=model.phi[phi],
        shape=model.shape,
        classes=len(model.classes),
        load=lambda: TorchNetwork(model),
        per_step=model.evaluations,
        facts={**made, "runtime": "torch", "weights": weights},
    )


def fingerprint(model: TorchModel) -> str:
    """Sixteen hex digits of the weights (a guided model's are both networks'), the schedule and the scale of guidance."""
    digest = hashlib.sha256(model.alpha_bar.tobytes() + model.labels.tobytes())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    if isinstance(model.network, GuidedNetwork):
        digest.update(repr(model.network.scale).encode())
    return digest.hexdigest()[:16]


def _method(kind: str, provenance: dict[str, Any], solver: str | None = None) -> str:
    """The curve of a model, or of a solver on it. Guided ones are curves of their own."""
    objective = str(provenance.get("objective"))
    own = TEACHER if kind == "teacher" else METHODS.get(objective, objective)
    return (own if solver is None else METHODS[solver]) + (", guided" if provenance.get("guidance") else "")


def _facts(manifest: Manifest) -> dict[str, Any]:
    phi = np.asarray(manifest.phi, dtype=np.int64)
    facts = _provenance_facts(manifest.kind, manifest.provenance.model_dump(), manifest.parameters, phi)
    return {**facts, "runtime": "ONNX Runtime"}


def _provenance_facts(kind: str, provenance: dict[str, Any], parameters: int, phi: Int64) -> dict[str, Any]:
    """What sets one model apart from another, flat; what is not known is left out."""
    settings = provenance.get("settings") or {}
    loop = provenance.get("loop") or settings.get("loop") or {}
    facts = {
        "kind": kind,
        "data": provenance.get("data"),
        "objective": provenance.get("objective"),
        "training_images": provenance.get("images"),
        "training_cost": provenance.get("evaluations"),
        "training_seconds": provenance.get("seconds"),
        "seed": provenance.get("seed", loop.get("seed")),
        "lr": loop.get("lr"),
        "parameters": parameters,
        "teacher_steps": int(phi[-1]),
        "phi": "uniform" if np.array_equal(phi, uniform_phi(int(phi[-1]), len(phi) - 1)) else "other",
    }
    if facts["objective"] == "rollout":
        facts |= {"sampler": "ddim", "norm": "squared"}  # of runs from before these were options
    facts |= {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool | list)}
    facts |= {key: provenance.get(key) for key in ("k", "guidance")}  # None where it has no meaning, as k for other objectives
    if facts["phi"] == "other" and (share := settings.get("concentrate")):
        facts["phi"] = f"half within {share[0]:g} ... {share[1]:g} of T"
    return {key: value for key, value in facts.items() if value is not None}
