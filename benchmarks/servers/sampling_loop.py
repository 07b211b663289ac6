"""The sampling loop that every peer serves: whole requests, on the same ONNX files and with the same session options.

Settings come from the environment, because the frameworks start their own processes: BENCH_MODELS (ids, comma-separated),
BENCH_THREADS, BENCH_MAX_BATCH, BENCH_WAIT_S, BENCH_PROVIDER.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

from models.catalogue import default_zoo, discover
from models.noise import initial_noise

MODELS = os.environ.get("BENCH_MODELS", "fashion-mnist/student-016").split(",")
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "16"))
PROVIDERS = list(dict.fromkeys((os.environ.get("BENCH_PROVIDER", "CPUExecutionProvider"), "CPUExecutionProvider")))
WAIT_S = float(os.environ.get("BENCH_WAIT_S", "0.01"))  # how long the first request of a batch waits for others


def short_name(model: str) -> str:
    """Return a model id as a path segment: `student-016`."""
    return model.rpartition("/")[2]


class SamplingLoop:
    """The sampling loop of one model: a batch of requests goes through all of its steps together."""

    def __init__(self, model: str) -> None:
        resolved = discover([default_zoo()]).resolve(model)
        self._plan, self._image = resolved.plan, resolved.entry.manifest.image.chw
        if PROVIDERS[0] == "CUDAExecutionProvider":
            ort.preload_dlls()
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(resolved.entry.graph), options, providers=PROVIDERS)
        self([{"seed": 0, "class_label": 0}])  # warm-up

    def __call__(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
        """Return an answer for each request {seed, class_label}: a PNG in base64."""
        rows = len(requests)
        x = np.stack([initial_noise(request["seed"], 0, self._image) for request in requests])
        x0 = np.zeros_like(x)
        label = np.array([request["class_label"] for request in requests], dtype=np.int64)
        for step in range(len(self._plan)):
            feeds = {
                "x": x,
                "x0_prev": x0,
                "timestep": np.repeat(self._plan.label[step : step + 1], rows),
                "class_label": label,
                "coefficients": np.repeat(self._plan.coefficients[step : step + 1].astype(np.float32), rows, axis=0),
            }
            x, x0 = self._session.run(["x_next", "x0"], feeds)
        pixels = np.clip(np.rint((x + 1) * np.float32(127.5)), 0, 255).astype(np.uint8)
        return [{"b64_json": _png(image)} for image in pixels]


def _png(pixels: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
