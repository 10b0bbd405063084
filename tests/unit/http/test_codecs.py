"""Bodies in every format are read within bounds, and answers come in the form that was asked for."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from secure_runner.http.arrow import write_arrow
from secure_runner.http.codecs import ARROW, JSON, NPY, NPZ, OCTETS, decode_body, encoding_for
from secure_runner.http.codes import RequestError
from secure_runner.http.npy import write_npy, write_npz
from secure_runner.programs.manifest import Manifest

ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]])


def _saved(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _stream(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _feature_table() -> Any:
    return pa.table({f"f{index}": ROWS[:, index] for index in range(3)})


def _list_table(name: str = "x") -> Any:
    return pa.table({name: pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 3)})


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (JSON, b'{"inputs": [[1, 2, 3], [4, 5, 6.5]]}'),
        (NPY, _saved(ROWS)),
        (NPY, _saved(np.asfortranarray(ROWS))),
        (OCTETS, _saved(ROWS)),
        (ARROW, _stream(_feature_table())),
    ],
)
def test_rows_of_one_input_in_every_format(single: Manifest, media_type: str, body: bytes) -> None:
    """JSON rows, .npy in either memory order, and Arrow feature columns all give the same rows."""
    assert np.array_equal(decode_body(media_type, body, single, max_bytes=10**6), ROWS)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (JSON, b'{"inputs": {"x": [[1, 2, 3], [4, 5, 6.5]]}}'),
        (NPZ, _zipped({"x.npy": _saved(ROWS)})),
        (OCTETS, _zipped({"x.npy": _saved(ROWS)})),
        (ARROW, _stream(_list_table())),
        (ARROW, _stream(pa.concat_tables([_list_table().slice(0, 1), _list_table().slice(1)]))),
    ],
)
def test_named_inputs_in_every_format(single: Manifest, media_type: str, body: bytes) -> None:
    """Objects, .npz members and list columns carry the input's name."""
    decoded = decode_body(media_type, body, single, max_bytes=10**6)
    assert list(decoded) == ["x"]
    assert np.array_equal(decoded["x"], ROWS)


def _claimed(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    header = repr({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("media_type", "body", "code"),
    [
        (JSON, b"", "malformed_body"),
        (JSON, b"{", "malformed_body"),
        (JSON, b"[[1, 2, 3]]", "malformed_body"),
        (JSON, b'{"rows": []}', "malformed_body"),
        (JSON, b'{"inputs": [[1, 2, NaN]]}', "malformed_body"),
        (JSON, b'{"inputs": [[1, 2, Infinity]]}', "malformed_body"),
        (JSON, b'{"inputs": [[1, 2, 1e999]]}', "malformed_body"),
        (JSON, b'{"inputs": "\xff"}', "malformed_body"),
        (JSON, b'{"inputs": [[1, 2, 3]], "debug": true}', "unknown_field"),
        (JSON, b"[" * 100_000, "malformed_body"),
        (NPY, b"", "malformed_body"),
        (NPY, b"\x93NUMPY", "malformed_body"),
        (NPY, b"\x93NUMPY\x09\x00" + _saved(ROWS)[8:], "malformed_body"),
        (NPY, _saved(ROWS)[:-1], "malformed_body"),
        (NPY, _saved(ROWS) + b"\0", "malformed_body"),
        (NPY, _claimed((-1, 3)), "malformed_body"),
        (NPY, _claimed((2**40, 3)), "malformed_body"),
        (NPY, _claimed((2**62, 2**62)), "malformed_body"),
        (NPY, _saved(np.array([[1, None]]), allow_pickle=True), "wrong_dtype"),
        (NPY, _saved(np.array([["1"]])), "wrong_dtype"),
        (NPY, _saved(np.zeros(2, dtype=[("a", "f4")])), "wrong_dtype"),
        (NPZ, b"PK\x03\x04", "malformed_body"),
        (NPZ, _zipped({"x.npy": b"nothing"}), "malformed_body"),
        (NPZ, _zipped({"x.npy": _saved(ROWS)}, zipfile.ZIP_LZMA), "malformed_body"),
        (NPZ, _zipped({f"x{index}.npy": b"" for index in range(65)}), "malformed_body"),
        (NPZ, _zipped({"x.npy": b"\0" * 10**7}), "body_too_large"),
        (ARROW, b"", "malformed_body"),
        (ARROW, _stream(_feature_table())[:-40], "malformed_body"),
        (ARROW, _stream(_feature_table(), compression="zstd"), "malformed_body"),
        (ARROW, _stream(pa.table({"x": pa.array(["a"]).dictionary_encode()})), "malformed_body"),
        (ARROW, _stream(pa.table({"x": ["1", "2"]})), "wrong_dtype"),
        (ARROW, _stream(pa.table({"x": pa.array([1.0, None])})), "not_finite"),
        (
            ARROW,
            _stream(pa.table({"x": pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float64(), 3))})),
            "not_finite",
        ),
        (ARROW, _stream(pa.table({"a": [1.0], "b": [True], "c": [2.0]})), "wrong_dtype"),
        (ARROW, _stream(_list_table("z")), "wrong_shape"),
    ],
)
def test_malformed_bodies_are_refused(single: Manifest, media_type: str, body: bytes, code: str) -> None:
    """Broken, dangerous or ambiguous bodies get a code; nothing is unpickled, expanded or guessed."""
    with pytest.raises(RequestError) as refused:
        decode_body(media_type, body, single, max_bytes=10**6)
    assert refused.value.code == code


