"""The code for GPUs, tested without one: the provider options, and bound buffers on the CPU."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.catalogue import Catalogue, Entry
from models.runtime.base import BackendError, DeviceMemoryError, Precision
from models.runtime.cuda import BoundNetwork, CudaBackend, find_gpu, provider_options
from models.runtime.half import half_graph
from models.runtime.onnx import CPU, OnnxBackend, open_session, session_options
from models.runtime.probe import agrees, probe_inputs


def bound(entry: Entry, graph: str | bytes | None = None, precision: Precision = "float32") -> BoundNetwork:
    session = open_session(entry, graph or str(entry.graph), session_options(1), [CPU])
    return BoundNetwork(session, entry, precision, device="cpu")


@pytest.mark.parametrize("model", ["tiny/teacher", "plain/teacher"])
def test_bound_buffers_give_what_a_plain_run_gives(tiny_catalogue: Catalogue, model: str) -> None:
    entry = tiny_catalogue.entries[model]
    network, plain = bound(entry), OnnxBackend(threads=1).load(entry)
    network.prepare([4, 1])
    for rows in (1, 2, 3, 4, 3, 6):  # 2 and 3 use the buffers of 4; 6 is larger than every prepared size
        inputs = probe_inputs(entry, rows)
        for ours, theirs in zip(network.step(**inputs), plain.step(**inputs), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [network.padded(rows) for rows in (1, 2, 4, 6)] == [1, 4, 4, 6]


def test_a_result_is_the_callers_to_keep(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    network = bound(entry)
    inputs = probe_inputs(entry, 2)
    first = network.step(**inputs)[0]
    kept = first.copy()
    network.step(**{**inputs, "x": -inputs["x"]})
    np.testing.assert_array_equal(first, kept)


class Graphs:
    """A CPU session in place of one with CUDA graphs. It records the requested graphs and can refuse to capture."""

    def __init__(self, entry: Entry, refused: str = "") -> None:
        self._inner = open_session(entry, str(entry.graph), session_options(1), [CPU])
        self._refused = refused
        self.ran: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run_with_iobinding(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        self.ran.append(options.get_run_config_entry("gpu_graph_id"))
        if self.ran[-1] != "-1" and self._refused:
            raise RuntimeError(self._refused)
        self._inner.run_with_iobinding(binding, options)

    def network(self, entry: Entry, plain: Graphs) -> BoundNetwork:
        session: Any = self
        return BoundNetwork(session, entry, "float32", device="cpu", without_graphs=lambda: cast(Any, plain))


def test_each_size_is_warmed_up_and_captured_before_it_serves(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    session = Graphs(entry)
    network = session.network(entry, Graphs(entry))
    network.step(**probe_inputs(entry, 1))
    assert session.ran == ["-1", "-1", "1", "1"]
    network.prepare([8, 2])
    assert session.ran[4:] == ["-1", "-1", "2", "-1", "-1", "3"]
    network.step(**probe_inputs(entry, 7))
    assert session.ran[10:] == ["2"]
    network.prepare([1])
    assert session.ran[-1] == "4", "the graph of buffers that are gone is not replayed on others"


def test_a_model_whose_capture_fails_runs_without_graphs(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    plain = Graphs(entry)
    network = Graphs(entry, "CUDA failure 900: operation not permitted when stream is capturing").network(entry, plain)
    network.prepare([2, 4])
    inputs = probe_inputs(entry, 3)
    np.testing.assert_array_equal(network.step(**inputs)[0], OnnxBackend(threads=1).load(entry).step(**inputs)[0])
    assert set(plain.ran) == {"-1"}


def test_lack_of_memory_during_capture_is_no_reason_to_run_without_graphs(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    plain = Graphs(entry)
    network = Graphs(entry, "CUDA failure 2: out of memory").network(entry, plain)
    with pytest.raises(DeviceMemoryError):
        network.prepare([2])
    assert plain.ran == []


def test_lack_of_memory_is_told_apart(tiny_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    session = open_session(entry, str(entry.graph), session_options(1), [CPU])
    network = BoundNetwork(session, entry, "float32", device="cpu")

    def fail(*_: object) -> None:  # a message as the runtime writes it
        raise RuntimeError(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Message: "
            "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 8388608000"
        )

    monkeypatch.setattr(session, "run_with_iobinding", fail)
    with pytest.raises(DeviceMemoryError, match="8388608000"):
        network.step(**probe_inputs(entry, 2))


def test_the_provider_is_asked_for_what_was_decided() -> None:
    options = provider_options(graphs=True, precision="float32", memory=1 << 30, nhwc=False)
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["enable_cuda_graph"] == "1"
    assert options["gpu_mem_limit"] == str(1 << 30)
    assert options["use_tf32"] == "0"
    assert "gpu_mem_limit" not in provider_options(graphs=False, precision="float16", memory=None, nhwc=True)


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_without_a_gpu_the_reason_is_told() -> None:
    with pytest.raises(BackendError, match="no NVIDIA GPU is visible"):
        CudaBackend()


@pytest.mark.parametrize("model", ["tiny/teacher", "plain/teacher"])
def test_a_float16_graph_agrees_and_keeps_its_plan_arithmetic(tiny_catalogue: Catalogue, model: str) -> None:
    entry = tiny_catalogue.entries[model]
    graph = half_graph(entry.graph)
    found = agrees(bound(entry, graph, "float16"), OnnxBackend(threads=1).load(entry), entry)
    assert found.holds, found
    # With a = 1, b = c = 0 the plan returns x itself: exact only where its arithmetic is float32.
    inputs = probe_inputs(entry, 3)
    inputs["coefficients"][:] = [0.6, 0.8, 1, 0, 0]
    np.testing.assert_array_equal(bound(entry, graph, "float16").step(**inputs)[0], inputs["x"])


def test_a_float16_graph_computes_in_float16(tiny_catalogue: Catalogue) -> None:
    model = onnx.load_from_string(half_graph(tiny_catalogue.entries["tiny/teacher"].graph))
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    kinds.update({weight.name: weight.data_type for weight in inferred.initializer})
    convolutions = [node for node in inferred.node if node.op_type == "Conv"]
    assert convolutions
    assert {kinds[name] for node in convolutions for name in node.input[:2]} == {onnx.TensorProto.FLOAT16}
