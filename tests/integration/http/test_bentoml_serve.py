"""The HTTP side inside a real `bentoml serve`, with BentoML's client and a stock Open Inference client."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import pytest
import schemathesis
import tritonclient.http as triton
import trustme
from bentoml.exceptions import BentoMLException
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parent))
from serving import HTTP_YAML, Served, serve

from secure_runner.cli.predict import predict

SECRET = 4321.0625


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("serve")
    (directory / "http.yaml").write_text(HTTP_YAML)
    with serve(directory) as service:
        yield service


def test_bentoml_client_predicts(served: Served) -> None:
    """BentoML's client finds /predict in the schema, sends lists and arrays, and gets our error bodies."""
    with bentoml.SyncHTTPClient(served.url) as client:
        assert client.predict(inputs=[[1, 2, 3]]) == {"outputs": [6.0]}
        assert client.predict(inputs=np.ones((2, 3))) == {"outputs": [3.0, 3.0]}
        with pytest.raises(BentoMLException, match="wrong_shape"):
            client.predict(inputs=[[1, 2]])


def test_predict_is_in_bentomls_openapi(served: Served) -> None:
    """The page for people shows the shape that the manifest has."""
    operation = httpx.get(f"{served.url}/docs.json").json()["paths"]["/predict"]["post"]
    inputs = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]
    assert "maxItems" in str(inputs)
    assert "tensor" not in str(inputs)


def test_stock_open_inference_client(served: Served) -> None:
    """tritonclient, as it comes, finds the model ready and infers with JSON and with binary tensors."""
    client = triton.InferenceServerClient(served.url.removeprefix("http://"))
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("credit")
        metadata = client.get_model_metadata("credit")
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        for binary in (True, False):
            x = triton.InferInput("x", [2, 3], "FP32")
            x.set_data_from_numpy(rows, binary_data=binary)
            asked = [triton.InferRequestedOutput("y", binary_data=binary)]
            result = client.infer("credit", [x], outputs=asked, request_id="try-1")
            assert result.as_numpy("y").tolist() == [3.0, 12.0]
            assert result.get_response()["id"] == "try-1"
        x = triton.InferInput("x", [2, 2], "FP32")
        x.set_data_from_numpy(rows[:, :2].copy())
        with pytest.raises(triton.InferenceServerException, match=r"expects shape \[rows, 3\]"):
            client.infer("credit", [x])
    finally:
        client.close()


def test_a_file_is_scored_as_a_task(served: Served) -> None:
    """Submitted as a form in more rows than a request may have, fetched once, and nothing is left of it."""
    rows = np.random.default_rng(0).normal(size=(5000, 3)).astype("f4")
    content = io.BytesIO()
    np.save(content, rows)
    with httpx.Client(base_url=f"{served.url}/tasks/score", timeout=30) as client:
        submitted = client.post("/submit", files={"file": ("rows.npy", content.getvalue())})
        assert submitted.status_code == 200, submitted.text
        which = {"task_id": submitted.json()["task_id"]}
        while (state := client.get("/status", params=which).json())["status"] == "in_progress":
            time.sleep(0.05)
        assert (state["status"], state["rows_done"]) == ("completed", 5000), state
        (held,) = (served.directory / "tmp").glob("secure-runner-task-*")
        assert held.stat().st_mode & 0o777 == 0o700
        scored = np.load(io.BytesIO(client.get("/get", params=which).content))
        assert client.get("/get", params=which).status_code == 404
    np.testing.assert_allclose(scored, rows.sum(axis=1), rtol=1e-5, atol=1e-5)
    assert not held.exists()
    assert not list((served.directory / "home").glob("task_result.db*")), "BentoML's own store is not used"


def _blocks(language: str) -> list[str]:
    text = (Path(__file__).parents[3] / "docs" / "http.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", _blocks("python"))
def test_python_examples_of_the_documentation_run(served: Served, block: str, tmp_path: Path) -> None:
    """Every Python example runs as it is printed, against this service instead of port 3000."""
    code = block.replace("localhost:3000", f"127.0.0.1:{served.port}")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_curl_examples_of_the_documentation_run(served: Served, tmp_path: Path) -> None:
    """Every shell example that talks to a service gets the answer that is printed under it."""
    for block in _blocks("console"):
        command, expected = re.fullmatch(r"\$ (.*?[^\\])\n(.*)", block, flags=re.DOTALL).groups()
        script = command.replace("localhost:3000", f"127.0.0.1:{served.port}")
        shell = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert shell.stdout.strip() == expected.strip(), command


