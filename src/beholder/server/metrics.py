"""Prometheus metrics of a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server; several servers in one process have separate registries."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "beholder_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "beholder_request_seconds",
            "Seconds from the first byte of a request to the last byte of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.disconnects = Counter(
            "beholder_clients_left", "Clients that disconnected before their response.", registry=self.registry
        )
        self.refusals = Counter(
            "beholder_refusals", "Error responses by code.", ["route", "code"], registry=self.registry
        )
        self.pictures = Counter("beholder_pictures", "Pictures read.", registry=self.registry)
        self.tokens = Counter("beholder_tokens", "Tokens read and written.", ["kind"], registry=self.registry)
        self.batches = Histogram(
            "beholder_batch_inputs",
            "Inputs computed together.",
            ["work"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "beholder_batch_seconds", "Seconds per batch.", ["work"], buckets=SECONDS, registry=self.registry
        )

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Register a gauge whose value is computed when metrics are scraped."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def record_batch(self, work: str, jobs: int, inputs: int, seconds: float) -> None:
        """Record one batch; the signature is that of `Worker`'s ``on_batch``."""
        self.batches.labels(work).observe(inputs)
        self.batch_seconds.labels(work).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
