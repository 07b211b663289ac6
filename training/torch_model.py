"""A model in torch, loaded from a run folder of ours, a model folder, or any diffusers pipeline.

A diffusers pipeline loads from disk or from the Hugging Face hub, in both layouts: with `unet/` and `scheduler/` sub-folders,
and the old flat one (such as google/ddpm-cifar10-32).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

from models.catalogue import verify
from models.export import read_weights
from models.manifest import MANIFEST, ManifestError
from models.network import PredictionType, build_unet
from models.plan import Plan, SamplerName, own_plan
from models.schedule import Float64, alpha_bar_from_betas
from models.subsequence import Int64, uniform_phi
from training.checkpoint import CHECKPOINT, load_run
from training.errors import CheckpointError
from training.run_facts import ModelProvenance

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass
class TorchModel:
    """A network and the discrete diffusion it belongs to.

    alpha_bar float64 [steps + 1] is the model's own table; labels int64 [steps] its network labels for t = 1 ... steps;
    phi int64 [steps + 1] the steps of its first teacher that it keeps (0 ... steps for a teacher). evaluations: network
    evaluations of one prediction, 2 for a guided model (training.guidance).
    """

    network: UNet2DModel
    kind: str
    alpha_bar: Float64
    phi: Int64
    labels: Int64
    shape: tuple[int, int, int]
    prediction_type: PredictionType
    provenance: ModelProvenance
    classes: tuple[str, ...] = ()
    null_label: int | None = None
    clip: tuple[float, float] | None = (-1.0, 1.0)
    sampler: SamplerName = "ddim"
    evaluations: int = 1  # network evaluations of one prediction; 2 for a guided model (training.guidance)
    guidance: str | None = None

    @property
    def steps(self) -> int:
        return len(self.labels)

    def plan(self) -> Plan:
        """Return the model's own plan: its own sampler over all of its steps."""
        return own_plan(self.sampler, self.alpha_bar, self.labels)

    def subsampled(self, steps: int) -> TorchModel:
        """Return the same weights on a uniform sub-sequence of the model's own steps. Raises ValueError when it has fewer."""
        kept = uniform_phi(self.steps, steps)
        return replace(self, alpha_bar=self.alpha_bar[kept], phi=self.phi[kept], labels=self.labels[kept[1:] - 1])


def load_model(spec: str) -> TorchModel:
    """Load a teacher or student. spec: a run folder, one of its snapshots, a model folder, a diffusers folder, or a hub id.

    A run is loaded with its averaged weights. Raises CheckpointError with one sentence.
    """
    path = Path(spec)
    if path.suffix == ".safetensors":
        return _from_run(path)
    if (path / CHECKPOINT).is_file():
        return _from_run(path / CHECKPOINT)
    if (path / MANIFEST).is_file():
        return _from_model_folder(path)
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2 or spec.startswith((".", "~"))):  # no hub id
        raise CheckpointError(f"there is no model at {spec!r}; check the path")
    if path.exists() and not (path / "unet").is_dir() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{spec} is neither a run folder ({CHECKPOINT}) nor a model folder ({MANIFEST}) nor a diffusers pipeline "
            "(unet/ or config.json)"
        )
    return _from_diffusers(spec)


def _from_run(path: Path) -> TorchModel:
    """Load a checkpoint or snapshot of a run with its averaged weights."""
    parts, facts = load_run(path)
    model = facts.model
    try:
        network = build_unet(model.unet)
        state = network.state_dict()
        state.update({name: tensor.float() for name, tensor in parts["ema"].items()})
        network.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no checkpoint of this version of sfddm-train: {error}") from error
    return TorchModel(
        network=network.eval(),
        kind=model.kind,
        alpha_bar=np.asarray(model.alpha_bar, dtype=np.float64),
        phi=np.asarray(model.phi, dtype=np.int64),
        labels=np.asarray(model.labels, dtype=np.int64),
        shape=model.shape,
        prediction_type=model.prediction_type,
        classes=model.classes,
        null_label=model.null_label,
        clip=model.clip,
        provenance=facts.model_provenance(),
        sampler=model.sampler,
    )


def _from_model_folder(folder: Path) -> TorchModel:
    """Load the weights of a model folder's graph."""
    try:
        manifest = verify(folder).manifest
    except ManifestError as error:
        raise CheckpointError(str(error)) from error
    made, settings = manifest.provenance, manifest.provenance.settings
    if "unet" not in settings:
        raise CheckpointError(f"{folder}: the manifest does not carry the network's configuration (provenance.settings.unet)")
    network = build_unet(settings["unet"])
    network.load_state_dict(read_weights(folder / "model.onnx"))
    return TorchModel(
        network=network.eval(),
        kind=manifest.kind,
        alpha_bar=manifest.alpha_bar_table,
        phi=np.asarray(manifest.phi, dtype=np.int64),
        labels=manifest.label_table,
        shape=manifest.image.chw,
        prediction_type=manifest.prediction_type,
        classes=tuple(manifest.classes),
        null_label=manifest.null_label,
        clip=manifest.clip,
        provenance=ModelProvenance(
            data=made.data,
            objective=made.objective,
            k=made.k,
            guidance=made.guidance,
            settings=settings,
            images=made.images,
            evaluations=made.evaluations,
            seconds=made.seconds,
            seed=made.seed,
            sha256=manifest.sha256,
        ),
        sampler=manifest.sampler,
    )


