"""One request from its headers to its answer: identity, limits, deadlines and errors."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from secure_runner.errors import (
    DeadlineError,
    InputError,
    OverloadedError,
    ProgramError,
    UnavailableError,
)
from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.codes import ERROR_CODES
from secure_runner.http.settings import HttpSettings
from secure_runner.http.types import RequestOutcome
from secure_runner.observe.traces import current_traceparent

Make = Callable[..., Any]
ROWS = {"inputs": [[1, 2, 3], [4, 5, 6.5]]}


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_json_and_binary_give_the_same_prediction(client: Any) -> None:
    """The contract's JSON, and the same arrays as .npy, answered as .npy."""
    assert client.post("/predict", json=ROWS).json() == {"outputs": [6.0, 15.5]}
    answer = client.post(
        "/predict", content=_npy(np.array(ROWS["inputs"])), headers={"content-type": "application/x-npy"}
    )
    assert answer.headers["content-type"] == "application/x-npy"
    assert np.load(io.BytesIO(answer.content)).tolist() == [6.0, 15.5]


def test_several_inputs_and_outputs_by_name(several_predictor: Any, client_of: Make) -> None:
    """Several inputs are an object of rows; labels come as strings beside the scores."""
    inputs = {"image": [[[1, 2], [3, 4]]] * 2, "count": [7, 8], "flag": [[True], [False]]}
    answer = client_of(several_predictor).post("/predict", json={"inputs": inputs})
    assert answer.json() == {
        "outputs": {"label": ["benign", "malignant"], "scores": [[10.0, 7.0], [10.0, 8.0]]}
    }


def test_manifest_has_a_strong_etag(client: Any, predictor: Any) -> None:
    """The manifest's bytes are those that its digest covers, and are not sent twice."""
    answer = client.get("/manifest")
    assert hashlib.sha256(answer.content).hexdigest() == predictor.manifest.digest
    etag = answer.headers["etag"]
    assert etag == f'"{predictor.manifest.digest}"'
    assert client.get("/manifest", headers={"if-none-match": etag}).status_code == 304


