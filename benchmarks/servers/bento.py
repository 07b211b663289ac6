"""BentoML with adaptive batching: one service, one batched endpoint a model.

    bentoml serve benchmarks.servers.bento:Sampling

A batched endpoint takes a list named after its parameter: {"requests": [{"seed": 0, "class_label": 0}]}.
"""

from collections.abc import Callable
from typing import Any

import bentoml

from benchmarks.servers.sampling_loop import MAX_BATCH, MODELS, SamplingLoop, short_name

_LATENCY_MS = 3_600_000  # the dispatcher refuses requests that it expects to take longer; here every peer queues all requests


def _name(model: str) -> str:
    return short_name(model).replace("-", "_")


def _endpoint(model: str) -> Callable[..., Any]:
    def sample(self: Any, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.loops[model](requests)

    sample.__name__ = sample.__qualname__ = _name(model)
    batched = bentoml.api(
        batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=_LATENCY_MS, route=f"/generate/{short_name(model)}"
    )
    return batched(sample)


def _load(self: Any) -> None:
    self.loops = {model: SamplingLoop(model) for model in MODELS}


Sampling = bentoml.service(workers=1, traffic={"timeout": 3600, "max_concurrency": 100_000})(
    type("Sampling", (), {"__init__": _load, **{_name(model): _endpoint(model) for model in MODELS}})
)
