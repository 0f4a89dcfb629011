"""The counters of a server, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter("vla_requests", "answered requests", ["protocol", "status"], registry=self.registry)
        self._seconds = Histogram("vla_request_seconds", "from request to answer", buckets=SECONDS, registry=self.registry)
        self._queued = Histogram("vla_queue_seconds", "wait for the policy", buckets=SECONDS, registry=self.registry)
        self._policy = Histogram("vla_policy_seconds", "one call of the policy", buckets=SECONDS, registry=self.registry)
        self._rows = Histogram("vla_batch_rows", "observations per call", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry)
        self._malformed = Counter("vla_malformed", "malformed answers of the policy", registry=self.registry)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Adds a gauge whose value is read at each scrape."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def request(self, protocol: str, status: int, seconds: float, queued_ms: float = 0.0) -> None:
        self._requests.labels(protocol, str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)
            self._queued.observe(queued_ms / 1e3)

    def batch(self, rows: int, seconds: float, malformed: int) -> None:
        self._rows.observe(rows)
        self._malformed.inc(malformed)
        self._policy.observe(seconds)

    def text(self) -> bytes:
        """Returns the page that Prometheus reads."""
        return generate_latest(self.registry)
