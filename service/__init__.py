"""Serving models: the engine, the HTTP API, the web page, metrics and traces, and the `sfddm` command. Never imports torch."""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sfddm-serve")  # the number stands in pyproject.toml
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"

# onnxruntime's wheels (1.29 and later) report sessions and models to their maker unless told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
