"""Conversion of a step graph to float16: its matrix products run in half precision, its fragile nodes stay float32.

Nodes that stay float32:

- normalisations, which are sums over many values
- the sinusoid of the timestep: labels reach the thousands, where neighbouring float16 numbers are one or more apart
- the plan's arithmetic: all nodes that depend on `coefficients`; no node of the network does

The conversion runs when a model is loaded, so a model folder stays one graph with one hash. It needs the package `onnx`,
which comes with the extra `gpu`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx

_NORMS = ("InstanceNormalization", "GroupNormalization", "LayerNormalization", "ReduceMean", "ReduceSum", "Softmax")
_SINUSOIDS = ("Sin", "Cos")


def half_graph(path: Path) -> bytes:
    """Return the graph at `path`, serialised, with float16 where that is safe. Inputs and outputs keep their types."""
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):  # the converter finds nodes by name
        node.name = node.name or f"node{number}"
    # import_module, because `from onnxruntime.transformers import float16` would import every transformer model there.
    converter = importlib.import_module("onnxruntime.transformers.float16")
    kept = [*_downstream(model.graph, "coefficients"), *_upstream(model.graph, _SINUSOIDS)]
    without_half = [*converter.DEFAULT_OP_BLOCK_LIST, *_NORMS]  # the default list: operators without a float16 kernel
    converted = converter.convert_float_to_float16(model, keep_io_types=True, op_block_list=without_half, node_block_list=kept)
    _skip_round_trips(converted.graph)
    serialised: bytes = converted.SerializeToString()
    return serialised


def _skip_round_trips(graph: onnx.GraphProto) -> None:
    """Bypass pairs of casts to float16 and back, which the converter puts between nodes that stay float32."""
    narrowed = {node.output[0]: node.input[0] for node in graph.node if _casts_to(node, onnx.TensorProto.FLOAT16)}
    for node in graph.node:
        if _casts_to(node, onnx.TensorProto.FLOAT):
            node.input[0] = narrowed.get(node.input[0], node.input[0])


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind


def _downstream(graph: onnx.GraphProto, name: str) -> list[str]:
    """List the nodes that depend on the value `name`. The graph's nodes are in topological order."""
    reached, nodes = {name}, []
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            nodes.append(node.name)
    return nodes


def _upstream(graph: onnx.GraphProto, kinds: tuple[str, ...]) -> list[str]:
    """List the nodes of these kinds and all nodes that they are computed from."""
    needed: set[str] = set()
    nodes = []
    for node in reversed(graph.node):
        if node.op_type in kinds or needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node.name)
    return nodes
