"""What may travel on the control channel."""

from __future__ import annotations

import collections
import contextlib
import pickle

import msgpack
import numpy as np
import pytest
import spu
from hypothesis import given, settings
from hypothesis import strategies as st
from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta

from secure_runner.party import payload
from secure_runner.party.payload import PayloadError

META = SPUValueMeta(
    (3, 4), np.dtype("float32"), spu.Visibility.VIS_SECRET, spu.ProtocolKind.ABY3, spu.FieldType.FM64, 18
)


def same(left, right):
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, -7, 2**63, 1.5, "é", b"\x00\xff"],
        (1, (2, ()), [3]),
        {"w": {"b": (b"share", None)}, 3: [4]},
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.zeros((0, 4), np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(True),
        np.float32(0.5),
        np.dtype("int16"),
        SPUIOInfo(0, 2, b"meta"),
        {"layer": META},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_session_sends_arrives_as_it_was(value):
    """Containers, numbers, arrays and SPU's descriptions keep value, type, dtype and order."""
    same(payload.decode(payload.encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        len,
        ValueError("x"),
        np.array([object()]),
        np.array(["text"]),
        collections.OrderedDict(a=1),
        collections.namedtuple("Pair", "a b")(1, 2),
        2**64,
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_do_not_leave(value):
    """The sender refuses what is not on the list, and what the format would change silently."""
    with pytest.raises(PayloadError):
        payload.encode({"deep": [value]})


def extension(code, body):
    return msgpack.packb(msgpack.ExtType(code, payload.encode(body)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pickle.dumps({"a": 1}),
        extension(99, None),
        extension(2, ["<f4", [2], b"\0" * 4]),
        extension(2, ["<f4", [-1, -1], b"\0" * 4]),
        extension(2, ["|O", [1], b"\0" * 8]),
        extension(2, ["f4,f4", [1], b"\0" * 8]),
        extension(2, ["<f4", [True], b"\0" * 4]),
        extension(4, "O"),
        extension(5, ["visibility", 77]),
        extension(5, ["nothing", 1]),
        extension(6, [0, 1, "text"]),
        extension(7, [(1,), None, None, None, None, 18]),
        extension(1, {"a": 1}),
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x00\x0f\xff\xff",
        b"\x91" * 5000,
        b"\x81\x90\x01",
    ],
    ids=range(19),
)
def test_malformed_bytes_are_refused_as_one_kind_of_error(data):
    """Whatever a peer sends instead of a value ends as PayloadError, without its content in the message."""
    with pytest.raises(PayloadError):
        payload.decode(data)


def test_deeply_nested_special_types_are_refused():
    """Nesting costs the sender little and the receiver much: it is bounded."""
    value = ()
    for _ in range(30):
        value = (value,)
    with pytest.raises(PayloadError, match="16 levels"):
        payload.decode(payload.encode(value))


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(tried, data):
    """Random bytes either are a value or raise PayloadError."""
    with contextlib.suppress(PayloadError), tried.reading("control channel values", PayloadError):
        payload.decode(data)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_else(tried, position, byte):
    """Near-valid messages with one byte changed either are a value or raise PayloadError."""
    data = bytearray(payload.encode({"a": (np.ones((2, 2)), META, SPUIOInfo(0, 1, b"m")), "b": [1, 2.0]}))
    data[position % len(data)] = byte
    with contextlib.suppress(PayloadError), tried.reading("control channel values", PayloadError):
        payload.decode(bytes(data))
