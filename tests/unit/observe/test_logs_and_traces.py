"""Structured logs and traces: the same ids in both, nothing exported unasked, nothing that a library said."""

from __future__ import annotations

import http.server
import json
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.testclient import TestClient

from secure_runner.errors import ConfigError
from secure_runner.frames import FrameError
from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.observe import settings as observe
from secure_runner.observe import traces
from secure_runner.observe.logs import JsonFormatter, set_up_logs
from secure_runner.observe.requests import observe_requests
from secure_runner.party.about import AboutBatch

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = traces.make_provider(exporter, "test")
    traces.use(provider)
    yield lambda: provider.force_flush() and exporter.get_finished_spans()
    traces.use(None)
    provider.shutdown()


@pytest.fixture
def logger():
    made = logging.getLogger("test-of-json")
    yield made
    made.handlers.clear()
    made.propagate = True


def test_a_line_is_json_with_its_ids_and_without_what_a_library_said(capsys, logger):
    """Fields of the process, of the record and the trace; of an exception its type and places."""
    set_up_logs({"SECURE_RUNNER_LOG_FORMAT": "json"}, logger, fields={"party": "bank"})
    with traces.span("request", TRACEPARENT):
        try:
            raise ValueError("the value 1234.5")
        except ValueError:
            logger.exception("it failed", extra={"request_id": "r-1"})
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["party"], found["request_id"], found["trace_id"]) == ("bank", "r-1", TRACE)
    assert (found["level"], found["message"], found["exception"]) == ("error", "it failed", "ValueError")
    assert found["at"][0].startswith("test_logs_and_traces.py:")
    assert found["time"].endswith("Z")
    assert "1234" not in line


def test_text_is_left_to_whoever_has_set_up_logging(logger):
    """And another format is refused."""
    before = list(logger.handlers)
    set_up_logs({}, logger)
    assert logger.handlers == before
    assert logger.propagate
    with pytest.raises(ConfigError, match="json or text"):
        set_up_logs({"SECURE_RUNNER_LOG_FORMAT": "xml"}, logger)


def test_without_a_collector_ids_are_made_and_nothing_is_exported(monkeypatch):
    """A client's trace goes on; without one, a new one begins; nested spans are of one trace."""
    traces.set_up_tracing({}, "test")
    with traces.span("request", TRACEPARENT):
        assert traces.trace_id_of(traces.current_traceparent()) == TRACE
        assert traces.current_traceparent() != TRACEPARENT
    with traces.span("request"):
        first = traces.current_traceparent()
        with traces.span("inner", first):
            assert traces.trace_id_of(traces.current_traceparent()) == traces.trace_id_of(first)
    assert traces.current_traceparent() == ""


@given(st.text() | st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_a_malformed_traceparent_begins_a_new_trace(text):
    """Whatever a client sends."""
    with traces.span("request", text):
        assert len(traces.current_traceparent()) == 55


def test_a_request_is_a_span_of_the_clients_trace(spans):
    """With the code it was answered with; its id is in the answer. No predictor is bound here: 503."""
    api = PredictionApi(observe=observe_requests())
    app = Starlette()
    app.mount("/", create_app(api))
    with TestClient(app) as client:
        answer = client.post("/predict", json={"inputs": [[1.0]]}, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 503
    assert traces.trace_id_of(answer.headers["traceparent"]) == TRACE
    (span,) = spans()
    assert span.name == "secure_runner.request"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.attributes["secure_runner.code"] == "unavailable"
    assert span.attributes["secure_runner.request_id"] == answer.headers["x-request-id"]


def test_spans_reach_a_collector_over_otlp(monkeypatch):
    """As soon as the environment names one, over real HTTP."""
    received = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    try:
        traces.set_up_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, "bank")
        with traces.span("secure_runner.request", TRACEPARENT):
            pass
        traces._provider.force_flush()
    finally:
        traces._provider.shutdown()
        traces.use(None)
        server.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    (scope,) = body["resourceSpans"][0]["scopeSpans"]
    assert [(span["name"], span["traceId"]) for span in scope["spans"]] == [("secure_runner.request", TRACE)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 7}, "batch"),
        ({"batch_size": True}, "batch"),
        ({"rows": 9}, "rows"),
        ({"rows": -1}, "rows"),
        ({"rows": 1.5}, "rows"),
        ({"batch_id": "x" * 16}, "batch id"),
        ({"batch_id": "a" * 33}, "batch id"),
        ({"batch_id": None}, "batch id"),
        ({"traceparent": "00-1234"}, "trace context"),
        ({"traceparent": TRACEPARENT + "\n"}, "trace context"),
    ],
)
def test_what_another_party_says_of_a_batch_is_checked(change, said):
    """It goes into logs and limits; what is malformed ends the session."""
    right = AboutBatch(8, 5, "00ff", TRACEPARENT)
    assert AboutBatch.of_meta(right.as_meta(), (1, 8)) == right
    with pytest.raises(FrameError, match=said):
        AboutBatch.of_meta(right.as_meta() | change, (1, 8))


def test_where_audit_logs_are_kept(tmp_path):
    """A party of a cluster always keeps one."""
    named = {"SECURE_RUNNER_AUDIT_DIR": "/a", "XDG_STATE_HOME": "/s"}
    assert str(observe.audit_directory(named, embedded=True)) == "/a"
    assert observe.audit_directory({}, embedded=True) is None
    assert str(observe.audit_directory({"XDG_STATE_HOME": "/s"}, embedded=False)) == "/s/secure-runner/audit"


def test_the_formatter_writes_anything_as_json():
    """What is no JSON is named by its type."""
    record = logging.makeLogRecord({"msg": "x", "thing": object(), "levelname": "INFO"})
    assert json.loads(JsonFormatter().format(record))["thing"] == "object"
