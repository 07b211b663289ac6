"""LitServe: one LitAPI a model, each with dynamic batching and its own worker process.

No `from __future__ import annotations` here: LitServe passes the annotation of decode_request to FastAPI as a type.
"""

import sys
from typing import Any

import litserve as ls

from benchmarks.servers.sampling_loop import MAX_BATCH, MODELS, WAIT_S, SamplingLoop, short_name


class Api(ls.LitAPI):
    def __init__(self, model: str) -> None:
        self._model = model
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S, api_path=f"/generate/{short_name(model)}")

    def setup(self, device: str) -> None:
        self._loop = SamplingLoop(self._model)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[dict[str, str]]:
        return self._loop(x)

    def unbatch(self, output: list[dict[str, str]]) -> list[dict[str, str]]:
        return output

    def encode_response(self, output: dict[str, str]) -> dict[str, str]:
        return output


if __name__ == "__main__":
    server = ls.LitServer([Api(model) for model in MODELS], accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
