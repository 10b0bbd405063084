"""Asks everything of a service that answers no predictions: ``python try_surface.py URL``.

Prints one JSON list ``[what, status, text]`` a line. Paths are those that BentoML says the service has, those
of BentoML's servers, runners and tasks, and those of a data owner's service.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator

import httpx

_BENTOML = (
    *("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics", "/manifest"),
    *(
        "/calls_path",
        "/status",
        "/__is_ready__",
        "/__metadata__",
        "/is_ready",
        "/_internal",
        "/debug",
        "/openapi.json",
    ),
    *("/predict", "/predict/submit", "/predict/status", "/predict/get", "/predict/retry", "/predict/cancel"),
    *("/submit", "/get?task_id=1", "/retry", "/cancel", "/tasks", "/tasks/score/submit", "/tasks/score/get"),
    *("/v2", "/v2/health/ready", "/v2/models/credit", "/v2/models/credit/infer", "/v2/repository/index"),
)
_ASTRAY = (
    *(
        "/assets/../../../bento.yaml",
        "/static_content/%2e%2e/%2e%2e/bento.yaml",
        "/assets/..%2f..%2fparams.npz",
    ),
    *(
        "/models/credit-params/params.npz",
        "/predict/../manifest",
        "/%00",
        "/predict%0d%0ax:%20y",
        "//predict",
        "/" + "a" * 9000,
    ),
)
_ROWS = {"inputs": [[0.0] * 6]}
_BODIES = {
    "application/json": json.dumps(_ROWS).encode(),
    "application/json; charset=x": b'{"inputs": [[1, NaN',
    "application/vnd.bentoml+pickle": pickle.dumps(_ROWS),
    "application/octet-stream": bytes(4096),
    "multipart/form-data; boundary=x": b"--x\r\n\r\n",
    "text/csv": b"a,b\n1,2\n",
}
_HEADERS = {
    "Bentoml-Is-Batch": "1",
    "Args-Number": "1",
    "Payload-Container": "NdarrayContainer",
    "Payload-Meta": '{"batch_size": 1}',
    "X-Request-Id": "x" * 500,
    "Inference-Header-Content-Length": "-1",
}


def paths(client: httpx.Client) -> list[str]:
    """Every path to try, in order, once."""
    schema = client.get("/schema.json").json()
    named = [*schema["paths"], *(route["route"] for route in schema["routes"])]
    return list(dict.fromkeys([*_BENTOML, *_ASTRAY, *(path for path in named if path.startswith("/"))]))


def requests(client: httpx.Client, url: str) -> Iterator[httpx.Request]:
    """Each path with each method and body."""
    for path in paths(client):
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"):
            yield client.build_request(method, url + path)
        for media_type, body in _BODIES.items():
            yield client.build_request("POST", url + path, content=body, headers={"content-type": media_type})
        yield client.build_request("POST", url + path, content=_BODIES["application/json"], headers=_HEADERS)


def main(url: str) -> None:
    """Ask, and print."""
    with httpx.Client(base_url=url, timeout=30) as client:
        for request in requests(client, url):
            try:
                answer = client.send(request)
                said = [answer.status_code, answer.text]
            except httpx.HTTPError as error:
                # A connection that is closed is a refusal, too.
                said = [0, type(error).__name__]
            media_type = request.headers.get("content-type", "")
            line = [f"{request.method} {request.url.raw_path.decode()[:80]} {media_type}", *said]
            sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
