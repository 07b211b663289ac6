"""LitServe: one LitAPI a model, each with dynamic batching and a worker process of its own.

Annotations must be types here, not text: LitServe hands that of decode_request on to FastAPI.
"""

import sys
from typing import Any

import litserve as ls

from benchmarks.servers.sampler import MAX_BATCH, MODELS, WAIT_S, Sampler, short_name


class Api(ls.LitAPI):
    def __init__(self, model: str) -> None:
        self._model = model
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S, api_path=f"/generate/{short_name(model)}")

    def setup(self, device: str) -> None:
        self._sampler = Sampler(self._model)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[dict[str, str]]:
        return self._sampler(x)

    def unbatch(self, output: list[dict[str, str]]) -> list[dict[str, str]]:
        return output

    def encode_response(self, output: dict[str, str]) -> dict[str, str]:
        return output


if __name__ == "__main__":
    server = ls.LitServer([Api(model) for model in MODELS], accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
