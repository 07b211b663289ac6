"""ONNX Runtime on the CPU: runs the step graph of a model folder.

A batch with at least one row for every thread is split: each thread evaluates its part alone, so that no thread waits for
another (`python -m benchmarks.cpu` measures the gain). A smaller batch is one evaluation of all threads.

Sessions use full graph optimisation (NCHWc convolutions), threads that do not spin while they wait, and one arena each.
benchmarks/cpu.py measures these choices. docs/performance.md shows the numbers.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from typing import Any, Unpack

import numpy as np
import onnxruntime as ort
import structlog
from numpy.typing import NDArray

from models.catalogue import Entry
from models.plan import COEFFICIENTS
from models.runtime.base import BackendError, DeviceMemoryError, Float32, Precision, StepInputs
from models.runtime.probe import probe_inputs

log = structlog.get_logger(__name__)

CPU = "CPUExecutionProvider"
OUTPUTS = ("x_next", "x0")

_PROBE_ROWS = 4
_MIN_BUSY = 0.75  # average share of threads that a split must keep busy; below it all threads share one evaluation
# Words in the messages of ONNX Runtime, CUDA, cuBLAS, cuDNN and C++ when memory runs out. None raises an exception of its own.
_OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "_alloc_failed", "bad_alloc", "bad allocation")


class OnnxBackend:
    """Loads step graphs into ONNX Runtime sessions on the CPU."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Open the CPU. threads: CPU threads that evaluate, None: every core this process may use."""
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self._threads = threads or usable_cores()
        self._helpers = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="onnx")

    @property
    def fingerprint(self) -> str:
        return f"onnxruntime {ort.__version__} {CPU} float32 {cpu_name()} {self._threads} threads, rows apart"

    @property
    def loads_beside_steps(self) -> bool:
        return True

    def load(self, entry: Entry) -> OnnxNetwork:
        """Open sessions for the entry's graph. Raises BackendError when it does not load or breaks the step graph contract."""
        wide = open_session(entry, str(entry.graph), session_options(self._threads), [CPU])
        if self._threads == 1:
            return OnnxNetwork(entry, wide)
        narrow = open_session(entry, str(entry.graph), session_options(1), [CPU])
        return OnnxNetwork(entry, wide, narrow, self._threads, self._helpers)


