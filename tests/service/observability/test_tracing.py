"""Tracing: when requests are traced, and what prevents it. What a collector receives is in tests/e2e/test_traces.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.observability.tracing import open_tracing

ROOT = Path(__file__).parents[3]
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "cats", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        ENDPOINT | {"OTEL_SDK_DISABLED": "True"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_traced_unless_it_is_asked_for(environment: dict[str, str]) -> None:
    with capture_logs() as said:
        assert open_tracing(environment, "1") is None
    assert said == []


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
    ],
)
def test_what_cannot_be_done_is_a_warning(environment: dict[str, str], names: str) -> None:
    with capture_logs() as said:
        assert open_tracing(environment, "1") is None
    (warning,) = said
    assert (warning["event"], warning["log_level"]) == ("traces_off", "warning")
    assert names in warning["reason"]


def run(program: str, *arguments: str, **changes: str) -> str:
    """Run a program and return the last line that it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | changes
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def test_a_missing_extra_is_a_warning_that_names_it() -> None:
    program = """
import os, sys
sys.modules["opentelemetry.sdk"] = None  # an import now fails, as where the package is not installed
from service.observability.tracing import open_tracing
assert open_tracing(os.environ, "1") is None
"""
    assert "pip install 'sfddm-serve[otel]'" in run(program, **ENDPOINT)


def test_nothing_of_it_is_imported_where_nothing_asks_for_it(tiny_zoo: Path) -> None:
    """Only the exporter and the SDK are checked: redis-py imports OpenTelemetry's API where it is installed."""
    program = """
import sys
from pathlib import Path
from service.api.app import create_app
from service.settings.model import Settings
create_app(Settings(zoos=(Path(sys.argv[1]),), threads=1))
print([name for name in sys.modules if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk.trace"))])
"""
    assert run(program, str(tiny_zoo)) == "[]"
