"""Ray Serve with @serve.batch: one deployment a model, one replica each."""

from __future__ import annotations

import sys
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.servers.sampling_loop import MAX_BATCH, MODELS, WAIT_S, SamplingLoop, short_name


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Api:
    def __init__(self, model: str) -> None:
        self._loop = SamplingLoop(model)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def sample(self, requests: list[dict[str, Any]]) -> list[dict[str, str]]:
        return self._loop(requests)

    async def __call__(self, request: Request) -> dict[str, str]:
        return await self.sample(await request.json())


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Ready:
    def __call__(self) -> str:
        return "ready"


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    for model in MODELS:
        serve.run(Api.bind(model), name=short_name(model), route_prefix=f"/generate/{short_name(model)}")
    serve.run(Ready.bind(), name="ready", route_prefix="/ready")
    while True:
        time.sleep(3600)
