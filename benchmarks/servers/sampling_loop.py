"""The sampling loop that every peer serves: whole requests, on the same ONNX files and with the same session options.

Settings come from the environment, because the frameworks start their own processes: BENCH_MODELS (ids, comma-separated),
BENCH_THREADS, BENCH_MAX_BATCH, BENCH_WAIT_S, BENCH_PROVIDER.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Unpack

import numpy as np
import onnxruntime as ort
from PIL import Image

from models.catalogue import default_zoo, discover
from models.pictures import channels_last, to_uint8
from models.runtime.base import Float32, StepInputs
from models.runtime.denoise import denoise, starting_noise

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
        keys = [(request["seed"], 0) for request in requests]
        label = np.array([request["class_label"] for request in requests], dtype=np.int64)
        images = denoise(self, self._plan, starting_noise(keys, self._image), keys=keys, class_label=label)
        return [{"b64_json": _png(image)} for image in to_uint8(images)]

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        """Take one denoise step in the bare session."""
        x_next, x0 = self._session.run(["x_next", "x0"], dict(inputs))
        return x_next, x0


def _png(pixels: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(channels_last(pixels)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
