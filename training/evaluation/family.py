"""The models of one family of a zoo: its teacher, its students, and the candidates that users name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.catalogue import discover
from models.runtime.onnx import OnnxBackend
from models.subsequence import uniform_phi
from training.errors import TrainingError
from training.evaluation.candidates import Candidate, model_candidate, torch_candidate
from training.evaluation.facts import method_of, model_facts
from training.evaluation.result import TableFacts
from training.guidance import guided_model
from training.torch_model import TorchModel, load_model

_GUIDED = re.compile(r"guided:(?P<scale>\d+(\.\d+)?)(:(?P<guide>[^@]+))?(@(?P<variant>.+))?")


class Family:
    """One family of a zoo. It also finds torch models outside of the zoo."""

    def __init__(self, zoo: Path, family: str) -> None:
        """Find the family's models. Raises TrainingError unless it has exactly one teacher."""
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
        """List the teacher, the students, and the teacher's `solvers` at `evaluations` steps; empty: the students' counts."""
        students = [entry.manifest for entry in self.entries if entry is not self.teacher]
        counts = evaluations or sorted({manifest.steps for manifest in students})
        teacher = self.teacher.manifest.name
        variants = [f"{teacher}@{solver}-{count:03d}" for count in counts for solver in solvers]
        return [teacher, *(manifest.name for manifest in students), *variants]

    def candidate(self, spec: str) -> Candidate:
        """Return the candidate that a name means.

        - a name in the family, with or without `family/`: student-016, teacher@ddim-016
        - a path that load_model takes, with or without a solver: `runs/teacher@dpmpp-016`
        - `guided:SCALE`: the family's teacher guided classifier-free, with or without `@dpmpp-016`
        - `guided:SCALE:GUIDE`: the same by autoguidance away from the network at GUIDE

        Raises UnknownModelError, CheckpointError or TrainingError when there is no such model.
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
        return torch_candidate(spec)

    def _guided(self, spec: str) -> Candidate:
        """Return the candidate of `guided:SCALE[:GUIDE][@solver-steps]`. Tables name the guide by its file."""
        match = _GUIDED.fullmatch(spec)
        if match is None:
            raise TrainingError(f"{spec!r}: write guided:SCALE, guided:SCALE:GUIDE, or either with @dpmpp-016")
        scale, guide = float(match["scale"]), match["guide"]
        model = guided_model(self._load(str(self.teacher.folder)), scale, self._load(guide) if guide else None)
        name = f"{self.name}/guided:{scale:g}" + (f":{Path(guide).stem}" if guide else "")
        return model_candidate(name, model, match["variant"] or "")

    def _load(self, spec: str) -> TorchModel:
        """Load a torch model once, however many guidance scales use it."""
        if spec not in self._loaded:
            self._loaded[spec] = load_model(spec)
        return self._loaded[spec]

    def _served(self, model_id: str) -> Candidate:
        """Return the candidate of a model folder. It runs in the service's own runtime, as when it is served."""
        model = self.catalogue.resolve(model_id)
        manifest = model.entry.manifest
        variant = "@" in model_id
        phi = np.asarray(manifest.phi, dtype=np.int64)
        weights = manifest.sha256[:16]
        facts = model_facts(manifest.kind, manifest.provenance, parameters=manifest.parameters, phi=phi)
        return Candidate(
            id=model.id,
            weights=weights,
            name=f"{model.sampler}-{len(model.plan):03d}",
            method=method_of(manifest.kind, manifest.provenance, model.sampler if variant else None),
            plan=model.plan,
            phi=uniform_phi(manifest.steps, len(model.plan)) if variant else phi,
            shape=manifest.image.chw,
            classes=len(manifest.classes),
            load=lambda: OnnxBackend().load(model.entry),
            facts=TableFacts.model_validate({**facts, "runtime": "ONNX Runtime", "weights": weights}),
        )
