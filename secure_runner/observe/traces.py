"""OpenTelemetry traces: one trace from an HTTP request, through its batch, to every party.

The W3C ``traceparent`` of a request goes with it to the runner, and that of a batch with its shares to the
other parties. Each runner reports spans of its own party to its own organisation's collector; organisations
that join their collections see one trace. Spans hold names, counts and durations, never a value.

Without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is exported, and ids are still made, for logs.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = [
    "current_traceparent",
    "make_provider",
    "record_span",
    "set_up_tracing",
    "span",
    "trace_id_of",
    "use",
]

Attributes = Mapping[str, str | int | float | bool]
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_provider: TracerProvider | None = None


def set_up_tracing(environment: Mapping[str, str], service: str) -> None:
    """Export spans of this process, if the environment names a collector; the second time, do nothing.

    The exporter reads OpenTelemetry's own variables (endpoint, headers, timeout, compression).
    """
    if not any(environment.get(name) for name in _ENDPOINTS) or _provider is not None:
        return
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter

    use(make_provider(OTLPSpanExporter(), service))


def make_provider(exporter: SpanExporter, service: str) -> TracerProvider:
    """A provider of its own: BentoML's global one follows BentoML's own settings."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def use(provider: TracerProvider | None) -> None:
    """Make spans of this process with this provider; None makes ids alone."""
    global _provider
    _provider = provider


@contextlib.contextmanager
def span(name: str, traceparent: str = "", attributes: Attributes | None = None) -> Iterator[trace.Span]:
    """A span around a block, the current one meanwhile.

    Args:
        name: of the span.
        traceparent: of its parent; without one, or with a malformed one, a new trace begins.
        attributes: known at its start.
    """
    parent = _context_of(traceparent)
    if _provider is None:
        made: trace.Span = NonRecordingSpan(_child_of(parent))
        token = contexts.attach(trace.set_span_in_context(made))
        try:
            yield made
        finally:
            contexts.detach(token)
        return
    tracer = _provider.get_tracer("secure_runner")
    context = None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
    # An exception's message is not for a collector.
    with tracer.start_as_current_span(
        name, context, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as made:
        yield made


def record_span(name: str, traceparent: str, duration_s: float, attributes: Attributes) -> None:
    """A span that has just ended, known from its report."""
    parent = _context_of(traceparent)
    if _provider is None or parent is None:
        return
    ended_ns = time.time_ns()
    tracer = _provider.get_tracer("secure_runner")
    context = trace.set_span_in_context(NonRecordingSpan(parent))
    started_ns = ended_ns - int(duration_s * 1e9)
    tracer.start_span(name, context, attributes=attributes, start_time=started_ns).end(ended_ns)


def current_traceparent() -> str:
    """W3C ``traceparent`` of the current span; nothing outside of one."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def trace_id_of(traceparent: str) -> str:
    """The trace's id alone, for logs."""
    return traceparent[3:35]


@functools.lru_cache(maxsize=256)
def _context_of(traceparent: str) -> SpanContext | None:
    version, _, rest = traceparent.partition("-")
    fields = rest.split("-")
    if version != "00" or [len(field) for field in fields] != [32, 16, 2]:
        return None
    try:
        trace_id, span_id, flags = (int(field, 16) for field in fields)
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _child_of(parent: SpanContext | None) -> SpanContext:
    # Together: each asks the system.
    first, last = divmod(secrets.randbits(192), 1 << 64)
    trace_id = first or 1 if parent is None else parent.trace_id
    flags = TraceFlags(TraceFlags.SAMPLED) if parent is None else parent.trace_flags
    return SpanContext(trace_id, last or 1, is_remote=False, trace_flags=flags)
