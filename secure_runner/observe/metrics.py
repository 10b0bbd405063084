"""Prometheus metrics. They show on ``/metrics`` of the BentoML service of the process that counts them.

``prometheus_client`` decides when it is imported whether it counts across processes, so it is imported when
the first metric is needed: BentoML has named its directory by then.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["METRICS", "MetricSpec", "Metrics", "metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)


@dataclass(frozen=True)
class MetricSpec:
    """One metric: what it is called, what it counts, and where it is counted."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    where: Literal["service", "runner", "data owner's runner", "model owner's runner"]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _SECONDS


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "secure_runner_requests_total",
        "counter",
        "HTTP requests answered, by endpoint and code (ok, or an error code)",
        "service",
        ("endpoint", "code"),
    ),
    MetricSpec(
        "secure_runner_refusals_total",
        "counter",
        "Requests and batches refused or failed, by error code",
        "service",
        ("reason",),
    ),
    MetricSpec(
        "secure_runner_request_seconds",
        "histogram",
        "Time from a request's headers to its answer",
        "service",
        ("endpoint",),
    ),
    MetricSpec("secure_runner_request_rows", "histogram", "Rows of a request", "service", buckets=_ROWS),
    MetricSpec(
        "secure_runner_http_bytes_total",
        "counter",
        "Bytes of bodies, by direction (received, sent)",
        "service",
        ("direction",),
    ),
    MetricSpec("secure_runner_rows_total", "counter", "Rows answered", "data owner's runner"),
    MetricSpec(
        "secure_runner_repeated_requests_total",
        "counter",
        "Requests answered from another one of the same id and inputs",
        "data owner's runner",
    ),
    MetricSpec("secure_runner_queue_rows", "gauge", "Rows that wait for a batch", "data owner's runner"),
    MetricSpec(
        "secure_runner_batches_total",
        "counter",
        "Batches, by outcome (ok, or the code of what ended them)",
        "runner",
        ("party", "outcome"),
    ),
    MetricSpec(
        "secure_runner_batch_rows",
        "histogram",
        "Rows of a batch that requests have asked for",
        "runner",
        ("party",),
        _ROWS,
    ),
    MetricSpec(
        "secure_runner_computed_rows_total",
        "counter",
        "Rows computed, padding of batches included",
        "runner",
        ("party",),
    ),
    MetricSpec(
        "secure_runner_phase_seconds",
        "histogram",
        "Where time goes: queue, share, wait (for the batch before), compute, reveal",
        "runner",
        ("party", "phase"),
    ),
    MetricSpec(
        "secure_runner_share_bytes_total",
        "counter",
        "Bytes of input and output shares, by direction (sent, received)",
        "runner",
        ("party", "direction"),
    ),
    MetricSpec(
        "secure_runner_link_bytes",
        "gauge",
        "Bytes on the SPU link since the session began, TLS included, by direction (sent, received)",
        "runner",
        ("party", "lane", "direction"),
    ),
    MetricSpec(
        "secure_runner_transfer_stocks",
        "gauge",
        "Stocks of oblivious transfers made since the session began (cheetah): ahead, or in_run, which waits",
        "data owner's runner",
        ("lane", "made"),
    ),
    MetricSpec("secure_runner_sessions_total", "counter", "Sessions begun", "runner", ("party",)),
    MetricSpec(
        "secure_runner_session_ends_total",
        "counter",
        "Sessions over, by reason",
        "runner",
        ("party", "reason"),
    ),
    MetricSpec(
        "secure_runner_recoveries_total", "counter", "Sessions that ended unasked", "runner", ("lane",)
    ),
    MetricSpec("secure_runner_epoch", "gauge", "Number of the latest session", "runner", ("lane",)),
    MetricSpec("secure_runner_ready", "gauge", "1 while a session serves, otherwise 0", "runner"),
    MetricSpec(
        "secure_runner_owner_rows_left",
        "gauge",
        "Rows of the day that the model owner's limits leave",
        "model owner's runner",
    ),
    MetricSpec(
        "secure_runner_audit_lost_total",
        "counter",
        "Audit entries that could not be written",
        "runner",
        ("party",),
    ),
)
"""Every metric, in the order of the documentation."""


class Metrics:
    """All metrics in one registry: ``metrics["secure_runner_ready"].set(1)``."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        import prometheus_client

        target = prometheus_client.REGISTRY if registry is None else registry
        self._by_name: dict[str, Any] = {}
        self._series: dict[tuple[str, ...], Any] = {}
        for spec in METRICS:
            options: dict[str, Any] = {"labelnames": spec.labels, "registry": target}
            if spec.kind == "histogram":
                options["buckets"] = spec.buckets
            if spec.kind == "gauge":
                # Of several processes, or of one that was replaced, the last one to speak is right.
                options["multiprocess_mode"] = "mostrecent"
            kind = getattr(prometheus_client, spec.kind.title())
            self._by_name[spec.name] = kind(spec.name, spec.help, **options)

    def __getitem__(self, name: str) -> Any:
        return self._by_name[name]

    def of(self, name: str, *labels: str) -> Any:
        """One labelled series: ``metrics.of("secure_runner_epoch", "0").set(1)``. Looked up once."""
        key = (name, *labels)
        if key not in self._series:
            self._series[key] = self._by_name[name].labels(*labels)
        return self._series[key]


@functools.lru_cache(maxsize=1)
def metrics() -> Metrics:
    """The metrics of this process, in prometheus_client's own registry."""
    return Metrics()