def test_bodies_without_end_are_cut_off(served: Served) -> None:
    """Bodies too large by length or by chunks, compressed or slow end in 4xx and a closed connection."""
    headers = {"content-type": "application/json"}
    chunks = (b" " * 10_000 for _ in range(100))
    assert httpx.post(f"{served.url}/predict", content=b" " * 200_001, headers=headers).status_code == 413
    assert httpx.post(f"{served.url}/predict", content=chunks, headers=headers).status_code == 413
    bomb = gzip.compress(b" " * 10_000_000)
    refused = httpx.post(
        f"{served.url}/predict", content=bomb, headers={**headers, "content-encoding": "gzip"}
    )
    assert refused.json()["error"]["code"] == "unsupported_encoding"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as slow:
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        received = b""
        while part := slow.recv(4096):
            received += part
    assert received.startswith(b"HTTP/1.1 408")
    assert b"body_timeout" in received
    assert httpx.post(f"{served.url}/predict", json={"inputs": [[1, 2, 3]]}).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x16\x03\x01\x02\x00" + bytes(512),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nContent-Length: 1\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"\xff" * 4096,
    ],
    ids=["silence", "tls", "http2", "version", "length", "lengths", "chunk", "header", "path", "noise"],
)
def test_what_is_no_request_is_closed(served: Served, data: bytes) -> None:
    """It gets a 4xx or nothing, and the next client is served."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as stranger:
        received = b""
        # The server may close while the rest is still being sent.
        with suppress(ConnectionError):
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            while part := stranger.recv(4096):
                received += part
    assert received[:10] in (b"", b"HTTP/1.1 4"), received[:40]
    assert httpx.post(f"{served.url}/predict", json={"inputs": [[1, 2, 3]]}).status_code == 200


def test_generated_requests_over_http_are_no_servers_fault(served: Served, tried: Any) -> None:
    """What schemathesis makes of the OpenAPI document, valid or not, gets no 5xx.

    A request that gives itself too little time may be told so by 504.
    """
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    answered = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def try_one(case: Any) -> None:
            status = case.call(timeout=10).status_code
            hurried = "x-request-timeout-s" in {name.lower() for name in case.headers or {}}
            as_asked = status == 504 and hurried
            tried.status("HTTP requests, schemathesis, served", 408 if as_asked else status)
            assert status < 500 or as_asked
            answered.add(status)

        try_one()
    assert 200 in answered


def test_readiness_does_not_wait_for_a_runner_that_is_gone(served: Served) -> None:
    """/readyz says 503 in seconds while the runner hangs, /livez stays, and readiness returns by itself."""
    hang = served.directory / "hang"
    hang.touch()
    try:
        assert httpx.get(f"{served.url}/readyz", timeout=10).status_code == 503
        assert httpx.get(f"{served.url}/livez", timeout=10).status_code == 200
    finally:
        hang.unlink()
    assert httpx.get(f"{served.url}/readyz", timeout=10).status_code == 200


def test_no_value_reaches_the_log(served: Served) -> None:
    """Neither right nor wrong requests leave a value in the log, which is there: other paths leave lines."""
    for body in (
        f"[[{SECRET}, 2, 3]]",
        f"[[{SECRET}, 2]]",
        f'[[{SECRET}, 2, "{SECRET}"]]',
        f"[[{SECRET}, NaN",
    ):
        httpx.post(
            f"{served.url}/predict",
            content=f'{{"inputs": {body}}}',
            headers={"content-type": "application/json", "x-request-id": "planted"},
        )
    httpx.get(f"{served.url}/manifest")
    time.sleep(0.2)
    assert "path=/manifest" in served.log
    assert "4321.06" not in served.log
    assert "Traceback" not in served.log


def test_certificates_and_tokens(tmp_path: Path) -> None:
    """With BentoML's TLS flags and a token in http.yaml, a client needs both, and bulk scoring has both."""
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issued in (("server", server), ("client", client)):
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for certificate in issued.cert_chain_pems:
            certificate.write_to_path(tmp_path / f"{name}.pem", append=True)
    (tmp_path / "token").write_text("a-random-token\n")
    digest = hashlib.sha256(b"a-random-token").hexdigest()
    (tmp_path / "http.yaml").write_text(f"clients: [{{name: ward-3, token_sha256: {digest}}}]\n")
    np.save(tmp_path / "rows.npy", np.ones((5, 3)))

    nobody = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    known = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    files = {
        "--ssl-certfile": "server.pem",
        "--ssl-keyfile": "server.key",
        "--ssl-ca-certs": "ca.pem",
    }
    options = [text for flag, name in files.items() for text in (flag, str(tmp_path / name))]
    with serve(tmp_path, *options, "--ssl-cert-reqs", "2", verify=known) as service:
        rows = {"inputs": [[1, 2, 3]]}
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{service.url}/predict", json=rows, verify=nobody)
        assert httpx.post(f"{service.url}/predict", json=rows, verify=known).status_code == 401
        arguments = [
            str(tmp_path / "rows.npy"),
            "--url",
            service.url,
            "--output",
            str(tmp_path / "scored.npy"),
        ]
        for option, name in (
            ("ca", "ca.pem"),
            ("certificate", "client.pem"),
            ("key", "client.key"),
            ("token", "token"),
        ):
            arguments += [f"--{option}-file", str(tmp_path / name)]
        result = CliRunner().invoke(predict, arguments)
        assert result.exit_code == 0, result.output
        submit = f"{service.url}/tasks/score/submit"
        headers = {"content-type": "text/csv"}
        assert httpx.post(submit, content="a,b,c\n1,2,3\n", headers=headers, verify=known).status_code == 401
        headers["authorization"] = "Bearer a-random-token"
        assert httpx.post(submit, content="a,b,c\n1,2,3\n", headers=headers, verify=known).status_code == 200
    assert np.load(tmp_path / "scored.npy").tolist() == [3.0] * 5
    assert not list((tmp_path / "tmp").glob("secure-runner-task-*")), "the service takes its files with it"
