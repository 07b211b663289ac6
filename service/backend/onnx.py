"""ONNX Runtime: runs the step graph of a model folder on the best provider that this machine offers.

CPU settings come from one short measurement (2.6-million-parameter UNet, 28x28, batches 1 to 32, 2 threads on 2 cores
shared with another job): full graph optimisation (NCHWc convolutions) took 15 to 40 % less time than the extended level,
and threads that do not spin while they wait 30 to 47 % less than spinning ones. The arena made no clear difference. On an
idle machine spinning may cost less than that; the API's event loop shares the cores either way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import structlog
from numpy.typing import NDArray

from models.catalogue import Entry
from models.noise import initial_noise
from models.plan import COEFFICIENTS
from service.backend.base import BackendError, Float32, Int64, Precision

log = structlog.get_logger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_OUTPUTS = ["x_next", "x0"]
_PROBE_ROWS = 4


class OnnxBackend:
    """Loads step graphs into ONNX Runtime sessions."""

    def __init__(self, *, threads: int | None = None, provider: str | None = None) -> None:
        """threads: CPU threads per network evaluation, None: every core this process may use.

        provider: an ONNX Runtime provider, None: CUDA where the installed runtime has it, else the CPU.
        Raises BackendError for a provider that the installed runtime does not have.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self._threads = threads or _usable_cores()
        self._provider = _choose_provider(provider, ort.get_available_providers())
        if self._provider == CUDA:  # CUDA and cuDNN come as wheels beside the runtime, where the loader does not look
            ort.preload_dlls()

    @property
    def fingerprint(self) -> str:
        return f"onnxruntime {ort.__version__} {self._provider} {self._threads} threads"

    def load(self, entry: Entry) -> OnnxNetwork:
        """A session for the entry's graph. Raises BackendError when it does not load or breaks the step graph contract."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; everything else is said here
        providers: list[Any] = [CPU]
        if self._provider == CUDA:  # the default search benchmarks every new batch size while requests wait
            providers.insert(0, (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}))
        elif self._provider != CPU:
            providers.insert(0, self._provider)
        try:
            session = ort.InferenceSession(str(entry.graph), options, providers=providers)
        except Exception as error:  # the runtime's exceptions share no public base class
            raise BackendError(f"ONNX Runtime cannot load {entry.graph}: {_first_line(error)}") from error
        _check_contract(session, entry)
        network = OnnxNetwork(session, entry)
        if network.provider != self._provider:
            log.warning("provider_fell_back", model=entry.id, asked=self._provider, got=network.provider)
        return network


class OnnxNetwork:
    """One session. A batch of one is run as two rows where the runtime would otherwise compute it differently."""

    def __init__(self, session: ort.InferenceSession, entry: Entry) -> None:
        self._session = session
        self._smallest = 1
        if not self._alone_as_in_company(entry):
            self._smallest = 2
            log.info("single_rows_padded", model=entry.id, reason="a batch of one does not give the same bytes as a larger one")

    @property
    def provider(self) -> str:
        return str(self._session.get_providers()[0])

    @property
    def precision(self) -> Precision:
        return "float32"

    def prepare(self, buckets: Sequence[int]) -> None:
        pass

    def padded(self, rows: int) -> int:
        return max(rows, self._smallest)

    def step(
        self, x: Float32, x0_prev: Float32, timestep: Int64, class_label: Int64 | None, coefficients: Float32
    ) -> tuple[Float32, Float32]:
        feeds: dict[str, NDArray[Any]] = {"x": x, "x0_prev": x0_prev, "timestep": timestep, "coefficients": coefficients}
        if class_label is not None:
            feeds["class_label"] = class_label
        rows = len(x)
        missing = self.padded(rows) - rows
        if missing:
            feeds = {name: np.concatenate([value, np.repeat(value[:1], missing, axis=0)]) for name, value in feeds.items()}
        x_next, x0 = self._session.run(_OUTPUTS, feeds)
        return x_next[:rows], x0[:rows]

    def _alone_as_in_company(self, entry: Entry) -> bool:
        """Whether rows give the same bytes alone and together.

        The runtime has a vector-matrix kernel that sums in another order than its matrix kernels. It is not reached while
        the weights are constants packed at load, which is so on x86 with full optimisation; elsewhere this notices.
        """
        manifest, rows = entry.manifest, _PROBE_ROWS
        x = np.stack([initial_noise(0, row, manifest.image.chw) for row in range(rows)])
        timestep = np.resize(np.asarray(manifest.labels, dtype=np.int64), rows)
        label = np.arange(rows, dtype=np.int64) % len(manifest.classes) if manifest.classes else None
        coefficients = np.full((rows, len(COEFFICIENTS)), 0.5, dtype=np.float32)

        def run(part: slice) -> Float32:
            return self.step(x[part], x[part], timestep[part], None if label is None else label[part], coefficients[part])[0]

        try:
            together = run(slice(None))
            alone = np.concatenate([run(slice(row, row + 1)) for row in range(rows)])
        except Exception as error:
            raise BackendError(f"{entry.graph} loads but does not run: {_first_line(error)}") from error
        return together.tobytes() == alone.tobytes()


def _choose_provider(asked: str | None, available: list[str]) -> str:
    if asked is not None:
        if asked not in available:
            raise BackendError(f"the provider {asked!r} is not in the installed ONNX Runtime, which has {', '.join(available)}")
        log.info("provider_chosen", provider=asked, reason="configured")
        return asked
    if CUDA in available:
        log.info("provider_chosen", provider=CUDA, reason="the installed ONNX Runtime has it")
        return CUDA
    log.info("provider_chosen", provider=CPU, reason=f"the installed ONNX Runtime has no {CUDA}")
    return CPU


def _check_contract(session: ort.InferenceSession, entry: Entry) -> None:
    """Inputs, outputs, types and image shape are those of the step graph contract, or BackendError."""
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
    _compare(entry, "input", expected, {node.name: [node.type, *node.shape[1:]] for node in session.get_inputs()})
    found = {node.name: [node.type] for node in session.get_outputs()}  # exporters often leave output shapes open
    _compare(entry, "output", {name: ["tensor(float)"] for name in _OUTPUTS}, found)


def _compare(entry: Entry, kind: str, expected: dict[str, list[Any]], found: dict[str, list[Any]]) -> None:
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise BackendError(
                f"{entry.graph} breaks the step graph contract: {kind} {name!r} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such name')}; export the model again"
            )


def _usable_cores() -> int:
    """Cores this process may run on, which containers and taskset narrow."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
