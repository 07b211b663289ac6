"""Export: the model folder agrees with torch, and stock diffusers agrees with the model folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from numpy.typing import NDArray

from models.catalogue import discover, verify
from models.export import export_step_graph, round_weights
from models.network import StepGraph
from models.pictures import to_uint8
from models.plan import COEFFICIENTS
from models.runtime.denoise import denoise, starting_noise
from models.runtime.onnx import OnnxBackend
from tests.training.conftest import tiny_loop
from training.config import DistillConfig
from training.distill import distill
from training.errors import TrainingError
from training.evaluation.candidates import torch_candidate
from training.export import TOLERANCE, export
from training.objective_config import RolloutConfig
from training.torch_model import load_model


@pytest.fixture(scope="module")
def zoo(teacher_run: Path, idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a teacher and three students as model folders, with their pipelines beside them."""
    root = tmp_path_factory.mktemp("zoo")
    export(str(teacher_run), root / "zoo", "shapes", "teacher", pipeline=root / "teacher-pipeline")
    run = root / "run"
    distill(DistillConfig(teacher=str(root / "zoo/shapes/teacher"), data=str(idx_folder), steps=6, loop=tiny_loop(320)), run)
    export(str(run), root / "zoo", "shapes", "student-006", pipeline=root / "pipeline")
    for steps in (2, 20):
        name = f"student-{steps:03d}"
        again = DistillConfig(
            teacher=str(root / "zoo/shapes/teacher"),
            data=str(idx_folder),
            steps=steps,
            objective=RolloutConfig(sampler="dpmpp"),
            loop=tiny_loop(320),
        )
        distill(again, root / name)
        export(str(root / name), root / "zoo", "shapes", name, pipeline=root / f"pipeline-{steps:03d}")
    return root


