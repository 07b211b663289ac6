"""Serving models: the engine, the HTTP API, the web page, telemetry and the `sfddm` command. Never imports torch."""

import os

# onnxruntime's wheels (1.29 and later) report sessions and models to their maker unless told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
