"""Serving models: the engine, the HTTP API, the web page, telemetry and the `sfddm` command. Never imports torch."""