def within_one(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    """Return the share of 8-bit pixels that differ by at most one level."""
    return float((np.abs(ours.astype(int) - theirs.astype(int)) <= 1).mean())


@pytest.mark.parametrize("conditional", [True, False])
def test_step_graph_equals_torch_at_every_batch(teacher_run: Path, tmp_path: Path, conditional: bool) -> None:
    model = load_model(str(teacher_run))
    network = model.network
    if not conditional:
        network = UNet2DModel(**{**{k: v for k, v in network.config.items() if k[0] != "_"}, "num_class_embeds": None})
    graph = StepGraph(network, "v_prediction", (-1.0, 1.0), conditional=conditional)
    export_step_graph(graph, model.shape, tmp_path / "model.onnx", half=False)
    exported, random = onnxruntime.InferenceSession(tmp_path / "model.onnx"), np.random.default_rng(0)
    for batch in (1, 2, 3, 64):
        x, x0_prev = (random.standard_normal((batch, 1, 8, 8), dtype=np.float32) for _ in range(2))
        timestep, label = random.integers(0, 64, batch), random.integers(0, 3, batch)
        coefficients = random.uniform(-1, 1, (batch, len(COEFFICIENTS))).astype(np.float32)
        feeds = {"x": x, "x0_prev": x0_prev, "timestep": timestep, "coefficients": coefficients}
        feeds |= {"class_label": label} if conditional else {}
        ours = exported.run(["x_next", "x0"], feeds)
        with torch.inference_mode():
            theirs = graph(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=2e-5)


def test_weights_are_stored_as_float16_and_nothing_of_this_machine(zoo: Path) -> None:
    path = zoo / "zoo/shapes/student-006/model.onnx"
    model = onnx.load(path)
    stored = {i.data_type for i in model.graph.initializer if np.prod(i.dims) > 8}
    assert stored <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    parameters = verify(path.parent).manifest.parameters
    assert path.stat().st_size < 2 * parameters + 400_000
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    for written in (path.parent / "manifest.json", path.parent / "README.md"):
        assert str(zoo) not in written.read_text()


def test_manifests_are_consistent_and_traceable(zoo: Path) -> None:
    catalogue = discover([zoo / "zoo"])
    assert not catalogue.refusals
    teacher, student = (catalogue.entries[f"shapes/{name}"].manifest for name in ("teacher", "student-006"))
    assert (teacher.kind, teacher.steps, teacher.classes) == ("teacher", 64, ["class-0", "class-1", "class-2"])
    assert (student.kind, student.steps, student.phi) == ("student", 6, [0, 11, 21, 32, 43, 53, 64])
    assert student.alpha_bar == [teacher.alpha_bar[t] for t in student.phi]
    assert student.provenance.teacher_sha256 == teacher.sha256
    assert (student.provenance.objective, student.provenance.k, student.provenance.images) == ("rollout", 4, 320)
    assert teacher.provenance.images == 6400
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", teacher.provenance.commit)


# diffusers 0.42 builds its sigmas by np.array(tensor), which numpy 2 warns of
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "pipeline"), [("student-006", "pipeline"), ("student-002", "pipeline-002"), ("student-020", "pipeline-020")]
)
def test_vanilla_diffusers_agrees_when_conditional(name: str, pipeline: str, zoo: Path) -> None:
    """Run the card's own lines on our x_T and compare with the exported graph: DDIM and DPM-Solver++(2M)."""
    card = (zoo / f"zoo/shapes/{name}/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.S)
    assert code is not None
    keys = [(4, i) for i in range(4)]
    noise = starting_noise(keys, (1, 8, 8))
    lines = code[1].replace("PIPELINE_FOLDER", str(zoo / pipeline))
    assert "x = torch.randn(" in lines
    lines = re.sub(r"x = torch\.randn\(.*\)\n", "x = noise\n", lines)
    scope: dict[str, object] = {"noise": torch.from_numpy(noise)}
    exec(lines, scope)
    label = int(re.search(r"torch\.full\(\(4,\), (\d+)\)", lines)[1])  # type: ignore[index]
    entry = discover([zoo / "zoo"]).entries[f"shapes/{name}"]
    network = OnnxBackend().load(entry)
    ours = to_uint8(denoise(network, entry.plan(), noise, keys=keys, class_label=np.full(4, label)))
    assert within_one(ours, scope["pixels"].numpy()) >= 0.999  # type: ignore[attr-defined]
    assert ours.std() > 10


def test_a_run_is_measured_by_its_own_sampler(zoo: Path) -> None:
    """Its key differs from that of another sampler of the same run, so the cache does not mix their images."""
    own, ddim = (torch_candidate(f"{zoo / 'student-020'}{variant}") for variant in ("", "@ddim-020"))
    assert own.plan.coefficients[:, 4].any()
    assert not ddim.plan.coefficients[:, 4].any()
    assert own.name == "dpmpp-020"
    assert own.key != ddim.key


def test_vanilla_pipeline_agrees_when_unconditional(tmp_path: Path) -> None:
    """Run DDIMPipeline with the arguments of the card on our x_T."""
    torch.manual_seed(1)
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4)  # fmt: skip
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=100)).save_pretrained(tmp_path / "teacher")
    export(str(tmp_path / "teacher"), tmp_path / "zoo", "f", "teacher", pipeline=tmp_path / "pipe")
    card = (tmp_path / "zoo/f/teacher/README.md").read_text()
    assert "num_inference_steps=100, eta=0.0, use_clipped_model_output=True" in card
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "pipe")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=3, num_inference_steps=100, eta=0.0, use_clipped_model_output=True,
                      generator=torch.Generator().manual_seed(0), output_type="np").images  # fmt: skip
    noise = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).numpy()
    entry = discover([tmp_path / "zoo"]).entries["f/teacher"]
    ours = to_uint8(denoise(OnnxBackend().load(entry), entry.plan(), noise, keys=[], class_label=None))
    assert within_one(ours, np.rint(theirs.transpose(0, 3, 1, 2) * 255).astype(np.uint8)) >= 0.999


def test_student_pipeline_is_a_stock_folder(zoo: Path) -> None:
    index = json.loads((zoo / "pipeline/model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    config = json.loads((zoo / "pipeline/scheduler/scheduler_config.json").read_text())
    assert config["num_train_timesteps"] == len(config["trained_betas"]) == 6
    unet = json.loads((zoo / "pipeline/unet/config.json").read_text())
    assert (unet["time_embedding_type"], unet["num_train_timesteps"]) == ("learned", 6)


def test_a_graph_that_differs_from_torch_is_not_exported(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.difference_from_torch", lambda *_: 2 * TOLERANCE)
    with pytest.raises(TrainingError, match="differs from torch"):
        export(str(teacher_run), tmp_path, "shapes", "teacher")
    assert list((tmp_path / "shapes").iterdir()) == []


@pytest.mark.parametrize(("family", "name", "option"), [("F F", "n", "--family 'F F'"), ("f", "../n", "--name '../n'")])
def test_names_are_checked_before_anything_is_loaded(tmp_path: Path, family: str, name: str, option: str) -> None:
    with pytest.raises(TrainingError, match=f"{option} takes up to 64 lower-case letters"):
        export("nowhere", tmp_path, family, name)


def test_rounding_is_what_storage_does() -> None:
    network = torch.nn.Linear(3, 3)
    round_weights(network, torch.float16)
    assert torch.equal(network.weight, network.weight.half().float())
