"""What Prometheus sees: counts and times by route, status and model; nobody's content.

Every label takes its values from a fixed set (routes of the application, HTTP statuses,
models loaded at start), so clients cannot make new time series.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.cut import Reason

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Metrics:
    """The node's own registry, so that tests can run several nodes in one process."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.requests = Counter(
            "adyton_requests", "Requests answered", ["route", "status"], registry=r
        )
        self.request_seconds = Histogram(
            "adyton_request_seconds",
            "Time from a request's first byte to its answer's last",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self.first_token_seconds = Histogram(
            "adyton_first_token_seconds",
            "Time from a request's first byte to its first token",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.tokens = Counter(
            "adyton_tokens", "Tokens read (prompt) and written", ["model", "kind"], registry=r
        )
        self.receipts = Counter(
            "adyton_receipts", "Receipts signed, by how the exchange ended", ["outcome"], registry=r
        )
        for outcome in ("answered", "refused", *(reason.value for reason in Reason)):
            self.receipts.labels(outcome)  # a rate needs the zero before the first event
        self.inflight = Gauge("adyton_requests_inflight", "Prompt requests running", registry=r)
        self.rows = Gauge("adyton_engine_rows", "Rows of the batch", ["state"], registry=r)
        self.waiting = Gauge("adyton_engine_waiting", "Requests without a row", registry=r)
        self.restarts = Gauge("adyton_worker_restarts", "Times the worker came back", registry=r)
        self.ready = Gauge("adyton_ready", "1 while the node takes prompts", registry=r)
        self.keyset_not_after = Gauge(
            "adyton_keyset_not_after_seconds", "When the keyset expires, Unix time", registry=r
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)
