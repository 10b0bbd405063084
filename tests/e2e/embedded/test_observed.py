"""What operators see of a served Bento: metrics, logs, trace and audit log, all of the same request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from secure_runner.observe.chain import compare, read_chains

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def _samples(url: str) -> dict[tuple[str, frozenset[str]], float]:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text)
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("secure_runner")
    }


def test_a_request_can_be_followed_through_metrics_log_and_audit(serve, bento, environment, tmp_path):
    """The service and its runner are processes of their own; BentoML's /metrics has both."""
    environment |= {"SECURE_RUNNER_AUDIT_DIR": str(tmp_path), "SECURE_RUNNER_LOG_FORMAT": "json"}
    try:
        server = serve(bento)
        server.wait_until(server.is_ready)
    finally:
        del environment["SECURE_RUNNER_AUDIT_DIR"], environment["SECURE_RUNNER_LOG_FORMAT"]
    headers = {"x-request-id": "r-77", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    rows = np.ones((2, 6)).tolist()
    asked = [{"inputs": rows}, {"inputs": rows}, {"inputs": rows[:1]}]
    answers = [httpx.post(f"{server.url}/predict", json=body, headers=headers, timeout=60) for body in asked]
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    assert answers[0].json() == answers[1].json()
    assert answers[0].headers["traceparent"].split("-")[1] == TRACE
    _eventually(lambda: _check_metrics(server))
    _eventually(lambda: _check_log(server))
    _eventually(lambda: _check_audit(tmp_path))


def _eventually(check: Callable[[], None], timeout_s: float = 15.0) -> None:
    """Parties report to their runners, and logs are written, a moment after the client has its answer."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return check()
        except (AssertionError, KeyError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _check_metrics(server: Any) -> None:
    samples = _samples(server.url)

    def found(name: str, *labels: str) -> float:
        return samples[f"secure_runner_{name}", frozenset(labels)]

    assert found("requests_total", "/predict", "ok") == 2
    assert found("refusals_total", "request_id_reused") == 1
    assert found("repeated_requests_total") == 1
    assert found("rows_total") == 2
    assert found("ready") == 1
    for party in server.in_session():
        assert found("computed_rows_total", party) == 8
        assert found("phase_seconds_sum", party, "compute") > 0
        assert found("share_bytes_total", party, "sent") > 0
    assert found("phase_seconds_sum", "data-owner", "queue") > 0


def _check_log(server: Any) -> None:
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    refused = [line for line in lines if line.get("request_id") == "r-77"]
    assert [(line["code"], line["trace_id"]) for line in refused] == [("request_id_reused", TRACE)]
    assert {"model-owner", "data-owner"} <= {line.get("party") for line in lines if line.get("epoch")}


def _check_audit(directory: Path) -> None:
    chains = {chain.party: chain for chain in read_chains(directory.glob("*.jsonl"))}
    assert not any(chain.problems for chain in chains.values())
    requests = [entry for entry in chains["data-owner"].entries if entry["event"] == "request"]
    assert {(entry["request_id"], entry["trace_id"]) for entry in requests} == {("r-77", TRACE)}
    matched = compare(chains["data-owner"], chains["model-owner"])
    assert (matched.problems, matched.matched) == ([], 3)
