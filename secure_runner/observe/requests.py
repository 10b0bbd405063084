"""HTTP requests of the data owner's service: counted, and each failure logged."""

from __future__ import annotations

import logging

from secure_runner.http.types import Observer, RequestOutcome
from secure_runner.observe.metrics import metrics

__all__ = ["observe_requests"]

_log = logging.getLogger(__name__)


def observe_requests() -> Observer:
    """What the HTTP side tells of each request, into metrics and log."""
    shown = metrics()

    def observe(outcome: RequestOutcome) -> None:
        shown.of("secure_runner_requests_total", outcome.endpoint, outcome.code).inc()
        shown.of("secure_runner_request_seconds", outcome.endpoint).observe(outcome.duration_s)
        shown.of("secure_runner_http_bytes_total", "received").inc(outcome.request_bytes)
        shown.of("secure_runner_http_bytes_total", "sent").inc(outcome.response_bytes)
        if outcome.rows:
            shown["secure_runner_request_rows"].observe(outcome.rows)
        if outcome.code == "ok":
            return
        shown.of("secure_runner_refusals_total", outcome.code).inc()
        _log.info(
            "request %s on %s: %s",
            outcome.request_id,
            outcome.endpoint,
            outcome.code,
            extra={
                "request_id": outcome.request_id,
                "client": outcome.client,
                "status": outcome.status,
                "code": outcome.code,
                "rows": outcome.rows,
                "duration_s": round(outcome.duration_s, 6),
            },
        )

    return observe
