"""OpenTelemetry traces, where the environment asks for them (OTEL_*). Otherwise nothing is imported and nothing costs time.

A request is one server span. It is a child of the caller's span when the caller sends a traceparent. The request's phases
(record.py) are its children: queue, denoise, encode. They are made when the request is over, from the times in its record. The
SDK reads its own variables, sends in the background, and drops spans rather than wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
_FAILED = frozenset({"error", "unavailable"})
_FLUSH_S = 3.0  # at shutdown, for spans that are not sent yet: a collector that is down must not delay the exit
_REPEAT_S = 60.0  # between two log lines with the same message of the SDK

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Phase:
    """A part of a request's time. start_s and end_s: readings of time.perf_counter(), in seconds.

    busy_s: seconds of work between start and end; less than their difference where there are gaps.
    """

    name: str
    start_s: float
    end_s: float
    busy_s: float


def open_tracing(environment: Mapping[str, str], version: str) -> Tracing | None:
    """Return a tracing when the environment asks for traces, else None.

    The environment asks for them with a collector's endpoint or OTEL_TRACES_EXPORTER=otlp, unless OTEL_SDK_DISABLED is true.
    When traces are asked for and cannot be made, this logs a warning, and images are served without traces.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp" if any(map(environment.get, ENDPOINTS)) else "none").strip()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return None
    protocol = next(filter(None, map(environment.get, PROTOCOLS)), PROTOCOL)
    if exporter != "otlp" or protocol != PROTOCOL:
        _log.warning(
            "traces_off", reason=f"only the exporter otlp over {PROTOCOL} is supported, not {exporter} over {protocol}"
        )
        return None
    try:
        return Tracing(version)
    except ImportError as error:
        _log.warning("traces_off", reason=f"OTEL_* asks for them but {error.name} is missing; pip install 'sfddm-serve[otel]'")
    except Exception as error:  # the SDK may raise anything about its variables
        _log.warning("traces_off", reason=f"{type(error).__name__}: {error}")
    return None


class Tracing:
    """A tracer and its connection to the collector. Raises ImportError without the extra `otel`."""

    def __init__(self, version: str) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        library = logging.getLogger("opentelemetry")
        library.handlers, library.propagate = [_OnceAMinute()], False
        resource = Resource.create({SERVICE_VERSION: version})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "sfddm"}))
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("sfddm", version)
        self._extract = propagate.extract
        self._trace = trace

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> RequestSpan:
        """Start the span of a request that has just arrived."""
        attributes = {"http.request.method": method, "url.path": path}
        span = self._tracer.start_span(
            method, context=self._extract(headers), kind=self._trace.SpanKind.SERVER, attributes=attributes
        )
        return RequestSpan(self._trace, self._tracer, span)

    def shut_down(self) -> None:
        """Send the remaining spans, within a few seconds."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_FLUSH_S)


class RequestSpan:
    """The span of one request."""

    def __init__(self, trace: ModuleType, tracer: Tracer, span: Span) -> None:
        """trace: the module opentelemetry.trace."""
        self._trace = trace
        self._tracer = tracer
        self._span = span
        self._zero_ns = time.time_ns() - time.perf_counter_ns()  # Unix time at which time.perf_counter() was 0

    @property
    def trace_id(self) -> str:
        """The trace's id as in a traceparent: 32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def end(self, name: str, outcome: str, attributes: Mapping[str, Any], phases: Sequence[Phase]) -> None:
        """End the span, and make a child span for each phase. Attributes that are None are left out."""
        span, trace = self._span, self._trace
        if span.is_recording():
            span.update_name(name)
            span.set_attributes({key: value for key, value in attributes.items() if value is not None})
            if outcome in _FAILED:
                span.set_status(trace.Status(trace.StatusCode.ERROR, outcome))
            context = trace.set_span_in_context(span)
            for phase in phases:
                start_ns, end_ns = (self._zero_ns + round(1e9 * at_s) for at_s in (phase.start_s, phase.end_s))
                child = self._tracer.start_span(phase.name, context=context, start_time=start_ns)
                child.set_attribute("sfddm.busy_s", phase.busy_s)
                child.end(end_ns)
        span.end()


class _OnceAMinute(logging.Handler):
    """Logs the SDK's messages, each at most once a minute. Else a collector that is down would give a line for each batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logged_s: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(record.msg, -_REPEAT_S) >= _REPEAT_S:
            self._logged_s[record.msg] = now_s
            _log.warning("traces", message=record.getMessage())
