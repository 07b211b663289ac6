"""ONNX Runtime behind the narrow interface: contract checks, clear refusals, and rows that do not depend on each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from models.catalogue import Catalogue, Entry
from models.manifest import GRAPH
from models.runtime.base import BackendError, Network, StepInputs
from models.runtime.base import rows_of as part_of
from models.runtime.onnx import CPU, OnnxBackend, OnnxNetwork, open_session, session_options

ROWS = 17


def inputs(entry: Entry, rows: int = ROWS) -> StepInputs:
    random = np.random.default_rng(0)
    shape = (rows, *entry.manifest.image.chw)
    return {
        "x": random.standard_normal(shape, dtype=np.float32),
        "x0_prev": random.standard_normal(shape, dtype=np.float32),
        "timestep": random.integers(0, entry.manifest.steps, rows),
        "class_label": random.integers(0, 4, rows) if entry.manifest.classes else None,
        "coefficients": random.random((rows, 5), dtype=np.float32),
    }


def rows_of(network: Network, entry: Entry, start: int, stop: int) -> bytes:
    x_next, x0 = network.step(**part_of(inputs(entry), slice(start, stop)))
    assert x_next.shape == x0.shape == (stop - start, *entry.manifest.image.chw)
    return x_next.tobytes()


def edited(entry: Entry, folder: Path, edit: object) -> Entry:
    """Copy the entry and change its graph by `edit`."""
    shutil.copytree(entry.folder, folder, dirs_exist_ok=True)
    model = onnx.load(folder / GRAPH)
    edit(model.graph)  # type: ignore[operator]
    onnx.save(model, folder / GRAPH)
    return Entry(folder, entry.manifest)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("model", ["tiny/teacher", "plain/teacher"])
def test_every_batch_size_gives_the_same_bytes(tiny_catalogue: Catalogue, model: str, threads: int) -> None:
    entry = tiny_catalogue.entries[model]
    network = OnnxBackend(threads=threads).load(entry)
    together = rows_of(network, entry, 0, ROWS)
    for size in range(1, ROWS):
        parts = [rows_of(network, entry, start, min(start + size, ROWS)) for start in range(0, ROWS, size)]
        assert b"".join(parts) == together, size


class _Counting(ThreadPoolExecutor):
    parts = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.parts += 1
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize(
    ("threads", "rows", "parts"), [(2, 1, 1), (2, 2, 2), (2, 3, 2), (4, 3, 1), (4, 5, 1), (4, 6, 4), (4, 17, 4)]
)
def test_a_batch_is_split_where_every_thread_gets_rows_and_few_wait(
    tiny_catalogue: Catalogue, threads: int, rows: int, parts: int
) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    wide, narrow = (open_session(entry, str(entry.graph), session_options(count), [CPU]) for count in (threads, 1))
    helpers = _Counting(threads - 1)
    rows_of(OnnxNetwork(entry, wide, narrow, threads, helpers), entry, 0, rows)
    assert helpers.parts == parts - 1


def _loosen_gemm_weights(graph: onnx.GraphProto) -> None:
    """Make the time MLP's weights depend on an input, so that they cannot be packed at load."""
    graph.node.insert(0, helper.make_node("ReduceMin", ["coefficients"], ["lowest"], keepdims=0))
    graph.node.insert(1, helper.make_node("Mul", ["lowest", "nothing"], ["loose"]))
    graph.initializer.append(helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [], [0.0]))
    for number, node in enumerate([node for node in graph.node if node.op_type == "Gemm"]):
        place = list(graph.node).index(node)
        graph.node.insert(place, helper.make_node("Add", [node.input[1], "loose"], [f"loose{number}"]))
        node.input[1] = f"loose{number}"


def test_a_batch_of_one_is_padded_where_the_runtime_computes_it_differently(tiny_catalogue: Catalogue, tmp_path: Path) -> None:
    entry = edited(tiny_catalogue.entries["tiny/teacher"], tmp_path / "teacher", _loosen_gemm_weights)
    session = ort.InferenceSession(str(entry.graph), providers=[CPU])

    def bare(part: slice) -> bytes:
        return bytes(session.run(["x_next"], dict(part_of(inputs(entry), part)))[0].tobytes())

    alone = b"".join(bare(slice(row, row + 1)) for row in range(ROWS))
    network = OnnxBackend(threads=1).load(entry)
    assert network.padded(1) == (1 if alone == bare(slice(None)) else 2)
    assert network.padded(2) == 2
    padded = b"".join(rows_of(network, entry, row, row + 1) for row in range(ROWS))
    assert padded == rows_of(network, entry, 0, ROWS)


def _rename_input(graph: onnx.GraphProto) -> None:
    graph.input[0].name = "sample"
    for node in graph.node:
        node.input[:] = ["sample" if name == "x" else name for name in node.input]


def _larger_image(graph: onnx.GraphProto) -> None:
    for value in [*graph.input[:2], *graph.output]:
        value.type.tensor_type.shape.dim[2].dim_value = 16


def _no_x0(graph: onnx.GraphProto) -> None:
    del graph.output[1]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_rename_input, "breaks the step graph contract: input"),
        (_larger_image, "expected .*8, 8"),
        (_no_x0, "output 'x0' is missing"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(
    tiny_catalogue: Catalogue, tmp_path: Path, edit: object, words: str
) -> None:
    entry = edited(tiny_catalogue.entries["tiny/teacher"], tmp_path / "teacher", edit)
    with pytest.raises(BackendError, match=words):
        OnnxBackend(threads=1).load(entry)


def test_a_graph_that_is_none_is_refused(tiny_catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"ONNX Runtime cannot load .*model\.onnx"):
        OnnxBackend(threads=1).load(Entry(tmp_path, tiny_catalogue.entries["tiny/teacher"].manifest))


def _too_few_timesteps(graph: onnx.GraphProto) -> None:
    table = next(weight for weight in graph.initializer if list(weight.dims) == [32, 16])
    table.CopyFrom(helper.make_tensor(table.name, onnx.TensorProto.FLOAT, [1, 16], [0.0] * 16))


def test_a_graph_that_loads_but_does_not_run_is_refused(tiny_catalogue: Catalogue, tmp_path: Path) -> None:
    entry = edited(tiny_catalogue.entries["tiny/teacher"], tmp_path / "teacher", _too_few_timesteps)
    with pytest.raises(BackendError, match="loads but does not run"):
        OnnxBackend(threads=1).load(entry)


def test_threads_must_be_positive(tiny_catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="threads"):
        OnnxBackend(threads=0)
    assert OnnxBackend().load(tiny_catalogue.entries["tiny/teacher"]).provider == CPU


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from models.catalogue import discover
from models.runtime.base import DeviceMemoryError
from models.runtime.onnx import OnnxBackend
from models.runtime.probe import probe_inputs

entry = discover([Path(sys.argv[1])]).entries["plain/teacher"]
network = OnnxBackend(threads=int(sys.argv[2])).load(entry)
few = probe_inputs(entry, 4)
many = {name: None if v is None else np.resize(v, (60_000, *v.shape[1:])) for name, v in few.items()}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
try:
    network.step(**many)
except DeviceMemoryError as error:
    print("recognised:", error)
network.step(**few)
print("went on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_batch_that_memory_does_not_hold_is_told_apart_and_a_smaller_one_still_runs(tiny_zoo: Path, threads: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(tiny_zoo), threads],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "recognised:" in result.stdout
    assert "went on" in result.stdout
