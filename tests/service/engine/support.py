"""Helpers of the engine's tests: a reference sampler without an engine, a running engine, and networks that misbehave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Unpack
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.catalogue import Catalogue, Entry, Resolved
from models.noise import initial_noise, step_noise
from models.runtime.base import Backend, Float32, Int64, Network, Precision, StepInputs
from models.runtime.onnx import OnnxBackend
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.request import ImageSpec
from service.observability.metrics import Metrics


def reference(model: Resolved, spec: ImageSpec) -> NDArray[np.uint8]:
    """Return the image that a plain ONNX Runtime loop makes, one row alone: uint8 [C,H,W]."""
    session = ort.InferenceSession(str(model.entry.graph), providers=["CPUExecutionProvider"])
    shape = model.entry.manifest.image.chw
    x = initial_noise(spec.seed, spec.index, shape)[None]
    x0 = np.zeros_like(x)
    for step in range(len(model.plan)):
        feeds = {
            "x": x,
            "x0_prev": x0,
            "timestep": model.plan.label[step : step + 1],
            "coefficients": model.plan.coefficients[step : step + 1].astype(np.float32),
        }
        if spec.class_label is not None:
            feeds["class_label"] = np.array([spec.class_label], dtype=np.int64)
        x, x0 = session.run(["x_next", "x0"], feeds)
        if model.plan.s[step]:
            x = x + np.float32(model.plan.s[step]) * step_noise(spec.seed, spec.index, step, shape)
    pixels: NDArray[np.uint8] = np.clip(np.rint((x[0] + 1) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return pixels


@asynccontextmanager
async def running(
    catalogue: Catalogue,
    backend: Backend | None = None,
    config: EngineConfig | None = None,
    metrics: Metrics | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> AsyncIterator[Engine]:
    """Yield an engine that is ready, and drain it at the end. Batches of 8 by default, which are quick to calibrate."""
    backend, config = backend or OnnxBackend(threads=1), config or EngineConfig(max_batch=8)
    engine = Engine(catalogue, backend, config, metrics or Metrics(), clock)
    engine.start()
    try:
        await until(lambda: engine.ready)
        yield engine
    finally:
        await engine.drain(30)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until another thread makes the condition true."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return one sample of the registry, 0 when it has not been written."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


class Watched:
    """A backend that, once armed, records the timesteps of every batch and calls `before` and `after` around each step.

    before(timestep, class_label) may raise or wait. after(x_next, timestep, class_label) may spoil the result.
    """

    def __init__(self) -> None:
        self._inner = OnnxBackend(threads=1)
        self.armed = False
        self.steps = 0  # of all batches, armed or not
        self.networks: WeakValueDictionary[str, Network] = WeakValueDictionary()  # by entry key, while somebody uses them
        self.batches: list[list[int]] = []
        self.broken = False  # `padded` raises, as a bug of the engine would
        self.before: Callable[[Int64, Int64 | None], None] = lambda timestep, class_label: None
        self.after: Callable[[Float32, Int64, Int64 | None], None] = lambda x_next, timestep, class_label: None

    def ticks_s(self) -> float:
        """Read a clock on which every batch takes 1 ms, however busy the machine is."""
        return 0.001 * self.steps

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    @property
    def loads_beside_steps(self) -> bool:
        return True

    def load(self, entry: Entry) -> Network:
        network = _WatchedNetwork(self._inner.load(entry), self)
        self.networks[entry.key] = network
        return network


class _WatchedNetwork:
    def __init__(self, inner: Network, watched: Watched) -> None:
        self._inner = inner
        self._watched = watched

    @property
    def provider(self) -> str:
        return self._inner.provider

    @property
    def precision(self) -> Precision:
        return self._inner.precision

    def prepare(self, buckets: Sequence[int]) -> None:
        self._inner.prepare(buckets)

    def padded(self, rows: int) -> int:
        if self._watched.broken:
            raise RuntimeError("a bug")
        return self._inner.padded(rows)

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        timestep, class_label = inputs["timestep"], inputs["class_label"]
        if self._watched.armed:
            self._watched.batches.append(timestep.tolist())
            self._watched.before(timestep, class_label)
        x_next, x0 = self._inner.step(**inputs)
        self._watched.steps += 1
        if self._watched.armed:
            self._watched.after(x_next, timestep, class_label)
        return x_next, x0


class Gate:
    """Holds up the device: each step waits for a permit of `let`."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.waiting = 0  # steps that have reached the gate

    def __call__(self, timestep: Int64, class_label: Int64 | None) -> None:
        self.waiting += 1
        if not self._permits.acquire(timeout=60):
            raise TimeoutError("the test left the gate closed")

    def let(self, steps: int) -> None:
        """Let `steps` steps pass."""
        self._permits.release(steps)
