"""A file of rows becomes a file of predictions in the background, for its own client alone."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secure_runner.errors import InputError, UnavailableError
from secure_runner.http import tasks
from secure_runner.http.settings import ClientLimits, HttpClient

Make = Callable[..., Any]
URL = "/tasks/score"
CSV = {"content-type": "text/csv"}
SECRET = 321.0625
ROWS = f"a,b,c\n1,2,3\n4,5,6.5\n{SECRET},0,0\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the service keeps its files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tasks, "_PATIENCE_S", 0.0)
    return tmp_path


@pytest.fixture
def running(predictor: Any, client_of: Make) -> Iterator[Any]:
    """One event loop for all requests, as in a service."""
    with client_of(predictor) as client:
        yield client


def _submit(client: Any, content: Any = ROWS, query: str = "", **headers: str) -> Any:
    return client.post(f"{URL}/submit{query}", content=content, headers={**CSV, **headers})


def _wait(client: Any, task_id: str, **headers: str) -> dict[str, Any]:
    for _ in range(500):
        state: dict[str, Any] = client.get(f"{URL}/status?task_id={task_id}", headers=headers).json()
        if state["status"] != "in_progress":
            return state
        time.sleep(0.01)
    pytest.fail("the task does not end")


def test_rows_to_predictions(running: Any, predictor: Any, folder: Path) -> None:
    """In chunks, in order; the folder is the service's own, and nothing is left once the file is fetched."""
    state = _submit(running).json()
    assert state["rows"] == 3
    task_id = state["task_id"]
    assert _wait(running, task_id) == {"task_id": task_id, "status": "completed", "rows": 3, "rows_done": 3}
    assert [len(call["inputs"]["x"]) for call in predictor.calls] == [1, 1, 1]
    (held,) = folder.iterdir()
    assert stat.S_IMODE(held.stat().st_mode) == 0o700
    assert os.listdir(held) == ["predictions.csv"], "neither rows nor chunks are left"
    answer = running.get(f"{URL}/get?task_id={task_id}")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["x-program-digest"] == predictor.manifest.digest
    assert pd.read_csv(io.StringIO(answer.text))["y"].tolist() == [6.0, 15.5, SECRET]
    assert list(folder.iterdir()) == []
    for verb, method in (("get", "GET"), ("status", "GET"), ("retry", "POST"), ("cancel", "PUT")):
        gone = running.request(method, f"{URL}/{verb}?task_id={task_id}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "task_not_found")


def _npy() -> bytes:
    body = io.BytesIO()
    np.save(body, np.ones((2, 3)))
    return body.getvalue()


def _parquet(**columns: Any) -> bytes:
    body = io.BytesIO()
    pq.write_table(pa.table(columns), body)
    return body.getvalue()


NUMBERS = {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("suffix", "media_type", "content"),
    [
        ("npy", "application/x-npy", _npy()),
        ("parquet", "application/vnd.apache.parquet", _parquet(**NUMBERS)),
        ("csv", "text/csv", b"a,b,c\n1,1,1\n1,1,1\n"),
    ],
)
@pytest.mark.parametrize("multipart", [False, True])
def test_formats(running: Any, suffix: str, media_type: str, content: bytes, multipart: bool) -> None:
    """As a body or as a part; the answer has the form of the rows, or the one that was asked for."""
    if multipart:
        submitted = running.post(f"{URL}/submit", files={"file": (f"rows.{suffix}", content)})
    else:
        submitted = _submit(running, content, **{"content-type": media_type})
    task_id = submitted.json()["task_id"]
    assert _wait(running, task_id)["status"] == "completed"
    answer = running.get(f"{URL}/get?task_id={task_id}")
    assert answer.headers["content-type"].split(";")[0] == media_type
    read = {"npy": np.load, "parquet": lambda file: pd.read_parquet(file)["y"]}
    read["csv"] = lambda file: pd.read_csv(file)["y"]
    assert list(read[suffix](io.BytesIO(answer.content))) == [3.0, 3.0]


def test_columns_kept_and_chosen(running: Any) -> None:
    """As for the command."""
    rows = "patient,a,b,c\np1,1,2,3\n"
    task_id = _submit(running, rows, "?keep=patient&columns=c,b,a&output=parquet").json()["task_id"]
    _wait(running, task_id)
    scored = pd.read_parquet(io.BytesIO(running.get(f"{URL}/get?task_id={task_id}").content))
    assert scored.to_dict("records") == [{"patient": "p1", "y": 6.0}]


@pytest.mark.parametrize(("said", "rows"), [("absent", [6.0, 15.0]), ("present", [15.0])])
def test_a_first_line_of_values_is_what_it_is_said_to_be(running: Any, said: str, rows: list[float]) -> None:
    """A row or names; refused where it is not said."""
    task_id = _submit(running, "1,2,3\n4,5,6\n", f"?header={said}").json()["task_id"]
    _wait(running, task_id)
    scored = pd.read_csv(io.BytesIO(running.get(f"{URL}/get?task_id={task_id}").content))
    assert scored["y"].tolist() == rows


@pytest.mark.parametrize(
    ("headers", "content", "query", "code"),
    [
        ({}, b"a,b\n1,2\n", "", "malformed_body"),
        ({}, b"a,b,b\n1,2,3\n", "", "malformed_body"),
        ({}, b"1,2,3\n4,5,6\n", "", "malformed_body"),
        ({}, b"a,b,c\n1,2,3\n", "?header=none", "malformed_body"),
        ({}, b"a,b,c\n1,2,inf\n", "", "not_finite"),
        ({}, b"a,b,c\n", "", "malformed_body"),
        ({}, b"a,b,c\n1,2,3\n", "?output=exe", "bad_input"),
        ({}, b" " * 3000, "", "body_too_large"),
        ({"content-type": "application/json"}, b"[]", "", "unsupported_media_type"),
        ({"content-type": "application/x-npy"}, b"\x93NUMPY", "", "malformed_body"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--y", "", "malformed_body"),
        ({"content-type": "multipart/form-data"}, b"", "", "malformed_body"),
        ({"content-type": "application/vnd.apache.parquet"}, b"PAR1", "", "malformed_body"),
        (
            {"content-type": "application/vnd.apache.parquet"},
            _parquet(**dict.fromkeys("abc", [1] * 5000)),
            "",
            "body_too_large",
        ),
        (
            {"content-type": "application/vnd.apache.parquet"},
            _parquet(a=["p"], b=[1], c=[1]),
            "",
            "wrong_dtype",
        ),
    ],
)
def test_wrong_files_are_refused_at_once(
    predictor: Any, client_of: Make, folder: Path, headers: Any, content: bytes, query: str, code: str
) -> None:
    """With a code, before anything is computed; nothing of them stays, and no path is told."""
    with client_of(predictor, max_task_bytes=2900) as client:
        answer = _submit(client, content, query, **headers)
        assert answer.json()["error"]["code"] == code
        assert 400 <= answer.status_code < 500
        assert str(folder) not in answer.text
    assert list(folder.iterdir()) == []
    assert predictor.calls == []


def test_a_failed_task_goes_on_where_it_was(running: Any, predictor: Any) -> None:
    """It says why, holds what is done, and a retry computes the rest alone."""
    predict = predictor.predict

    async def fails(inputs: Any, **options: Any) -> Any:
        if inputs["x"][0, 0] == np.float32(SECRET):
            raise UnavailableError("no session", code="starting")
        return await predict(inputs, **options)

    predictor.predict = fails
    task_id = _submit(running).json()["task_id"]
    state = _wait(running, task_id)
    assert state["status"] == "failed"
    assert state["error"] == {"code": "starting", "message": "no session"}
    early = running.get(f"{URL}/get?task_id={task_id}")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "task_state")
    predictor.predict, computed = predict, len(predictor.calls)
    assert running.post(f"{URL}/retry?task_id={task_id}").status_code == 200
    assert _wait(running, task_id)["rows_done"] == 3
    assert len(predictor.calls) - computed == 3 - computed
    assert running.get(f"{URL}/get?task_id={task_id}").status_code == 200


def test_cancel(running: Any, predictor: Any) -> None:
    """Stops a task that would not end; there is nothing to get, and a second cancel has nothing to stop."""
    predictor.predict = lambda *_, **__: asyncio.sleep(3600)
    task_id = _submit(running).json()["task_id"]
    assert running.put(f"{URL}/cancel?task_id={task_id}").json()["status"] == "canceled"
    assert running.get(f"{URL}/get?task_id={task_id}").status_code == 409
    assert running.put(f"{URL}/cancel?task_id={task_id}").status_code == 409


def test_defects_and_values_stay_out_of_answer_and_log(
    running: Any, predictor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A library's message may quote a value; what the runner tells its users is passed on."""
    caplog.set_level(logging.DEBUG)
    predictor.fail_with = ValueError(f"no {SECRET}")
    state = _wait(running, _submit(running).json()["task_id"])
    assert state["error"]["code"] == "internal"
    assert str(SECRET) not in str(state)
    predictor.fail_with = InputError("the runner refuses")
    state = _wait(running, _submit(running).json()["task_id"])
    assert state["error"] == {"code": "bad_input", "message": "the runner refuses"}
    assert "ValueError" in caplog.text
    assert str(SECRET) not in caplog.text


def _known(name: str, **limits: Any) -> HttpClient:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return HttpClient(name=name, token_sha256=digest, limits=ClientLimits(**limits) if limits else None)


VERBS = [("POST", "submit"), ("GET", "status"), ("GET", "get"), ("POST", "retry"), ("PUT", "cancel")]


def test_a_task_is_its_clients_own(predictor: Any, client_of: Make) -> None:
    """No verb does anything without a token, nor with another client's."""
    own, other = ({"authorization": f"Bearer {name}"} for name in "ab")
    with client_of(predictor, authentication="tokens", clients=(_known("a"), _known("b"))) as client:
        task_id = _submit(client, **own).json()["task_id"]
        _wait(client, task_id, **own)
        for method, verb in VERBS:
            url = f"{URL}/{verb}?task_id={task_id}"
            assert client.request(method, url).status_code == 401
            if verb != "submit":
                assert client.request(method, url, headers=other).json()["error"]["code"] == "task_not_found"
        assert client.get(f"{URL}/get?task_id={task_id}", headers=own).status_code == 200
    assert {call["client"] for call in predictor.calls} == {"a"}


def test_limits_hold_for_tasks(predictor: Any, client_of: Make) -> None:
    """Rows of the day, rows of a request, requests a second and the number of tasks."""
    clients = (
        _known("rows", rows_per_day=2),
        _known("requests", requests_per_s=0.001, burst=1),
        _known("many"),
    )
    with client_of(predictor, authentication="tokens", clients=clients, max_tasks_per_client=1) as client:
        rows, requests, many = ({"authorization": f"Bearer {known.name}"} for known in clients)
        state = _wait(client, _submit(client, **rows).json()["task_id"], **rows)
        assert (state["error"]["code"], state["rows_done"]) == ("daily_rows", 2)
        assert _submit(client, **requests).status_code == 200
        for method, verb in VERBS:
            limited = client.request(method, f"{URL}/{verb}", headers=requests)
            assert limited.json()["error"]["code"] == "rate_limited"
        assert _submit(client, **many).status_code == 200
        refused = _submit(client, **many)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_tasks")
        assert "retry-after" in refused.headers


def test_what_nobody_fetches_expires(predictor: Any, client_of: Make, folder: Path) -> None:
    """By itself, without another request."""
    with client_of(predictor, task_keep_s=0.05) as client:
        task_id = _submit(client).json()["task_id"]
        for _ in range(500):
            if not list(folder.iterdir()):
                break
            time.sleep(0.01)
        assert list(folder.iterdir()) == []
        assert client.get(f"{URL}/status?task_id={task_id}").status_code == 404
