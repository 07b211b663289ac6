"""Serving models: the engine, the HTTP API, the web page, metrics and traces, and the `sfddm` command. Never imports torch."""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sfddm-serve")  # pyproject.toml sets the number
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"

# From version 1.29 on, onnxruntime's wheels send telemetry about sessions and models. This variable, set before the import,
# switches it off.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
