"""Export of a trained model: the model folder that the service reads, and a stock diffusers pipeline."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.catalogue import Entry, sha256_of
from models.export import export_step_graph, round_weights
from models.manifest import GRAPH, SLUG, ImageShape, Manifest, write_manifest
from models.network import StepGraph, unet_config
from models.plan import COEFFICIENTS
from models.runtime.base import BackendError, StepInputs
from models.runtime.onnx import OnnxBackend
from training.card import model_card
from training.errors import TrainingError
from training.torch_model import TorchModel, load_model, save_pipeline, stock_scheduler

CHECKED_BATCHES = (1, 2, 3, 64)
TOLERANCE = 1e-3  # of x_next and x0, whose range is about [-1, 1]; half of one 8-bit level is 4e-3


def export(
    spec: str,
    zoo: Path,
    family: str,
    name: str,
    *,
    half: bool = True,
    pipeline: Path | None = None,
    steps: int | None = None,
) -> Path:
    """Write `zoo`/`family`/`name` from the model at `spec`, and the diffusers pipeline when a folder is named for it.

    half: store the weights as float16. steps: keep this many of the model's own steps, evenly spaced; for instance 1, 2 or 4
    of a consistency student. Before the folder appears, the exported graph is run in the service's runtime and compared with
    torch at batches of 1, 2, 3 and 64.
    Raises TrainingError when they disagree or a name is not allowed, CheckpointError when the model cannot be loaded.
    """
    for option, value in (("--family", family), ("--name", name)):
        if not re.fullmatch(SLUG, value):
            raise TrainingError(f"{option} {value!r} takes up to 64 lower-case letters, digits, dots, dashes and underscores")
    model = load_model(spec)
    if steps is not None:
        if model.kind == "teacher":
            raise TrainingError("a teacher is exported with all of its steps; distil it, or sample it with @ddim-NNN")
        model = model.subsampled(steps)
    if pipeline is not None:
        stock_scheduler(model)  # raise before anything is written
    dtype = "float16" if half else "float32"
    if half:
        round_weights(model.network, torch.float16)
    folder = zoo / family / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        graph = StepGraph(model.network, model.prediction_type, model.clip, conditional=bool(model.classes))
        export_step_graph(graph, model.shape, draft / GRAPH, half=half)
        manifest = _manifest(model, family, name, dtype, sha256_of(draft / GRAPH))
        difference = difference_from_torch(graph, Entry(draft, manifest), model)
        if not difference <= TOLERANCE:
            raise TrainingError(
                f"the exported graph differs from torch by {difference:.2g}, more than {TOLERANCE}; report this"
            )
        write_manifest(draft, manifest)
        (draft / "README.md").write_text(model_card(manifest))
        folder.mkdir(exist_ok=True)
        for file in draft.iterdir():
            file.replace(folder / file.name)
    if pipeline is not None:
        save_pipeline(model, pipeline)
        (pipeline / "README.md").write_text(model_card(manifest))
    return folder


@torch.inference_mode()
def difference_from_torch(graph: StepGraph, entry: Entry, model: TorchModel) -> float:
    """Return the largest absolute difference between the torch graph and the exported one in the service's runtime.

    The maximum is over all CHECKED_BATCHES. Raises TrainingError when the exported graph does not run.
    """
    try:
        served = OnnxBackend().load(entry)
    except BackendError as error:
        raise TrainingError(f"the exported graph does not run: {error}; report this") from error
    worst = 0.0
    generator = np.random.default_rng(0)
    for batch in CHECKED_BATCHES:
        x, x0_prev = (generator.standard_normal((batch, *model.shape), dtype=np.float32) for _ in range(2))
        timestep = generator.choice(model.labels, batch)
        coefficients = generator.uniform(0, 1, (batch, len(COEFFICIENTS))).astype(np.float32)
        # An epsilon model divides by the signal level: keep it as far from zero as at the model's noisiest step.
        coefficients[:, 0] = np.maximum(coefficients[:, 0], np.sqrt(model.alpha_bar[-1]))
        label = generator.integers(0, len(model.classes), batch) if model.classes else None
        inputs: StepInputs = {
            "x": x,
            "x0_prev": x0_prev,
            "timestep": timestep,
            "class_label": label,
            "coefficients": coefficients,
        }
        ours = served.step(**inputs)
        arrays: dict[str, Any] = {name: value for name, value in inputs.items() if value is not None}
        theirs = graph(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        worst = max(worst, *(float(np.abs(a - b.numpy()).max()) for a, b in zip(ours, theirs, strict=True)))
    return worst


def _manifest(model: TorchModel, family: str, name: str, dtype: str, digest: str) -> Manifest:
    made = model.provenance
    settings = {
        **{key: _portable(value) for key, value in made.settings.items()},
        "unet": unet_config(model.network),
        # A run of an older version lists only the settings that existed then.
        **({"loop": made.loop.model_dump(exclude_unset=True)} if made.loop is not None else {}),
    }
    return Manifest(
        family=family,
        name=name,
        kind=model.kind,
        steps=model.steps,
        phi=model.phi.tolist(),
        alpha_bar=model.alpha_bar.tolist(),
        labels=model.labels.tolist(),
        image=ImageShape(channels=model.shape[0], height=model.shape[1], width=model.shape[2]),
        classes=list(model.classes),
        null_label=model.null_label,
        prediction_type=model.prediction_type,
        sampler=model.sampler,
        clip=model.clip,
        dtype=dtype,
        parameters=sum(p.numel() for p in model.network.parameters()),
        provenance=made.for_manifest(commit=_commit(), created=_utc_now(), settings=settings),
        sha256=digest,
    )


def _portable(value: Any) -> Any:
    """Return a setting without paths of this machine: an absolute path keeps only its last two names, `family/teacher`."""
    if isinstance(value, str) and Path(value).is_absolute():
        return "/".join(Path(value).parts[-2:])
    return value


def _utc_now() -> str:
    """Return the time as an ISO 8601 string."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _commit() -> str:
    """Return the commit of this code, with `-dirty` when the tree differs from it; `unknown` outside a checkout."""
    try:
        arguments = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        here = Path(__file__).parent
        return subprocess.run(arguments, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