def _from_diffusers(spec: str) -> TorchModel:
    """Load a diffusers pipeline as a teacher with all of its training steps."""
    network, scheduler = _pipeline_parts(spec)
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise CheckpointError(f"{spec} predicts {kind!r}; teachers must predict epsilon or v_prediction")
    if network.config.time_embedding_type not in ("positional", "learned"):
        raise CheckpointError(
            f"{spec} embeds time as {network.config.time_embedding_type!r}; only discrete steps are supported"
        )
    alpha_bar = alpha_bar_from_betas(scheduler.betas.double().clamp(max=1 - 1e-12).numpy())
    steps = len(alpha_bar) - 1
    size = network.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    embeds = network.config.num_class_embeds
    limit = float(scheduler.config.clip_sample_range)
    return TorchModel(
        network=network.eval(),
        kind="teacher",
        alpha_bar=alpha_bar,
        phi=np.arange(steps + 1, dtype=np.int64),
        labels=np.arange(steps, dtype=np.int64),
        shape=(network.config.in_channels, height, width),
        prediction_type=kind,
        classes=tuple(f"class-{i}" for i in range(embeds or 0)),
        null_label=None,
        clip=(-limit, limit) if scheduler.config.clip_sample else None,
        provenance=ModelProvenance(data=spec, objective="diffusion"),
    )


def _pipeline_parts(spec: str) -> tuple[UNet2DModel, DDPMScheduler]:
    """Load the UNet and the scheduler of a pipeline. The nested layout is tried first, then the flat one."""
    failure: Exception | None = None
    for nested in (True, False):
        unet_folder, scheduler_folder = ("unet", "scheduler") if nested else (None, None)
        try:
            config = UNet2DModel.load_config(spec, subfolder=unet_folder)
            if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
                raise CheckpointError(f"{spec} holds a {config['_class_name']}; only UNet2DModel teachers are supported")
            network = UNet2DModel.from_pretrained(spec, subfolder=unet_folder, torch_dtype=torch.float32)
            return network, DDPMScheduler.from_pretrained(spec, subfolder=scheduler_folder)
        except (OSError, ValueError) as error:
            failure = failure or error
    reason = str(failure).splitlines()[0]
    raise CheckpointError(
        f"cannot load {spec!r} as a diffusers pipeline ({reason}); check the name and the network, or download it first"
    ) from failure


def save_pipeline(model: TorchModel, folder: Path) -> None:
    """Write a stock diffusers pipeline folder: UNet2DModel and `stock_scheduler`. diffusers alone can load it.

    Raises the CheckpointError of stock_scheduler.
    """
    from diffusers import DDIMPipeline, DDPMPipeline

    scheduler = stock_scheduler(model)
    pipeline_type = DDIMPipeline if model.sampler == "ddim" else DDPMPipeline  # DDPMPipeline takes any scheduler
    pipeline_type(unet=model.network, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)
    if model.classes:
        (folder / "classes.json").write_text(json.dumps(list(model.classes)))


def stock_scheduler(model: TorchModel) -> SchedulerMixin:
    """Return the diffusers scheduler of a model's own steps, DDIM or DPM-Solver++(2M).

    It has num_train_timesteps = steps and trained_betas = the model's betas (SFDDM, section 3.3).
    Raises CheckpointError when no stock scheduler can take the model's steps.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if not np.array_equal(model.labels, np.arange(model.steps)):
        raise CheckpointError("a stock scheduler cannot keep the labels of this network; leave out --pipeline")
    if model.sampler == "consistency":
        raise CheckpointError(f"no stock pipeline samples by {model.sampler}; leave out --pipeline")
    limit = 1.0 if model.clip is None else model.clip[1]
    # diffusers keeps betas in float32, and one that rounds to 1 would make a sigma infinite
    betas = np.minimum(1 - model.alpha_bar[1:] / model.alpha_bar[:-1], 1 - 2**-24)
    shared = {
        "num_train_timesteps": model.steps,
        "trained_betas": betas.tolist(),
        "prediction_type": model.prediction_type,
    }
    if model.sampler == "ddim":
        return DDIMScheduler(
            **shared, clip_sample=model.clip is not None, clip_sample_range=limit,
            set_alpha_to_one=True, timestep_spacing="leading",
        )  # fmt: skip
    if limit != 1:
        raise CheckpointError(f"a stock DPM-Solver++ pipeline cannot clip at {limit:g}; leave out --pipeline")
    return DPMSolverMultistepScheduler(  # with sample_max_value at the limit, its thresholding is plain clipping
        **shared, thresholding=model.clip is not None, sample_max_value=limit,
        final_sigmas_type="zero", timestep_spacing="trailing",
    )  # fmt: skip
