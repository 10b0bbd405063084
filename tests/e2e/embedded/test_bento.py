"""From an ONNX file to predictions over HTTP, with BentoML's commands as users type them."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import bentoml
import httpx
import numpy as np
import psutil
import pytest

ROWS = np.random.default_rng(6).normal(scale=2.0, size=(40, 6)).astype(np.float32)
PLANTED = 4321.0625
# What 18 fraction bits and the Padé exponential leave of a probability.
ATOL = 1e-3


@pytest.fixture(scope="module")
def server(serve, bento):
    started = serve(bento)
    started.wait_until(started.is_ready)
    return started


# What is packed ----------------------------------------------------------------------------------------


def test_a_bento_holds_neither_keys_nor_secrets(exported):
    """The project had some lying about; the allow-list lets none of them in."""
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files)
    assert any(path.name == "deployment.py" for path in files)
    assert not [
        path for path in files if path.suffix in (".key", ".pem") or path.name in (".env", "http.yaml")
    ]
    assert not [path for path in files if b"planted-secret" in path.read_bytes()]


def test_the_data_owners_bento_would_hold_no_params(exported):
    """Program and params are two models: the embedded Bento alone has both."""
    models = {path.name for path in (exported / "models").iterdir()}
    assert models == {"e2e", "e2e-params"}
    assert not list((exported / "models" / "e2e").rglob("*.npz"))


# Predictions -------------------------------------------------------------------------------------------


def test_json_rows_are_answered(server, model):
    """One row and a batch beyond the ladder, within 1e-3 of onnxruntime."""
    for rows in (ROWS[:1], ROWS):
        response = server.predict(rows)
        assert response.status_code == 200, response.text
        found = np.asarray(response.json()["outputs"])
        np.testing.assert_allclose(found, model.expected(rows), rtol=0, atol=ATOL)


def test_npy_rows_are_answered(server, model):
    """The same in numpy's binary format, both ways."""
    body = io.BytesIO()
    np.save(body, ROWS[:5])
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    response = httpx.post(f"{server.url}/predict", content=body.getvalue(), headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    found = np.load(io.BytesIO(response.content), allow_pickle=False)
    np.testing.assert_allclose(found, model.expected(ROWS[:5]), rtol=0, atol=ATOL)


def test_bentomls_own_client_is_answered(server, model):
    """``SyncHTTPClient(url).predict(inputs=…)`` works like with any BentoML service."""
    with bentoml.SyncHTTPClient(server.url, timeout=60) as client:
        found = client.predict(inputs=ROWS[:4])
    outputs = found["outputs"] if isinstance(found, dict) else found
    np.testing.assert_allclose(np.asarray(outputs), model.expected(ROWS[:4]), rtol=0, atol=ATOL)


def test_the_manifest_is_public_and_names_no_value(server):
    """What may be known of the program: inputs, outputs, protocol, digests."""
    manifest = httpx.get(f"{server.url}/manifest", timeout=10).json()
    assert manifest["protocol"] == "semi2k"
    assert [tensor["name"] for tensor in manifest["inputs"]] == ["x"]


# Bad input ---------------------------------------------------------------------------------------------

ROW = [PLANTED] * 6
BAD = {
    "too few columns": (b'{"inputs": [[4321.0625, 4321.0625]]}', 400, "wrong_shape"),
    "one row without its brackets": (b'{"inputs": [4321.0625,1,2,3,4,5]}', 400, "wrong_shape"),
    "ragged": (b'{"inputs": [[4321.0625,1,2,3,4,5],[4321.0625]]}', 400, "ragged_rows"),
    "text": (b'{"inputs": [["4321.0625",1,2,3,4,5]]}', 400, "wrong_dtype"),
    "NaN": (b'{"inputs": [[4321.0625,NaN,2,3,4,5]]}', 400, None),
    "null": (b'{"inputs": [[4321.0625,null,2,3,4,5]]}', 400, "not_finite"),
    "infinity": (b'{"inputs": [[4321.0625,Infinity,2,3,4,5]]}', 400, None),
    "beyond double": (b'{"inputs": [[4321.0625,1e400,2,3,4,5]]}', 400, None),
    "beyond the ring": (b'{"inputs": [[4321.0625,1e30,2,3,4,5]]}', 400, "out_of_range"),
    "empty batch": (b'{"inputs": []}', 400, "empty_batch"),
    "malformed": (b'{"inputs": [[4321.0625,', 400, "malformed_body"),
    "no JSON": (b"4321.0625 and so on", 400, None),
    "another field": (b'{"rows": [[4321.0625,1,2,3,4,5]]}', 400, None),
    "another name": (b'{"inputs": {"z": [[4321.0625,1,2,3,4,5]]}}', 400, None),
    "too large": (b'{"inputs": [' + b" " * (17 << 20) + b"]}", 413, "body_too_large"),
    "nothing": (b"", 400, None),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_with_what_was_expected(server, case):
    """A 4xx with a JSON body that says what is wrong, and never the value itself."""
    body, status, code = BAD[case]
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=60)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    assert code is None or error["code"] == code
    assert str(PLANTED) not in response.text
    if code in ("wrong_shape", "wrong_dtype"):
        assert error["expected"]
        assert "received" in error["message"] or "row 0 has" in error["message"]


def test_binary_rows_of_another_type_are_refused(server):
    """Python objects above all: nothing is unpickled."""
    for array in (np.array([[object()] * 6]), np.full((1, 6), 1 + 2j), np.full((1, 6), np.nan, np.float32)):
        body = io.BytesIO()
        np.save(body, array)
        headers = {"Content-Type": "application/x-npy"}
        response = httpx.post(f"{server.url}/predict", content=body.getvalue(), headers=headers, timeout=60)
        assert 400 <= response.status_code < 500
        assert response.json()["error"]["message"]


def test_the_service_goes_on_and_its_log_holds_no_feature(server, model):
    """After all that was refused, and one row that was computed."""
    row = np.full((1, 6), 3.0, np.float32)
    row[0, 0] = np.float32(7.6543212)
    response = server.predict(row)
    assert response.status_code == 200
    np.testing.assert_allclose(response.json()["outputs"], model.expected(row), rtol=0, atol=ATOL)
    for value in (str(PLANTED), "7.65432"):
        assert value not in server.log


# Faults ------------------------------------------------------------------------------------------------


def test_a_killed_party_costs_no_wrong_answer(server, model):
    """Under load: right answers or 503, not ready meanwhile, ready again by itself."""
    expected = model.expected(ROWS)
    over = threading.Event()
    outcomes: list[tuple[int, float]] = []
    readiness: list[int] = []

    def ask(number: int) -> None:
        while not over.is_set():
            at = (7 * number + len(outcomes)) % 32
            response = server.predict(ROWS[at : at + 5])
            error = 0.0
            if response.status_code == 200:
                error = float(np.abs(np.asarray(response.json()["outputs"]) - expected[at : at + 5]).max())
            outcomes.append((response.status_code, error))
            time.sleep(0.02)

    def watch() -> None:
        while not over.is_set():
            readiness.append(httpx.get(f"{server.url}/readyz", timeout=10).status_code)
            time.sleep(0.1)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)] + [threading.Thread(target=watch)]
    before = server.in_session()
    assert set(before) == {"model-owner", "data-owner"}
    for thread in threads:
        thread.start()
    try:
        server.wait_until(lambda: len(outcomes) > 8 and 200 in readiness)
        # All of its processes: where one waits in reserve it takes over at once, and nobody sees a 503.
        for process in server.by_party()["model-owner"]:
            process.kill()
        server.wait_until(lambda: 503 in readiness)
        server.wait_until(lambda: readiness[-1] == 200)
        answered = len(outcomes)
        server.wait_until(lambda: len(outcomes) > answered + 8)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in outcomes} <= {200, 503}
    assert outcomes[-1][0] == 200
    assert max(error for _, error in outcomes) <= ATOL
    assert not any(process.is_running() for process in before.values())


