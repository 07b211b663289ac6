"""Export of a torch network as the ONNX step graph of a model folder, and reading its weights back from the graph.

The graph is models.network.StepGraph. Its inputs and outputs keep their names, B is dynamic and rows are independent.
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

from models.network import StepGraph
from models.plan import COEFFICIENTS

OPSET = 20


def round_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round every parameter to a value of `dtype`, in place. It stays float32, as in a graph that stores weights in `dtype`."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(dtype).float())


def export_step_graph(graph: StepGraph, shape: tuple[int, int, int], path: Path, *, half: bool = True) -> None:
    """Write `graph` for images of `shape` (C, H, W) to `path` as ONNX with a dynamic batch.

    half: store the weights as float16. Arithmetic stays float32: each weight is cast when the graph is loaded.
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
    # 63: diffusers makes batches of 64 and more contiguous, a branch that ONNX does not need. The graph takes any batch. With a
    # larger bound here, the exporter traces the network, fails, and traces it again with this bound.
    dynamic = torch.export.Dim("batch", min=0, max=63)
    # The exporter logs its progress and warns about its own internals. Neither helps the caller.
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
            optimize=False,  # constant folding would lose the parameters' names; the runtime folds when it loads the graph
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:  # a model folder must not hold source paths of the exporting machine
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
    """Replace each float32 initializer by a float16 one and a Cast. The runtime folds the Cast when it loads the graph."""
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
    """Read the network's weights from a step graph: state-dict name -> float32 tensor.

    The graph keeps parameter names. A model folder is therefore enough to distil from it or to continue its training.
    """
    weights: dict[str, Tensor] = {}
    for initializer in onnx.load(path).graph.initializer:
        name = initializer.name.removesuffix(".half")
        if name.startswith("network."):
            array = numpy_helper.to_array(initializer).astype(np.float32)
            weights[name.removeprefix("network.")] = torch.from_numpy(array.copy())
    return weights
