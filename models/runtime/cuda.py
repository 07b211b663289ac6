"""ONNX Runtime on an NVIDIA GPU.

Every batch size has its own buffers on the device, bound once. A step copies its inputs there, runs, and copies the results
back. CUDA graphs need such fixed addresses and shapes. A size's graph is therefore captured when its buffers are bound, and
then replayed with one launch instead of one per kernel (ONNX Runtime's `enable_cuda_graph`; a run names its graph by
`gpu_graph_id`). Where the runtime refuses (a node cannot run on the GPU) or capture fails, the model runs without graphs.

The runtime keeps captured graphs for the thread that captured them, and during a capture no other thread may allocate on the
GPU. load, prepare and step therefore belong to one thread.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
import onnxruntime as ort
import structlog

from models.catalogue import Entry
from models.plan import COEFFICIENTS
from models.runtime.base import BackendError, DeviceMemoryError, Float32, Precision, StepInputs
from models.runtime.onnx import (
    CPU,
    OUTPUTS,
    OnnxBackend,
    first_line,
    open_session,
    padded_size,
    raise_if_out_of_memory,
    session_options,
    step_feeds,
)
from models.runtime.probe import agrees

log = structlog.get_logger(__name__)

CUDA = "CUDAExecutionProvider"
_NO_GRAPH = "-1"  # a run that neither captures nor replays
_WARM_UPS = 2  # ONNX Runtime allocates in its first two runs of a shape, which a capture does not allow


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its name, and its memory in bytes."""

    name: str
    memory: int


def find_gpu() -> Gpu | None:
    """Find the first GPU that the CUDA driver shows this process; None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(errors="replace"), memory.value)


def provider_options(*, graphs: bool, precision: Precision, memory: int | None, nhwc: bool) -> dict[str, str]:
    """Return the options of the CUDA provider. memory: the most bytes of one session's arena; None: all of the GPU."""
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",  # the default benchmarks every new batch size while requests wait
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles, which is too much when models share a GPU
        "enable_cuda_graph": str(int(graphs)),
        "prefer_nhwc": str(int(nhwc)),
        "use_tf32": str(int(precision != "float32")),  # TF32 would round the inputs of float32 products
    }
    if memory is not None:
        options["gpu_mem_limit"] = str(memory)
    return options


class CudaBackend:
    """Loads step graphs onto the GPU."""

    def __init__(
        self, *, precision: Precision | None = None, memory: int | None = None, graphs: bool = True, nhwc: bool = False
    ) -> None:
        """Open the GPU. precision: float16 or float32; None: float16 for each model whose images keep the agreement bar.

        memory: the most bytes of device memory for one model's arena. graphs: capture CUDA graphs. nhwc: channels last.
        Raises BackendError where there is no GPU.
        """
        gpu = find_gpu()
        if gpu is None:
            raise BackendError("no NVIDIA GPU is visible to this process; check nvidia-smi and the container toolkit")
        if precision not in (None, "float16", "float32"):
            raise BackendError(f"CUDA runs in float16 or float32 here, not in {precision}")
        ort.preload_dlls()  # CUDA and cuDNN come as wheels, and the system's loader does not search there
        self._gpu = gpu
        self._precision, self._memory, self._graphs, self._nhwc = precision, memory, graphs, nhwc

    @property
    def fingerprint(self) -> str:
        precision = self._precision or "float16 or float32"
        return f"onnxruntime {ort.__version__} {CUDA} {precision} {self._gpu.name} graphs={self._graphs} nhwc={self._nhwc}"

    @property
    def loads_beside_steps(self) -> bool:
        return False  # a capture fails when another thread uses the device

    def load(self, entry: Entry) -> BoundNetwork:
        """Load the entry onto the GPU. Raises BackendError when it does not load, breaks the contract or does not run there."""
        if self._precision == "float32":
            return self._open(entry, str(entry.graph), "float32")
        from models.runtime.half import half_graph  # needs onnx, which serving on a CPU does without

        network = self._open(entry, half_graph(entry.graph), "float16")
        if self._precision == "float16":
            return network
        found = agrees(network, OnnxBackend().load(entry), entry)
        if found.holds:
            log.info("precision_chosen", model=entry.id, precision="float16", agreement=str(found))
            return network
        log.warning("precision_chosen", model=entry.id, precision="float32", reason=f"float16 images differ: {found}")
        return self._open(entry, str(entry.graph), "float32")

    def _open(self, entry: Entry, graph: str | bytes, precision: Precision) -> BoundNetwork:
        def session(graphs: bool) -> ort.InferenceSession:
            chosen = provider_options(graphs=graphs, precision=precision, memory=self._memory, nhwc=self._nhwc)
            options = session_options(1)  # the CPU only computes shapes
            options.use_deterministic_compute = True
            return open_session(entry, graph, options, [(CUDA, chosen), CPU])

        captured = self._graphs
        try:
            opened = session(captured)
        except BackendError as error:
            if not captured:
                raise
            captured = False
            opened = session(captured)
            log.warning("cuda_graphs_off", model=entry.id, reason=first_line(error))
        if opened.get_providers()[0] != CUDA:  # the runtime falls back by itself when CUDA's libraries do not load
            raise BackendError(f"ONNX Runtime cannot use CUDA for {entry.graph}; check that CUDA 13 and cuDNN 9 are installed")
        return BoundNetwork(
            opened, entry, precision, device="cuda", without_graphs=partial(session, False) if captured else None
        )


