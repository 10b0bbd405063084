"""The Open Inference Protocol v2: metadata, JSON and binary tensors, and its own form of errors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Make = Callable[..., Any]
HEADER_LENGTH = "Inference-Header-Content-Length"


def _x(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6.5], **fields}


def _binary(document: dict[str, Any], *tensors: bytes) -> dict[str, Any]:
    header = json.dumps(document).encode()
    return {"content": header + b"".join(tensors), "headers": {HEADER_LENGTH: str(len(header))}}


def test_metadata(client: Any, predictor: Any) -> None:
    """Server, model and version describe themselves as the protocol says."""
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    version = predictor.manifest.digest[:12]
    for path in ("/v2/models/sum", f"/v2/models/sum/versions/{version}"):
        assert client.get(path).json() == {
            "name": "sum",
            "versions": [version],
            "platform": "secure_runner_aby3",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        }
        assert client.get(f"{path}/ready").json() == {"name": "sum", "ready": True}


def test_readiness_follows_the_runner(client: Any, predictor: Any) -> None:
    """Not ready is a 503 for server and model; liveness stays."""
    predictor.is_ready = (False, "the session is starting")
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 503
    answer = client.get("/v2/models/sum/ready")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the session is starting")


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6.5], [[1, 2, 3], [4, 5, 6.5]]])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_json_tensors_flat_and_nested(client: Any, data: list[Any], datatype: str) -> None:
    """Data may be nested as the shape says, or flat in row-major order; the id comes back."""
    document = {"id": "my inference", "inputs": [_x(data=data, datatype=datatype)]}
    answer = client.post("/v2/models/sum/infer", json=document).json()
    assert answer["id"] == "my inference"
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2], "data": [6.0, 15.5]}]


def test_an_id_that_can_be_a_request_id_is_one(client: Any, predictor: Any) -> None:
    """Retries with the same id are the same request to the runner, unless a header says otherwise."""
    document = {"id": "try-1", "inputs": [_x()]}
    assert client.post("/v2/models/sum/infer", json=document).headers["x-request-id"] == "try-1"
    client.post("/v2/models/sum/infer", json=document, headers={"x-request-id": "other"})
    client.post("/v2/models/sum/infer", json={"inputs": [_x()]})
    assert [call["request_id"] for call in predictor.calls][:2] == ["try-1", "other"]
    assert [call["repeatable"] for call in predictor.calls] == [True, True, False]


def test_labels_are_bytes(several_predictor: Any, client_of: Make) -> None:
    """Label outputs are BYTES, in JSON as strings and in binary each behind its length."""
    inputs = [
        {"name": "image", "shape": [2, 2, 2], "datatype": "FP64", "data": [1.0] * 8},
        {"name": "count", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}},
        {"name": "flag", "shape": [2, 1], "datatype": "BOOL", "parameters": {"binary_data_size": 2}},
    ]
    outputs = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "scores"}]
    tensors = (np.array([7, 8], dtype="<i4").tobytes(), b"\x01\x00")
    client = client_of(several_predictor)
    answer = client.post(
        "/v2/models/several/infer", **_binary({"inputs": inputs, "outputs": outputs}, *tensors)
    )
    length = int(answer.headers[HEADER_LENGTH])
    described = json.loads(answer.content[:length])["outputs"]
    assert described[0]["datatype"] == "BYTES"
    assert described[0]["parameters"] == {"binary_data_size": 4 + 6 + 4 + 9}
    assert answer.content[length:] == struct.pack("<I", 6) + b"benign" + struct.pack("<I", 9) + b"malignant"
    assert described[1]["data"] == [4.0, 7.0, 4.0, 8.0]
    called = several_predictor.calls[0]["inputs"]
    assert called["flag"].tolist() == [[True], [False]]
    described = client.post("/v2/models/several/infer", **_binary({"inputs": inputs}, *tensors)).json()
    assert described["outputs"][0]["data"] == ["benign", "malignant"]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ([], "malformed_body"),
        ({}, "malformed_body"),
        ({"inputs": [3]}, "malformed_body"),
        ({"inputs": []}, "missing_input"),
        ({"inputs": [_x()], "id": 3}, "malformed_body"),
        ({"inputs": [_x()], "extra": 3}, "unknown_field"),
        ({"inputs": [_x(), _x()]}, "malformed_body"),
        ({"inputs": [_x(name="z")]}, "unknown_input"),
        ({"inputs": [_x(shape=[2, -3])]}, "malformed_body"),
        ({"inputs": [_x(shape=[True, 6])]}, "malformed_body"),
        ({"inputs": [_x(shape=[1] * 17)]}, "malformed_body"),
        ({"inputs": [_x(shape=[6])]}, "wrong_shape"),
        ({"inputs": [_x(shape=[3, 3])]}, "wrong_shape"),
        ({"inputs": [_x(shape=[0, 3], data=[])]}, "empty_batch"),
        ({"inputs": [_x(shape=[2**30, 2**30], data=[])]}, "wrong_shape"),
        ({"inputs": [_x(datatype="BF16")]}, "wrong_dtype"),
        ({"inputs": [_x(datatype=["FP32"])]}, "wrong_dtype"),
        ({"inputs": [_x(datatype="INT32")]}, "wrong_dtype"),
        ({"inputs": [_x(data=[1, 2, 3, 4, 5, None])]}, "not_finite"),
        ({"inputs": [_x(data=[1, 2, 3, 4, 5, "6"])]}, "wrong_dtype"),
        ({"inputs": [_x(data="abc")]}, "malformed_body"),
        ({"inputs": [_x(parameters=[])]}, "malformed_body"),
        ({"inputs": [_x(parameters={"binary_data_size": 24})]}, "malformed_body"),
        ({"inputs": [_x()], "outputs": [{"name": "z"}]}, "unknown_output"),
        ({"inputs": [_x()], "outputs": "y"}, "malformed_body"),
        ({"inputs": [_x()], "parameters": 3}, "malformed_body"),
        (
            {"inputs": [_x()], "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
            "unknown_field",
        ),
    ],
)
def test_wrong_requests(client: Any, predictor: Any, document: Any, code: str) -> None:
    """Errors are a string for the protocol's clients, with code and request id beside it."""
    answer = client.post("/v2/models/sum/infer", json=document)
    assert answer.status_code == 400
    assert answer.json()["code"] == code
    assert isinstance(answer.json()["error"], str)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert predictor.calls == []


@pytest.mark.parametrize(
    ("size", "sent", "length"),
    [
        (24, 23, None),
        (24, 25, None),
        (23, 23, None),
        (-1, 24, None),
        (24, 24, "x"),
        (24, 24, "9" * 11),
        (24, 24, "-1"),
    ],
)
def test_binary_sizes_must_agree(client: Any, size: int, sent: int, length: str | None) -> None:
    """Shape, announced size and bytes sent are compared; nothing is cut or filled up."""
    tensor = _x(parameters={"binary_data_size": size})
    del tensor["data"]
    request = _binary({"inputs": [tensor]}, b"\0" * sent)
    if length is not None:
        request["headers"][HEADER_LENGTH] = length
    answer = client.post("/v2/models/sum/infer", **request)
    assert answer.json()["code"] == ("malformed_body" if length is None else "bad_header")


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/sum/versions/7/infer"])
def test_unknown_models_and_versions(client: Any, path: str) -> None:
    """404 names the model and version that are served."""
    metadata = path.removesuffix("/infer")
    for answer in (
        client.post(path, json={"inputs": [_x()]}),
        client.get(metadata),
        client.get(f"{metadata}/ready"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "'sum'" in answer.json()["error"]
