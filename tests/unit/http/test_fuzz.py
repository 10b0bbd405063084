"""Whatever is sent, the answer is 2xx or 4xx, and nothing is computed on a value that is not a number."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_runner.http.codecs import ARROW, JSON, NPY, NPZ, OCTETS
from secure_runner.http.codes import ERROR_CODES

Make = Callable[..., Any]
FUZZ = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
    database=None,
)

numbers = st.one_of(
    st.floats(width=64), st.integers(-(2**70), 2**70), st.booleans(), st.none(), st.text(max_size=3)
)
json_values = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
rows = st.lists(st.lists(numbers, min_size=2, max_size=4), max_size=4)
documents = st.one_of(
    json_values,
    st.fixed_dictionaries({"inputs": st.one_of(json_values, rows, st.fixed_dictionaries({"x": rows}))}),
)
tensors = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("x"), json_values),
        "shape": st.one_of(st.just([2, 3]), st.lists(st.integers(-2, 2**33), max_size=4), json_values),
        "datatype": st.one_of(st.sampled_from(["FP32", "BOOL", "INT64", "BYTES", "BF16"]), json_values),
    },
    optional={
        "data": st.one_of(rows, st.lists(numbers, min_size=6, max_size=6), json_values),
        "parameters": st.one_of(
            st.fixed_dictionaries({"binary_data_size": st.one_of(st.integers(-1, 40), json_values)}),
            json_values,
        ),
    },
)
inferences = st.fixed_dictionaries(
    {
        "inputs": st.one_of(
            st.lists(tensors, max_size=3),
            json_values,
            rows.map(lambda data: [{"name": "x", "shape": [len(data), 3], "datatype": "FP32", "data": data}]),
            st.lists(st.lists(st.floats(-2000, 2000), min_size=3, max_size=3), min_size=1, max_size=3).map(
                lambda data: [{"name": "x", "shape": [len(data), 3], "datatype": "FP64", "data": data}]
            ),
        )
    },
    optional={
        "outputs": st.one_of(st.just([{"name": "y"}]), json_values),
        "parameters": st.one_of(st.just({"binary_data_output": True}), json_values),
        "id": st.one_of(st.text(max_size=8), json_values),
    },
)
media_types = st.sampled_from([JSON, NPY, NPZ, OCTETS, ARROW, "text/plain", ""])


def _valid_bodies() -> list[bytes]:
    array = np.arange(6, dtype="f4").reshape(2, 3)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, array)
    np.savez_compressed(npz, x=array)
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), 3)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("x.npy", npy.getvalue())
    json_body = json.dumps({"inputs": array.tolist()}).encode()
    return [npy.getvalue(), npz.getvalue(), stored.getvalue(), bytes(sink.getvalue()), json_body]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid body with some bytes changed, cut or repeated."""
    body = bytearray(draw(st.sampled_from(_valid_bodies())))
    for _ in range(draw(st.integers(0, 6))):
        position = draw(st.integers(0, max(0, len(body) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if body:
                body[position] = draw(st.integers(0, 255))
            case 1:
                del body[position : position + draw(st.integers(1, 16))]
            case 2:
                body[position:position] = draw(st.binary(max_size=8))
            case _:
                body[position:position] = body[position : position + 8]
    return bytes(body)


@pytest.fixture
def send(predictor: Any, client_of: Make, tried: Any) -> Callable[..., None]:
    """Sends one request and checks what holds for every answer."""
    client = client_of(predictor, max_body_bytes=100_000)

    def post(path: str, content: bytes, headers: dict[str, str]) -> None:
        calls = len(predictor.calls)
        answer = client.post(path, content=content, headers=headers)
        tried.status("HTTP requests", answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code == 200:
            array = predictor.calls[-1]["inputs"]["x"]
            assert array.dtype == np.float32
            assert array.shape[1:] == (3,)
            assert np.isfinite(array).all()
            assert (np.abs(array) <= 1000).all()
            return
        assert len(predictor.calls) == calls
        error = answer.json()["error"]
        code = answer.json()["code"] if isinstance(error, str) else error["code"]
        assert ERROR_CODES[code].status == answer.status_code

    return post


@FUZZ
@given(document=documents)
def test_any_json_to_predict(send: Any, document: Any) -> None:
    """Any JSON document, NaN and Infinity tokens too, is answered without a fault."""
    send("/predict", json.dumps(document).encode(), {"content-type": JSON})


@FUZZ
@given(body=st.one_of(st.binary(max_size=300), mutated()), media_type=media_types)
def test_any_bytes_to_predict(send: Any, body: bytes, media_type: str) -> None:
    """Any bytes, and damaged bodies of every format, are answered without a fault."""
    send("/predict", body, {"content-type": media_type} if media_type else {})


@FUZZ
@given(document=inferences, tail=st.binary(max_size=40), shift=st.integers(-2, 2), announce=st.booleans())
def test_any_inference_request(send: Any, document: Any, tail: bytes, shift: int, announce: bool) -> None:
    """Any inference request, with binary data that may not fit, is answered without a fault."""
    header = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(header) + shift)} if announce else {}
    send("/v2/models/sum/infer", header + (tail if announce else b""), headers)


@FUZZ
@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "accept",
                "content-type",
                "content-encoding",
                "x-request-id",
                "x-request-timeout-s",
                "authorization",
            ]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
        max_size=4,
    )
)
def test_any_headers(send: Any, headers: dict[str, str]) -> None:
    """Any header values are answered without a fault."""
    send("/predict", b'{"inputs": [[1, 2, 3]]}', headers)