def test_a_killed_runner_leaves_no_orphan_and_another_takes_over(server, model):
    """Its parties end with it; the next session is of those that have stood by with the other runner."""
    server.wait_until(lambda: len(server.runners()) == 2)
    runner, standing_by = server.runners()
    server.wait_until(lambda: len(standing_by.children()) == 2)
    waiting = standing_by.children()
    # Parties in session and standing by, and the dealer.
    processes = runner.children(recursive=True)
    assert len(processes) >= 3
    runner.kill()
    _, orphans = psutil.wait_procs(processes, timeout=5)
    assert not orphans
    assert server.predict(ROWS[:1]).status_code in (200, 503)
    server.wait_until(server.is_ready)
    found = np.asarray(server.predict(ROWS[:3]).json()["outputs"])
    np.testing.assert_allclose(found, model.expected(ROWS[:3]), rtol=0, atol=ATOL)
    assert set(server.in_session().values()) == set(waiting)
    server.wait_until(lambda: len(server.runners()) == 2)
    assert server.runners()[0] == standing_by


# The end -----------------------------------------------------------------------------------------------


def test_sigterm_ends_every_process(server):
    """As an orchestrator sends it."""
    processes = server.children()
    assert len(processes) >= 5
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    assert not psutil.wait_procs(processes, timeout=5)[1]


def test_an_exported_bento_serves_anywhere_and_ends_with_ctrl_c(serve, exported, model, tmp_path):
    """With an empty store. Ctrl-C reaches the whole process group at once and leaves nothing."""
    server = serve(str(exported), home=_made(tmp_path / "empty"))
    server.wait_until(server.is_ready)
    found = np.asarray(server.predict(ROWS[:3]).json()["outputs"])
    np.testing.assert_allclose(found, model.expected(ROWS[:3]), rtol=0, atol=ATOL)
    processes = server.children()
    os.killpg(server.process.pid, signal.SIGINT)
    server.process.wait(30)
    assert not psutil.wait_procs(processes, timeout=5)[1]


def test_a_killed_server_leaves_no_orphan(serve, bento):
    """SIGKILL on BentoML's master: workers and parties go with it, also while they start."""
    server = serve(bento)
    server.wait_until(lambda: len(server.parties()) >= 2)
    processes = server.children()
    server.process.kill()
    server.process.wait()
    assert not psutil.wait_procs(processes, timeout=5)[1]


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
