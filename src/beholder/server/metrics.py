"""What the server counts, in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server; several in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "beholder_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "beholder_request_seconds",
            "From a request's first byte to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.left = Counter("beholder_clients_left", "Clients that left before their answer.", registry=self.registry)
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
            "beholder_batch_seconds", "Seconds of a batch.", ["work"], buckets=SECONDS, registry=self.registry
        )

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A number that is looked up when it is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def batch(self, work: str, jobs: int, inputs: int, seconds: float) -> None:
        """A worker's report; the form is that of `Worker`'s ``watch``."""
        self.batches.labels(work).observe(inputs)
        self.batch_seconds.labels(work).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
