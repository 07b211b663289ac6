"""Torch network -> model folder: the denoise step graph as ONNX, its manifest and model card.

The step graph is one network evaluation and one row of a plan (models.plan):

    x0     = clip(x0 from the prediction, x, signal, noise)
    x_next = a x + b x0 + c x0_prev

Inputs x, x0_prev float32 [B,C,H,W], timestep int64 [B], class_label int64 [B] (conditional models only), coefficients
float32 [B,5]; outputs x_next, x0 float32 [B,C,H,W]. B is dynamic and rows are independent.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.network import PredictionType, predict, x0_from_prediction
from models.plan import COEFFICIENTS

OPSET = 20


class StepGraph(nn.Module):
    """The step graph as a torch module; `forward` has the ONNX graph's inputs and outputs."""

    def __init__(
        self, network: nn.Module, prediction_type: PredictionType, clip: tuple[float, float] | None, *, conditional: bool
    ) -> None:
        super().__init__()
        self.network, self.prediction_type, self.clip, self.conditional = network, prediction_type, clip, conditional

    def forward(
        self, x: Tensor, x0_prev: Tensor, timestep: Tensor, coefficients: Tensor, class_label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        signal, noise, a, b, c = (coefficients[:, i].reshape(-1, 1, 1, 1) for i in range(len(COEFFICIENTS)))
        prediction = predict(self.network, x, timestep, class_label if self.conditional else None)
        x0 = x0_from_prediction(prediction, x, signal, noise, self.prediction_type)
        if self.clip is not None:
            x0 = x0.clamp(*self.clip)
        return a * x + b * x0 + c * x0_prev, x0


def round_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round every parameter to `dtype` in place, kept as float32: what a graph with weights stored so computes with."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(dtype).float())


def export_step_graph(graph: StepGraph, shape: tuple[int, int, int], path: Path, *, half: bool = True) -> None:
    """Write `graph` for images of `shape` (C, H, W) to `path` as ONNX with a dynamic batch.

    half: store the weights as float16 (arithmetic stays float32: each is cast when the graph is loaded).
    """
    graph = graph.eval().cpu().float()
    batch = 2
    arguments: dict[str, Tensor] = {
        "x": torch.randn(batch, *shape),
        "x0_prev": torch.zeros(batch, *shape),
        "timestep": torch.zeros(batch, dtype=torch.int64),
        "coefficients": torch.rand(batch, len(COEFFICIENTS)),
    }
    if graph.conditional:
        arguments["class_label"] = torch.zeros(batch, dtype=torch.int64)
    dynamic = torch.export.Dim("batch", min=1, max=1 << 16)
    # The exporter logs its progress and warns of its own internals; neither is of use to the caller.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            kwargs=dict(arguments),
            dynamo=True,
            dynamic_shapes={name: {0: dynamic} for name in arguments},
            input_names=list(arguments),
            output_names=["x_next", "x0"],
            opset_version=OPSET,
            optimize=False,  # the runtime folds constants when it loads; here they would lose their parameters' names
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:  # source paths of the exporting machine do not belong in an artefact
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    if half:
        _store_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _store_half(model: onnx.ModelProto) -> None:
    """Replace float32 initializers by float16 ones and a Cast each; the runtime folds the Cast when it loads."""
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or np.prod(initializer.dims) < 2:
            continue
        name, value = initializer.name, numpy_helper.to_array(initializer).astype(np.float16)
        initializer.CopyFrom(numpy_helper.from_array(value, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT, name=f"{name}.cast"))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def read_weights(path: Path) -> dict[str, Tensor]:
    """The network's weights out of a step graph: state-dict name -> float32 tensor.

    The graph keeps parameter names, so a model folder is enough to distil from or to go on training.
    """
    weights: dict[str, Tensor] = {}
    for initializer in onnx.load(path).graph.initializer:
        name = initializer.name.removesuffix(".half")
        if name.startswith("network."):
            array = numpy_helper.to_array(initializer).astype(np.float32)
            weights[name.removeprefix("network.")] = torch.from_numpy(array.copy())
    return weights
