"""Prometheus metrics of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from beholder.server.decoding_scheduler import DecodingScheduler

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
        self.requests_under_way = Gauge(
            "beholder_requests_under_way", "Requests queued or running.", ["route"], registry=self.registry
        )
        self.wrong_keys = Counter("beholder_wrong_keys", "Requests with a wrong API key.", registry=self.registry)
        self.pictures = Counter("beholder_pictures", "Pictures read.", registry=self.registry)
        self.drawings = Counter(
            "beholder_drawings", "Pictures drawn, candidates included.", ["model"], registry=self.registry
        )
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

        self.decoding_rows = Histogram(
            "beholder_decoding_rows",
            "Texts decoded together, at each token.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.cache_capacity = self._gauge("beholder_cache_capacity_tokens", "Tokens that the KV cache may hold.")
        self.cache_tokens = self._gauge("beholder_cache_tokens", "Tokens reserved in the KV cache by running requests.")
        self.tokens_per_second = self._gauge(
            "beholder_tokens_per_second", "Tokens generated, over the last 10 seconds."
        )
        self.waiting_texts = self._gauge("beholder_texts_waiting", "Requests that wait for room in the KV cache.")

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ["model"], registry=self.registry)

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Register a gauge whose value is computed when metrics are scraped."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def record_batch(self, work: str, jobs: int, inputs: int, seconds: float) -> None:
        """Record one batch; the signature is that of `Worker`'s ``on_batch``."""
        self.batches.labels(work).observe(inputs)
        self.batch_seconds.labels(work).observe(seconds)

    def record_step(self, model: str, rows: int) -> None:
        """Record one token of each text of a running batch; the signature is that of ``on_step`` after ``model``."""
        self.decoding_rows.labels(model).observe(rows)

    def watch_scheduler(self, model: str, scheduler: DecodingScheduler) -> None:
        """Report the state of a language model's running batch."""
        self.cache_capacity.labels(model).set(scheduler.capacity)
        self.cache_tokens.labels(model).set_function(lambda: scheduler.batch.reserved)
        self.tokens_per_second.labels(model).set_function(lambda: scheduler.tokens_per_second)
        self.waiting_texts.labels(model).set_function(lambda: len(scheduler.waiting))

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