def test_error_bodies_say_what_where_and_which_request(client: Any) -> None:
    """An error body has code, message, request id, input, row, expectation: no value."""
    answer = client.post("/predict", json={"inputs": [[1, 2, 3], [4, 5]]}, headers={"x-request-id": "r-1"})
    assert answer.status_code == 400
    assert answer.headers["x-request-id"] == "r-1"
    error = answer.json()["error"]
    assert error.pop("message").startswith("input 'x' expects shape [rows, 3]: row 1 has 2 elements")
    assert error == {
        "code": "ragged_rows",
        "request_id": "r-1",
        "input": "x",
        "row": 1,
        "expected": {"shape": [None, 3], "dtype": "float32"},
    }


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/csv"}, 415, "unsupported_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"content-type": "application/vnd.bentoml+pickle"}, 415, "unsupported_media_type"),
        ({"content-encoding": "gzip"}, 415, "unsupported_encoding"),
        ({"accept": "text/html"}, 406, "not_acceptable"),
        ({"x-request-id": "a b"}, 400, "bad_header"),
        ({"x-request-id": "a" * 129}, 400, "bad_header"),
        ({"x-request-timeout-s": "0"}, 400, "bad_header"),
        ({"x-request-timeout-s": "nan"}, 400, "bad_header"),
        ({"x-request-timeout-s": "301"}, 400, "bad_header"),
        ({"x-request-timeout-s": "soon"}, 400, "bad_header"),
    ],
)
def test_headers_that_cannot_be_served(
    client: Any, predictor: Any, headers: dict[str, str], status: int, code: str
) -> None:
    """Wrong or unserved headers are refused before anything is computed."""
    answer = client.post("/predict", content=b'{"inputs": [[1, 2, 3]]}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert predictor.calls == []


@pytest.mark.parametrize(("path", "method"), [("/predict", "GET"), ("/manifest", "POST"), ("/v2", "PUT")])
def test_wrong_methods_and_paths_have_json_bodies(client: Any, path: str, method: str) -> None:
    """405 and 404 come in the same form as other errors."""
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert "allow" in answer.headers
    body = answer.json()
    assert "method_not_allowed" in (
        body.get("code"),
        body["error"] if path == "/v2" else body["error"]["code"],
    )
    assert client.get("/nothing").json()["error"]["code"] == "not_found"


def test_body_limit_by_announcement_and_by_count(predictor: Any, client_of: Make) -> None:
    """A body over the limit is refused by its Content-Length, and while it streams if it has none."""
    client = client_of(predictor, max_body_bytes=1000)
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 100
            yield b"1" * 100

    for content in (b"1" * 1001, chunks()):
        answer = client.post("/predict", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"
    assert client.post("/predict", content=b'{"inputs": [[1, 2, 3]]}' + b" " * 900).status_code == 200


@pytest.mark.parametrize(
    ("failure", "status", "code", "retry_after"),
    [
        (InputError("refused"), 400, "bad_input", None),
        (OverloadedError("full", retry_after_s=2.5), 429, "overloaded", "3"),
        (UnavailableError("no session"), 503, "unavailable", "1"),
        (DeadlineError("late"), 504, "deadline", None),
        (ProgramError("secret-987.65"), 500, "internal", None),
        (ValueError("could not convert secret-987.65"), 500, "internal", None),
        (asyncio.TimeoutError(), 504, "deadline", None),
    ],
)
def test_failures_of_the_runner(
    predictor: Any,
    client: Any,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    """Each error of the runner has its status; a defect's message reaches neither client nor log."""
    predictor.fail_with = failure
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/predict", json=ROWS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("retry-after") == retry_after
    assert "987.65" not in answer.text + caplog.text
    if status == 500:
        assert type(failure).__name__ in caplog.text
        assert answer.headers["x-request-id"] in caplog.text


def test_nothing_sent_is_ever_logged(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Right or wrong, no value of a request reaches a log of any level."""
    with caplog.at_level(logging.DEBUG):
        for rows in ([[987.65, 2, 3]], [[987.65, 2]], [[987.65, 2, "987.65"]], [[98765.0, 1, 1]]):
            client.post("/predict", json={"inputs": rows}, headers={"x-request-id": "r"})
    assert "987" not in caplog.text


def test_a_service_that_is_starting_says_so(client_of: Make) -> None:
    """Before there is a predictor, predictions get 503 with Retry-After, and readiness is false."""
    client = client_of(None)
    for path in ("/predict", "/v2/models/sum/infer"):
        answer = client.post(path, json=ROWS)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/openapi.json").status_code == 200


def test_deadline_is_passed_on_and_kept(predictor: Any, client_of: Make) -> None:
    """The runner learns how long is left; a runner that ignores it is not waited for."""
    client = client_of(predictor)
    client.post("/predict", json=ROWS, headers={"x-request-timeout-s": "5"})
    assert 4 < predictor.calls[0]["deadline_s"] <= 5

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(60)

    predictor.predict = never
    started_s = time.monotonic()
    answer = client.post("/predict", json=ROWS, headers={"x-request-timeout-s": "0.1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    assert time.monotonic() - started_s < 30


def test_observer_learns_everything_but_values(predictor: Any, client_of: Make) -> None:
    """Each request is told of once: identity, sizes, rows, outcome."""
    seen: list[RequestOutcome] = []
    client = client_of(predictor, observe=seen.append)
    client.post("/predict", json=ROWS, headers={"x-request-id": "a"})
    client.post("/predict", content=b"{", headers={"x-request-id": "b"})
    assert [(one.request_id, one.status, one.code, one.rows) for one in seen] == [
        ("a", 200, "ok", 2),
        ("b", 400, "malformed_body", 0),
    ]
    assert seen[1].request_bytes == 1
    assert seen[0].response_bytes == len(b'{"outputs":[6.0,15.5]}')
    assert seen[0].duration_s > 0


def test_the_client_is_answered_before_the_observer_is_told(predictor: Any) -> None:
    """Metrics cost it no time."""
    happened: list[str] = []
    api = PredictionApi(
        predictor,
        HttpSettings(authentication="none"),
        lambda outcome: happened.append(f"told {outcome.code}"),
    )
    body = json.dumps(ROWS).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        happened.append(message["type"])

    asyncio.run(create_app(api)(scope, receive, send))  # type: ignore[arg-type]
    assert happened == ["http.response.start", "http.response.body", "told ok"]


def test_the_observer_is_told_in_the_trace_of_the_request(predictor: Any, client_of: Make) -> None:
    """What it logs can be found by the trace that the client was told."""
    seen: list[str] = []
    client = client_of(predictor, observe=lambda _: seen.append(current_traceparent()))
    answer = client.post("/predict", json=ROWS, headers={"traceparent": f"00-{'4b' * 16}-{'0a' * 8}-01"})
    assert seen == [answer.headers["traceparent"]]
    assert seen[0].split("-")[1] == "4b" * 16


def test_only_a_request_that_its_client_names_can_come_again(client: Any, predictor: Any) -> None:
    """The runner keeps answers for those alone."""
    client.post("/predict", json=ROWS)
    client.post("/predict", json=ROWS, headers={"x-request-id": "a"})
    assert [call["repeatable"] for call in predictor.calls] == [False, True]


def test_requests_in_flight_are_bounded(predictor: Any, single: Any) -> None:
    """Beyond the bound a request is refused at once; when one ends, the next is taken."""
    release = asyncio.Event()

    async def wait(inputs: Any, **_: Any) -> Any:
        await release.wait()
        return {"y": inputs["x"].sum(axis=1)}

    async def scenario() -> None:
        predictor.predict = wait
        api = PredictionApi(predictor, HttpSettings(authentication="none", max_requests_in_flight=2))
        transport = httpx.ASGITransport(create_app(api))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            first = [asyncio.create_task(http.post("/predict", json=ROWS)) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await http.post("/predict", json=ROWS)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            release.set()
            assert [answer.status_code for answer in await asyncio.gather(*first)] == [200, 200]
            assert (await http.post("/predict", json=ROWS)).status_code == 200

    asyncio.run(scenario())


def test_every_code_raised_is_in_the_table() -> None:
    """The table's statuses are those that the error classes answer with."""
    for error in (OverloadedError, UnavailableError, DeadlineError, InputError):
        assert ERROR_CODES[error.code].status == error.http_status