def test_a_header_that_claims_terabytes_allocates_nothing(single: Manifest) -> None:
    """The size of the body is compared with the header before there is an array."""
    tracemalloc.start()
    try:
        for shape in ((2**30, 3), (2**45,)):
            with pytest.raises(RequestError):
                decode_body(NPY, _claimed(shape, b"\0" * 100), single, max_bytes=10**6)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_json_positions_are_told_and_the_body_is_not(single: Manifest) -> None:
    """The parser's own message may quote what it read; ours has line and column."""
    with pytest.raises(RequestError) as refused:
        decode_body(JSON, b'{"inputs":\n [[987.65, x]]}', single, max_bytes=10**6)
    assert "line 2, column" in str(refused.value)
    assert "987" not in str(refused.value)


@pytest.mark.parametrize(
    ("accept", "sent", "answered"),
    [
        (None, JSON, JSON),
        ("*/*", JSON, JSON),
        ("*/*", NPY, NPY),
        ("*/*", OCTETS, NPY),
        ("*/*", ARROW, ARROW),
        (JSON, NPY, JSON),
        (f"text/html, {ARROW};q=0.5, {JSON};q=0.4", NPY, ARROW),
        (f"{NPY};q=0, application/*", JSON, JSON),
        (OCTETS, JSON, OCTETS),
    ],
)
def test_the_form_of_the_answer(single: Manifest, accept: str | None, sent: str, answered: str) -> None:
    """Accept decides; where it accepts anything, the answer comes as the request came."""
    assert encoding_for(accept, sent, single).media_type == answered


def test_what_cannot_be_answered_is_refused_before_it_is_computed(
    single: Manifest, several: Manifest
) -> None:
    """No form in common is a 406; one .npy holds no two outputs."""
    for accept, manifest in (("text/html", single), ("application/json;q=x", single), (NPY, several)):
        with pytest.raises(RequestError) as refused:
            encoding_for(accept, JSON, manifest)
        assert refused.value.code == "not_acceptable"


READ_BACK: dict[str, Callable[[bytes], Any]] = {
    NPZ: lambda body: dict(np.load(io.BytesIO(body), allow_pickle=False)),
    ARROW: lambda body: {
        name: np.array(values) for name, values in pa.ipc.open_stream(body).read_all().to_pydict().items()
    },
}


@pytest.mark.parametrize("media_type", [NPZ, ARROW])
def test_labels_and_scores_survive_binary_forms(several: Manifest, media_type: str) -> None:
    """Labels are text, without pickle; scores keep their shape."""
    outputs = {"label": np.array(["benign", "malignant"]), "scores": np.arange(4, dtype="f4").reshape(2, 2)}
    body = encoding_for(media_type, JSON, several).encode(outputs)
    read = READ_BACK[media_type](body)
    assert read["label"].tolist() == ["benign", "malignant"]
    assert np.array_equal(read["scores"], outputs["scores"])


def test_json_answers(single: Manifest, several: Manifest) -> None:
    """One output is a list, several are an object; labels are strings."""
    encode = encoding_for(JSON, JSON, single).encode
    assert encode({"y": np.array([0.1, 2.0], dtype="f4")}) == b'{"outputs":[0.1,2.0]}'
    outputs = {"label": np.array(["a"], dtype=object), "scores": np.array([[1.0, 2.0]]).T.copy().T}
    encode = encoding_for(JSON, JSON, several).encode
    assert encode(outputs) == b'{"outputs":{"label":["a"],"scores":[[1.0,2.0]]}}'


def test_writers_and_readers_agree(single: Manifest) -> None:
    """What this package writes, it reads."""
    assert np.array_equal(decode_body(NPY, write_npy(ROWS), single, max_bytes=10**6), ROWS)
    assert np.array_equal(decode_body(NPZ, write_npz({"x": ROWS}), single, max_bytes=10**6)["x"], ROWS)
    assert np.array_equal(decode_body(ARROW, write_arrow({"x": ROWS}), single, max_bytes=10**6)["x"], ROWS)
