"""Traces by OpenTelemetry's own instrumentation for FastAPI, without anything that was sent or answered.

The collector is named by OpenTelemetry's environment variables, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from beholder.errors import MissingExtra
from beholder.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI

UNTRACED = "/healthz,/readyz,/metrics"
REQUEST_ID = "beholder.request_id"
KEPT_ATTRIBUTES = {
    REQUEST_ID,
    "error.type",
    "exception.type",
    "http.flavor",
    "http.method",
    "http.request.method",
    "http.response.status_code",
    "http.scheme",
    "http.status_code",
    "network.protocol.version",
    "url.scheme",
}


def instrument(app: FastAPI, routes: Collection[str], exporter: Any = None) -> Any:
    """Trace the requests of an application; return the tracer provider, whose ``shutdown`` sends what is left.

    Args:
        app: The application.
        routes: Its routes. Of other paths a trace says nothing.
        exporter: Where spans go; by default to a collector, by OTLP over HTTP.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
        from opentelemetry.trace import Status
    except ModuleNotFoundError as error:
        raise MissingExtra("tracing", "telemetry") from error

    def kept(attributes: Any) -> dict[str, Any]:
        found = {name: value for name, value in (attributes or {}).items() if name in KEPT_ATTRIBUTES}
        if (attributes or {}).get("http.route") in routes:
            found["http.route"] = attributes["http.route"]
        return found

    def redacted(span: ReadableSpan) -> ReadableSpan:
        attributes = kept(span.attributes)
        method = attributes.get("http.request.method", attributes.get("http.method", "HTTP"))
        return ReadableSpan(
            name=f"{method} {attributes.get('http.route', '')}".strip(),
            context=span.get_span_context(),
            parent=span.parent,
            resource=span.resource,
            attributes=attributes,
            events=[Event(event.name, kept(event.attributes), event.timestamp) for event in span.events],
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    class RedactingExporter(SpanExporter):
        def __init__(self, inner: SpanExporter):
            self.inner = inner

        def export(self, spans: Any) -> SpanExportResult:
            return self.inner.export([redacted(span) for span in spans])

        def shutdown(self) -> None:
            self.inner.shutdown()

    def add_request_id(span: Any, scope: dict[str, Any]) -> None:
        if span.is_recording() and "request_id" in scope:
            span.set_attribute(REQUEST_ID, scope["request_id"])

    defaults = {"service.name": "beholder", "service.version": __version__}
    provider = TracerProvider(resource=Resource(defaults).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(RedactingExporter(exporter or OTLPSpanExporter())))
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        server_request_hook=add_request_id,
        excluded_urls=UNTRACED,
        exclude_spans=["receive", "send"],
    )
    return provider