class OnnxNetwork:
    """One model in two sessions: one that uses all threads, and one of a single thread that runs several evaluations at once.

    Where the runtime computes a single row differently, a batch of one runs as two rows.
    """

    def __init__(
        self,
        entry: Entry,
        wide: ort.InferenceSession,
        narrow: ort.InferenceSession | None = None,
        threads: int = 1,
        helpers: Executor | None = None,
    ) -> None:
        """Use the session `wide`, and `narrow` if given: `helpers` then run all parts of a split batch but one."""
        self._wide, self._narrow, self._threads, self._helpers = wide, narrow, threads, helpers
        self._smallest = 1
        try:
            self._settle(entry)
        except Exception as error:
            raise BackendError(f"{entry.graph} loads but does not run: {first_line(error)}") from error

    def _settle(self, entry: Entry) -> None:
        """Test every way to run a batch, and keep only those that give a row the same bytes."""
        feeds = step_feeds(_PROBE_ROWS, **probe_inputs(entry, _PROBE_ROWS))
        alone = [{name: value[row : row + 1] for name, value in feeds.items()} for row in range(_PROBE_ROWS)]

        def run(session: ort.InferenceSession, parts: list[dict[str, NDArray[Any]]]) -> bytes:
            return b"".join(session.run(OUTPUTS, part)[0].tobytes() for part in parts)

        together = run(self._wide, [feeds])
        if self._narrow is not None and run(self._narrow, [feeds]) != together:
            self._narrow = None
            log.info("rows_not_split", model=entry.id, reason="one thread does not give the same bytes as several")
        # The runtime has a vector-matrix kernel that sums in another order than its matrix kernels. It is not used where
        # the weights are constants packed at load, as on x86 with full optimisation. Elsewhere this check finds it.
        if any(session is not None and run(session, alone) != together for session in (self._wide, self._narrow)):
            self._smallest = 2
            log.info("single_rows_padded", model=entry.id, reason="a batch of one does not give the same bytes as a larger one")

    @property
    def provider(self) -> str:
        return CPU

    @property
    def precision(self) -> Precision:
        return "float32"

    def prepare(self, buckets: Sequence[int]) -> None:
        """Do nothing: a session takes every batch size, and its arena keeps what the largest one needed."""

    def padded(self, rows: int) -> int:
        return max(rows, self._smallest)

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        rows = len(inputs["x"])
        size = self.padded(rows)
        x_next, x0 = self._run(step_feeds(size, **inputs), self._parts(size))
        return x_next[:rows], x0[:rows]

    @property
    def abreast(self) -> int:
        return 1 if self._narrow is None or self._smallest > 1 else self._threads

    def step_abreast(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        """Take one denoise step with a thread for every row."""
        rows = len(inputs["x"])
        return self._run(step_feeds(rows, **inputs), [slice(row, row + 1) for row in range(rows)])

    def _parts(self, size: int) -> list[slice | None]:
        """Split a batch into one part a thread. Return [None], the whole, for too few rows or if threads would idle."""
        longest = -(-size // self._threads)
        if self._narrow is None or size // self._threads < self._smallest or size < _MIN_BUSY * longest * self._threads:
            return [None]
        edges = [size * part // self._threads for part in range(self._threads + 1)]
        return [slice(*part) for part in itertools.pairwise(edges)]

    def _run(self, feeds: dict[str, NDArray[Any]], parts: list[slice | None]) -> tuple[Float32, Float32]:
        """Evaluate a batch: all threads on the whole, or one thread on each of its parts."""
        try:
            if parts == [None]:
                x_next, x0 = self._wide.run(OUTPUTS, feeds)
                return x_next, x0
            return self._side_by_side([{name: value[part] for name, value in feeds.items()} for part in parts])
        except Exception as error:
            raise_if_out_of_memory(error)
            raise

    def _side_by_side(self, parts: list[dict[str, NDArray[Any]]]) -> tuple[Float32, Float32]:
        """Evaluate the parts of a batch at the same time, one of them in this thread."""
        assert self._narrow is not None
        assert self._helpers is not None
        running = [self._helpers.submit(self._narrow.run, OUTPUTS, part) for part in parts[1:]]
        try:
            results = [self._narrow.run(OUTPUTS, parts[0])]
        finally:
            wait(running)  # no part may still run when the step returns or raises
        results += [part.result() for part in running]
        x_next, x0 = (np.concatenate(values) for values in zip(*results, strict=True))
        return x_next, x0


def session_options(threads: int) -> ort.SessionOptions:
    """Return the options of a session that computes with `threads` CPU threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only; this package logs the rest itself
    return options


def open_session(entry: Entry, graph: str | bytes, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    """Open a session and check the step graph contract. Raises BackendError when the graph does not load or breaks it."""
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # the runtime's exceptions share no public base class
        raise BackendError(f"ONNX Runtime cannot load {entry.graph}: {first_line(error)}") from error
    _check_contract(session, entry)
    return session


def padded_size(buckets: Sequence[int], rows: int) -> int:
    """Return the smallest of the ascending batch sizes that holds `rows`, or `rows` itself beyond the largest."""
    return next((bucket for bucket in buckets if bucket >= rows), rows)


def step_feeds(size: int, **inputs: Unpack[StepInputs]) -> dict[str, NDArray[Any]]:
    """Return the step graph's inputs by name, padded to `size` rows with copies of the first row."""
    feeds: dict[str, Any] = {name: value for name, value in inputs.items() if value is not None}
    missing = size - len(inputs["x"])
    if missing:
        feeds = {name: np.concatenate([value, np.repeat(value[:1], missing, axis=0)]) for name, value in feeds.items()}
    return feeds


def raise_if_out_of_memory(error: Exception) -> None:
    """Raise DeviceMemoryError when a runtime's error means that memory ran out. Otherwise return."""
    message = str(error).lower()
    if isinstance(error, MemoryError) or any(words in message for words in _OUT_OF_MEMORY):
        raise DeviceMemoryError(first_line(error)) from error


def _check_contract(session: ort.InferenceSession, entry: Entry) -> None:
    """Raise BackendError unless names, types and image shape are those of the step graph contract."""
    manifest = entry.manifest
    image: list[Any] = ["tensor(float)", *manifest.image.chw]
    expected: dict[str, list[Any]] = {
        "x": image,
        "x0_prev": image,
        "timestep": ["tensor(int64)"],
        "coefficients": ["tensor(float)", len(COEFFICIENTS)],
    }
    if manifest.classes:
        expected["class_label"] = ["tensor(int64)"]
    _check_nodes(entry, "input", expected, {node.name: [node.type, *node.shape[1:]] for node in session.get_inputs()})
    found = {node.name: [node.type] for node in session.get_outputs()}  # exporters often leave output shapes open
    _check_nodes(entry, "output", {name: ["tensor(float)"] for name in OUTPUTS}, found)


def _check_nodes(entry: Entry, kind: str, expected: dict[str, list[Any]], found: dict[str, list[Any]]) -> None:
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise BackendError(
                f"{entry.graph} breaks the step graph contract: {kind} {name!r} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such name')}; export the model again"
            )


def usable_cores() -> int:
    """Count the cores this process may run on. Containers and taskset allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name on Linux, its architecture elsewhere."""
    try:
        with open("/proc/cpuinfo") as lines:
            named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named or platform.machine()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
