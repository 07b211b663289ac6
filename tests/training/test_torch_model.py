"""Any diffusers DDPM pipeline can be the teacher, offline: saved by diffusers itself, in both layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from models.catalogue import discover
from models.plan import ddim
from models.subsequence import uniform_phi
from tests.training.conftest import tiny_loop
from tests.training.reference import run_plan, starting_noise
from training.config import DistillConfig
from training.distill import distill
from training.errors import CheckpointError
from training.export import export
from training.torch_model import load_model


def _unet(**changes: object) -> UNet2DModel:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4, "attention_head_dim": 8,
    }  # fmt: skip
    return UNet2DModel(**{**settings, **changes}).eval()


@pytest.fixture(params=["epsilon", "v_prediction"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Save a 1000-step linear DDPM with diffusers, as google/ddpm-cifar10-32 is."""
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type=request.param)
    DDPMPipeline(unet=_unet(), scheduler=scheduler).save_pretrained(tmp_path / "nested")
    return tmp_path / "nested"


def _flat(nested: Path) -> Path:
    """Write the old layout: everything in one folder, weights in a .bin file."""
    flat = nested.parent / "flat"
    flat.mkdir()
    shutil.copy(nested / "model_index.json", flat)
    config = json.loads((nested / "unet" / "config.json").read_text())
    (flat / "config.json").write_text(json.dumps({**config, "resolution": 8, "_name_or_path": "somewhere"}))
    shutil.copy(nested / "scheduler" / "scheduler_config.json", flat)
    torch.save(UNet2DModel.from_pretrained(nested, subfolder="unet").state_dict(), flat / "diffusion_pytorch_model.bin")
    return flat


def test_leftovers_in_an_old_configuration_do_not_stop_distillation(pipeline: Path, idx_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "student"
    distill(DistillConfig(teacher=str(_flat(pipeline)), data=str(idx_folder), steps=3, loop=tiny_loop(16)), run)
    assert load_model(str(run)).steps == 3


@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_pipeline_folder_is_a_teacher_that_samples_as_diffusers_does(pipeline: Path, layout: str) -> None:
    model = load_model(str(pipeline if layout == "nested" else _flat(pipeline)))
    assert (model.kind, model.steps, model.shape, model.classes) == ("teacher", 1000, (1, 8, 8), ())
    stock = DDPMScheduler.from_pretrained(pipeline, subfolder="scheduler")
    assert model.prediction_type == stock.config.prediction_type
    assert np.allclose(model.alpha_bar[1:], stock.alphas_cumprod.double().numpy(), rtol=1e-5)
    # The same images as diffusers' DDIM over the same 10 teacher steps.

    pairs = [(1, 0), (1, 1)]
    ours = run_plan(
        model.network, ddim(model.alpha_bar, uniform_phi(1000, 10)), model.prediction_type, pairs, model.shape, None
    )
    scheduler = DDIMScheduler.from_config(stock.config, timestep_spacing="trailing", set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    x = starting_noise(pairs, model.shape)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(model.network(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    assert torch.allclose(ours, x, atol=1e-4)


def test_distil_and_serve_a_brought_teacher(pipeline: Path, idx_folder: Path, tmp_path: Path) -> None:
    """Distil T' = 7 from T = 1000, which 7 does not divide, for both prediction types. Export folder and stock pipeline."""
    run = tmp_path / "student"
    distill(DistillConfig(teacher=str(pipeline), data=str(idx_folder), steps=7, loop=tiny_loop(64)), run)
    export(str(run), tmp_path / "zoo", "brought", "student-007", pipeline=tmp_path / "pipe")
    export(str(pipeline), tmp_path / "zoo", "brought", "teacher")
    catalogue = discover([tmp_path / "zoo"])
    assert not catalogue.refusals
    assert catalogue.entries["brought/student-007"].manifest.phi == [0, 143, 286, 429, 571, 714, 857, 1000]
    assert len(catalogue.resolve("brought/teacher").plan) == 1000
    stock = DDIMPipeline.from_pretrained(tmp_path / "pipe")
    assert stock.scheduler.config.num_train_timesteps == 7


def test_conditional_pipeline_and_size_pair(tmp_path: Path) -> None:
    unet = _unet(num_class_embeds=4, sample_size=[8, 8])
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=20)).save_pretrained(tmp_path / "p")
    model = load_model(str(tmp_path / "p"))
    assert model.classes == ("class-0", "class-1", "class-2", "class-3")
    assert model.shape == (1, 8, 8)


def test_model_folder_gives_the_weights_back(teacher_run: Path, teacher_zoo: Path) -> None:
    """A served model folder is enough to distil from."""
    ours, theirs = load_model(str(teacher_zoo / "shapes" / "teacher")), load_model(str(teacher_run))
    for (name, a), b in zip(ours.network.state_dict().items(), theirs.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (ours.classes, ours.null_label, ours.steps) == (theirs.classes, theirs.null_label, theirs.steps)


def test_unsupported_prediction_type(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=20, prediction_type="sample")
    DDPMPipeline(unet=_unet(), scheduler=scheduler).save_pretrained(tmp_path / "p")
    with pytest.raises(CheckpointError, match="predicts 'sample'; teachers must predict epsilon or v_prediction"):
        load_model(str(tmp_path / "p"))


def test_another_kind_of_network(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(CheckpointError, match="only UNet2DModel teachers"):
        load_model(str(tmp_path))


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="neither a run folder"):
        load_model(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read once, at import
    with pytest.raises(CheckpointError, match="check the name and the network"):
        load_model("nobody/no-such-model")


@pytest.mark.parametrize("spec", ["/nowhere/teacher", "./teachr", "~/teacher", "../runs/teacher", "runs/teacher/7"])
def test_a_path_that_is_not_there_is_no_name_on_a_hub(spec: str) -> None:
    with pytest.raises(CheckpointError, match="there is no model at"):
        load_model(spec)