@dataclass(frozen=True)
class _Bound:
    """The device buffers of one batch size, and the CUDA graph of a step on them."""

    inputs: dict[str, ort.OrtValue]
    outputs: tuple[ort.OrtValue, ort.OrtValue]
    binding: ort.IOBinding
    graph: str


class BoundNetwork:
    """A session whose inputs and outputs are bound to buffers on `device`, one set for each batch size.

    After `prepare` a batch is padded up to the next prepared size. `device` "cpu" runs the same path without a GPU.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        entry: Entry,
        precision: Precision,
        *,
        device: str,
        without_graphs: Callable[[], ort.InferenceSession] | None = None,
    ) -> None:
        """Bind a session. without_graphs: opens the session again without CUDA graphs; None: it has no graphs."""
        self._session, self._precision, self._device = session, precision, device
        self._without_graphs = without_graphs
        self._graph_ids = itertools.count(1)  # the session keeps a graph after its buffers are dropped, so no id is reused
        self._id = entry.id
        self._image, self._conditional = entry.manifest.image.chw, bool(entry.manifest.classes)
        self._bound: dict[int, _Bound] = {}
        self._buckets: list[int] = []

    @property
    def provider(self) -> str:
        return str(self._session.get_providers()[0])

    @property
    def precision(self) -> Precision:
        return self._precision

    def prepare(self, buckets: Sequence[int]) -> None:
        self._buckets = sorted(buckets)
        self._bound = {rows: bound for rows, bound in self._bound.items() if rows in self._buckets}
        for rows in reversed(self._buckets):  # largest first: the arena grows once, and lack of memory shows early
            self._buffers(rows)

    def padded(self, rows: int) -> int:
        return padded_size(self._buckets, rows)

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        rows = len(inputs["x"])
        size = self.padded(rows)
        bound = self._buffers(size)
        for name, value in step_feeds(size, **inputs).items():
            bound.inputs[name].update_inplace(value)
        self._run(bound.binding, bound.graph)
        # From another device `numpy` gives new memory. On the CPU it gives the buffer itself, which the next step overwrites.
        x_next, x0 = (np.array(value.numpy()[:rows], copy=self._device == "cpu" or None) for value in bound.outputs)
        return x_next, x0

    def _run(self, binding: ort.IOBinding, graph: str) -> None:
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            raise_if_out_of_memory(error)
            raise

    def _buffers(self, rows: int) -> _Bound:
        """Return the buffers of a batch size. The first use binds them, warms up and captures the graph."""
        if rows not in self._bound:
            try:
                bound = self._bind(rows)
            except Exception as error:
                raise_if_out_of_memory(error)
                raise
            for _ in range(_WARM_UPS):
                self._run(bound.binding, _NO_GRAPH)
            if bound.graph != _NO_GRAPH and not self._captures(bound):
                return self._buffers(rows)
            self._bound[rows] = bound
        return self._bound[rows]

    def _captures(self, bound: _Bound) -> bool:
        """Capture the graph of these buffers. Return False when that failed: a session without graphs then takes over."""
        assert self._without_graphs is not None
        try:
            self._run(bound.binding, bound.graph)
        except DeviceMemoryError:
            raise
        except Exception as error:
            log.warning("cuda_graphs_off", model=self._id, reason=first_line(error))
            self._bound.clear()  # all buffers are bound to the session that is replaced
            self._session, self._without_graphs = self._without_graphs(), None
            return False
        return True

    def _bind(self, rows: int) -> _Bound:
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "x": ((rows, *self._image), np.float32),
            "x0_prev": ((rows, *self._image), np.float32),
            "timestep": ((rows,), np.int64),
            "coefficients": ((rows, len(COEFFICIENTS)), np.float32),
        }
        if self._conditional:
            shapes["class_label"] = ((rows,), np.int64)
        binding = self._session.io_binding()
        inputs = {}
        for name, (shape, dtype) in shapes.items():
            inputs[name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device)
            inputs[name].update_inplace(np.zeros(shape, dtype))  # a captured label must exist in the embedding table
            binding.bind_ortvalue_input(name, inputs[name])
        image = (rows, *self._image)
        outputs = (
            ort.OrtValue.ortvalue_from_shape_and_type(image, np.float32, self._device),
            ort.OrtValue.ortvalue_from_shape_and_type(image, np.float32, self._device),
        )
        for name, value in zip(OUTPUTS, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Bound(inputs, outputs, binding, _NO_GRAPH if self._without_graphs is None else str(next(self._graph_ids)))
