"""Makes a tiny zoo of real ONNX model folders: a few thousand random parameters each, 1x8x8 images, no torch.

    tiny/teacher        32 steps, cosine, class-conditional (cat, dog, bird; null label 3)
    tiny/student-004    4 steps
    tiny/student-008    8 steps
    plain/teacher       16 steps, linear, unconditional

The graphs are step graphs like those of real models (x, x0_prev, timestep, class_label, coefficients -> x_next, x0) and
predict v. Their images show nothing, but every input changes every pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.catalogue import sha256_of
from models.manifest import GRAPH, ImageShape, Manifest, Provenance, Quality, Ranking, read_manifest, write_manifest
from models.schedule import alpha_bar_table
from models.subsequence import student_alpha_bar, uniform_phi

SHAPE = (1, 8, 8)
CLASSES = ["cat", "dog", "bird"]
NULL_LABEL = 3
_WIDTH = 16


class _Graph:
    """Collects the nodes and weights of one graph in order."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def weight(self, *shape: int, scale: float) -> str:
        return self.constant((self._random.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, value: np.ndarray | np.generic) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def conv(self, x: str, channels_in: int, channels_out: int, scale: float = 1.0) -> str:
        weight = self.weight(channels_out, channels_in, 3, 3, scale=scale / (3 * channels_in**0.5))
        return self.op("Conv", x, weight, self.weight(channels_out, scale=0.1), kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(w.dims)) for w in self.weights if w.data_type == TensorProto.FLOAT)


def _step_graph(seed: int, steps: int, classes: int) -> tuple[onnx.ModelProto, int]:
    """Build a v-predicting step graph with `steps` timesteps and `classes` class labels (0: unconditional)."""
    g = _Graph(seed)
    batch_image: list[str | int | None] = ["batch", *SHAPE]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, batch_image),
        helper.make_tensor_value_info("x0_prev", TensorProto.FLOAT, batch_image),
        helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"]),
    ]
    embedding = g.op("Gather", g.weight(steps, _WIDTH, scale=1.0), "timestep")
    if classes:
        inputs.append(helper.make_tensor_value_info("class_label", TensorProto.INT64, ["batch"]))
        embedding = g.op("Add", embedding, g.op("Gather", g.weight(classes, _WIDTH, scale=1.0), "class_label"))
    inputs.append(helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["batch", 5]))

    # The time MLP is a Gemm on [B, D], as in diffusers' networks. Only there could a batch of one be computed in another way.
    hidden = g.silu(g.op("Gemm", embedding, g.weight(_WIDTH, 4 * _WIDTH, scale=0.3), g.weight(4 * _WIDTH, scale=0.1)))
    time = g.op("Gemm", hidden, g.weight(4 * _WIDTH, _WIDTH, scale=0.2), g.weight(_WIDTH, scale=0.1))
    time = g.op("Unsqueeze", time, g.constant(np.array([2, 3], dtype=np.int64)))

    h = g.silu(g.op("Add", g.conv("x", SHAPE[0], _WIDTH), time))
    h = g.op("Add", h, g.silu(g.conv(h, _WIDTH, _WIDTH)))
    v = g.conv(h, _WIDTH, SHAPE[0], scale=0.25)

    columns = [f"k{i}" for i in range(5)]
    table = g.op("Unsqueeze", "coefficients", g.constant(np.array([2, 3], dtype=np.int64)))
    g.nodes.append(helper.make_node("Split", [table], columns, axis=1, num_outputs=5))
    signal, noise, a, b, c = columns
    x0 = g.op("Sub", g.op("Mul", signal, "x"), g.op("Mul", noise, v))
    x0 = g.op("Clip", x0, g.constant(np.float32(-1)), g.constant(np.float32(1)), output="x0")
    x_next = g.op("Add", g.op("Mul", a, "x"), g.op("Mul", b, x0))
    g.op("Add", x_next, g.op("Mul", c, "x0_prev"), output="x_next")

    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, batch_image) for name in ("x_next", "x0")]
    graph = helper.make_graph(g.nodes, "step", inputs, outputs, initializer=g.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model, g.parameters


def make_model(
    zoo: Path,
    family: str,
    name: str,
    *,
    teacher_steps: int,
    steps: int,
    schedule: str,
    classes: list[str],
    seed: int,
    kid: float | None = None,
) -> Path:
    """Write one valid model folder and return it. kid: the quality that its manifest claims (lower is better)."""
    kind = "teacher" if name == "teacher" else "student"
    folder = zoo / family / name
    folder.mkdir(parents=True)
    model, parameters = _step_graph(seed, steps, len(classes) + 1 if classes else 0)
    onnx.save(model, folder / GRAPH)
    phi = uniform_phi(teacher_steps, steps)
    manifest = Manifest(
        family=family,
        name=name,
        kind=kind,
        steps=steps,
        phi=phi.tolist(),
        alpha_bar=student_alpha_bar(alpha_bar_table(schedule, teacher_steps), phi).tolist(),
        labels=list(range(steps)),
        image=ImageShape(channels=SHAPE[0], height=SHAPE[1], width=SHAPE[2]),
        classes=classes,
        null_label=NULL_LABEL if classes else None,
        prediction_type="v_prediction",
        dtype="float32",
        parameters=parameters,
        provenance=Provenance(
            data="none",
            objective="diffusion" if kind == "teacher" else "rollout",
            k=None if kind == "teacher" else 4,
            images=0,
            seed=seed,
            commit="0" * 40,
            created="2025-01-01T00:00:00Z",
        ),
        quality={}
        if kid is None
        else {f"ddim-{steps:03d}": Quality(images=200, metrics={"kid": kid}, command="made up for tests")},
        ranking=None if kid is None else Ranking(metric="kid", better="lower"),
        sha256=sha256_of(folder / GRAPH),
    )
    write_manifest(folder, manifest)
    (folder / "README.md").write_text(f"# {family}/{name}\n\nRandom weights, for tests.\n")
    return folder


def break_graph(folder: Path) -> None:
    """Replace the graph of a model folder by one that no runtime loads, with its checksum in the manifest."""
    graph = folder / GRAPH
    graph.write_bytes(b"no graph")
    write_manifest(folder, read_manifest(folder).model_copy(update={"sha256": sha256_of(graph)}))


def make_tiny_zoo(folder: Path) -> Path:
    """Write the tiny zoo under `folder` and return `folder`, ready for models.catalogue.discover([folder])."""
    conditional: dict[str, Any] = {"teacher_steps": 32, "schedule": "cosine", "classes": CLASSES}
    make_model(folder, "tiny", "teacher", steps=32, seed=1, kid=0.010, **conditional)
    make_model(folder, "tiny", "student-004", steps=4, seed=2, kid=0.030, **conditional)
    make_model(folder, "tiny", "student-008", steps=8, seed=3, kid=0.020, **conditional)
    make_model(folder, "plain", "teacher", teacher_steps=16, steps=16, schedule="linear", classes=[], seed=4)
    return folder
