"""OpenVINO on a CPU with bf16 units. bfloat16 has the range of float32 in 16 bits and computes faster than float32.

A graph is compiled once for each batch size. With a free batch dimension OpenVINO cannot fuse the scale and shift behind
its normalisations, which then cost more than the convolutions. A batch is padded up to the next prepared size.
A row must give the same bytes at every batch size and beside any other rows. Otherwise the model is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import openvino as ov
import structlog

from models.catalogue import Entry
from models.runtime.base import BackendError, Float32, Precision, StepInputs
from models.runtime.onnx import first_line, padded_size, raise_if_out_of_memory, step_feeds, usable_cores
from models.runtime.probe import ROWS, rows_are_independent

log = structlog.get_logger(__name__)

OPENVINO = "OpenVINO"
_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackend:
    """Compiles step graphs for the CPU."""

    def __init__(self, *, threads: int | None = None, precision: Precision = "bfloat16") -> None:
        """Open OpenVINO on the CPU. threads: CPU threads per evaluation, None: every core this process may use.

        Raises BackendError where the CPU has no units for `precision`.
        """
        if precision not in _HINTS:
            raise BackendError(f"OpenVINO runs in {' or '.join(_HINTS)} here, not in {precision}")
        self._core = ov.Core()
        if precision == "bfloat16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError("this CPU has no bf16 units")
        self._precision = precision
        self._threads = threads or usable_cores()

    @property
    def fingerprint(self) -> str:
        device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        return f"openvino {ov.__version__} {self._precision} {device} {self._threads} threads"

    @property
    def loads_beside_steps(self) -> bool:
        return True

    def load(self, entry: Entry) -> OpenVinoNetwork:
        """Load the entry's graph. Raises BackendError when it does not run, or when rows are not independent."""
        hints = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
        }
        network = OpenVinoNetwork(self._core, entry, self._precision, hints)
        try:
            independent = rows_are_independent(network, entry, ROWS)
        except Exception as error:  # the runtime raises RuntimeError for everything
            raise BackendError(f"OpenVINO cannot run {entry.graph}: {first_line(error)}") from error
        if not independent:
            raise BackendError(f"OpenVINO gives {entry.id} other bytes alone than in a batch")
        return network


class OpenVinoNetwork:
    """One model, compiled once for each batch size in use. `prepare` compiles its sizes and drops all others."""

    def __init__(self, core: ov.Core, entry: Entry, precision: Precision, hints: dict[str, Any]) -> None:
        self._core, self._graph, self._hints = core, entry.graph, hints
        self._precision = precision
        self._requests: dict[int, ov.InferRequest] = {}
        self._buckets: list[int] = []

    @property
    def provider(self) -> str:
        return OPENVINO

    @property
    def precision(self) -> Precision:
        return self._precision

    def prepare(self, buckets: Sequence[int]) -> None:
        self._buckets = sorted(buckets)
        self._requests = {rows: request for rows, request in self._requests.items() if rows in self._buckets}
        for rows in self._buckets:
            self._request(rows)

    def padded(self, rows: int) -> int:
        return padded_size(self._buckets, rows)

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        rows = len(inputs["x"])
        size = self.padded(rows)
        try:
            request = self._request(size)
            request.infer(step_feeds(size, **inputs))
        except Exception as error:
            raise_if_out_of_memory(error)
            raise
        # Copy, because the request writes its next results into the same tensors.
        x_next, x0 = (np.array(request.get_tensor(name).data[:rows]) for name in ("x_next", "x0"))
        return x_next, x0

    def _request(self, rows: int) -> ov.InferRequest:
        if rows not in self._requests:
            model = self._core.read_model(self._graph)
            model.reshape({port.any_name: [rows, *list(port.partial_shape)[1:]] for port in model.inputs})
            self._requests[rows] = self._core.compile_model(model, "CPU", self._hints).create_infer_request()
        return self._requests[rows]
