"""Frames: what is encoded comes back, and bytes that are no frame are refused with FrameError alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secure_runner.frames import (
    LENGTH,
    Frame,
    FrameError,
    Kind,
    array_parts,
    arrays_of,
    check_length,
    decode,
    encode,
    encode_for_stream,
    read_frame,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FRAMES = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    id=st.integers(0, 2**64 - 1),
    meta=st.dictionaries(st.text(max_size=6), JSON, max_size=4),
    parts=st.lists(st.binary(max_size=64), max_size=5),
)
ARRAYS = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(endianness="="),
        hnp.integer_dtypes(endianness="="),
        hnp.boolean_dtypes(),
        hnp.unicode_string_dtypes(min_len=1, max_len=5, endianness="="),
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def _bytes(frame: Frame) -> bytes:
    return b"".join(encode(frame))


@given(FRAMES)
def test_a_frame_comes_back_as_it_was(frame):
    """Kind, id, meta and every part survive, whatever they are."""
    found = decode(_bytes(frame))
    assert (found.kind, found.id, dict(found.meta)) == (frame.kind, frame.id, dict(frame.meta))
    assert [bytes(part) for part in found.parts] == list(frame.parts)


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4))
def test_arrays_come_back_with_their_dtype_and_shape(arrays):
    """Empty, scalar and string arrays included, bit for bit."""
    specs, parts = array_parts(arrays)
    frame = decode(_bytes(Frame(Kind.RUN, meta={"arrays": specs}, parts=parts)))
    found = arrays_of(frame.meta["arrays"], frame.parts)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_arrays_that_are_not_contiguous_are_framed_in_c_order():
    """A transposed view arrives with its own values, not with those of the memory behind it."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    specs, parts = array_parts({"x": array})
    np.testing.assert_array_equal(arrays_of(specs, parts)["x"], array)


@given(FRAMES, st.data())
def test_a_truncated_or_lengthened_frame_is_refused(tried, frame, data):
    """No shorter and no longer run of bytes passes for the frame."""
    whole = _bytes(frame)
    for wrong in (
        whole[: data.draw(st.integers(0, len(whole) - 1))],
        whole + data.draw(st.binary(min_size=1)),
    ):
        with pytest.raises(FrameError), tried.reading("frames", FrameError):
            decode(wrong)


@given(st.binary(max_size=256))
@example(b"")
@example(struct.pack("<HHIQI", 0x5352, 4, 4, 0, 0) + b"\xff\xfe{}")
@example(struct.pack("<HHIQI", 0x5352, 4, 2, 0, 0) + b"[]")
@example(struct.pack("<HHIQI", 0x5352, 4, 500_000, 0, 0) + b'{"a":' * 100_000)
@example(struct.pack("<HHIQI", 0x5352, 4, 0, 0, 1) + LENGTH.pack(2**64 - 1))
@example(struct.pack("<HHIQI", 0x5352, 4, 0, 0, 2) + LENGTH.pack(2**64 - 1) + LENGTH.pack(1))
def test_random_bytes_raise_frame_error_and_nothing_else(tried, data):
    """Neither a wrong header nor hostile JSON gets another exception out of the decoder."""
    with pytest.raises(FrameError), tried.reading("frames", FrameError):
        decode(data)


@settings(max_examples=300)
@given(FRAMES, st.data())
def test_flipped_bytes_never_raise_anything_but_frame_error(tried, frame, data):
    """A frame with some bytes changed is either still a frame or refused."""
    wrong = bytearray(_bytes(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        wrong[data.draw(st.integers(0, len(wrong) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError), tried.reading("frames", FrameError):
        decode(wrong)


@given(
    st.lists(
        JSON | st.fixed_dictionaries({"name": JSON, "dtype": st.text(max_size=6) | JSON, "shape": JSON}),
        min_size=1,
        max_size=3,
    ),
    st.binary(max_size=24),
)
@example([{"name": "a", "dtype": "|O", "shape": [1]}], b"\0" * 8)
@example([{"name": "a", "dtype": "3<f4", "shape": [1]}], b"\0" * 12)
@example([{"name": "a", "dtype": "<f4", "shape": [2**62, 4]}], b"")
@example([{"name": "a", "dtype": "<f4", "shape": [-1, -1]}], b"\0" * 4)
@example([{"name": "a", "dtype": "<f4", "shape": [1.0]}], b"\0" * 4)
@example([{"name": "a", "dtype": "<f4", "shape": "1"}], b"\0" * 4)
@example([{"name": "a", "dtype": "f4,(", "shape": [1]}], b"\0" * 4)
def test_descriptions_that_fit_no_bytes_are_refused(tried, specs, part):
    """A description from outside builds an array of exactly its bytes, or raises FrameError."""
    with contextlib.suppress(FrameError), tried.reading("frames", FrameError):
        for spec, array in zip(specs, arrays_of(specs, [part] * len(specs)).values(), strict=False):
            assert array.nbytes == len(part), spec
            assert not array.dtype.hasobject


@pytest.mark.parametrize("specs", [None, 1, {"name": "x"}, []])
def test_arrays_without_a_list_of_descriptions_are_refused(specs):
    """The list itself may be missing or something else."""
    with pytest.raises(FrameError):
        arrays_of(specs, [b"\0"] * 2)


@given(st.lists(FRAMES, min_size=1, max_size=3))
def test_frames_follow_each_other_on_a_stream(frames):
    """Each is read whole, whatever the pieces in which the bytes arrive."""

    async def read_all() -> list[Frame]:
        reader = asyncio.StreamReader()
        sent = b"".join(b"".join(encode_for_stream(frame)) for frame in frames)
        for at in range(0, len(sent), 7):
            reader.feed_data(sent[at : at + 7])
        reader.feed_eof()
        return [await read_frame(reader) for _ in frames]

    assert [_bytes(found) for found in asyncio.run(read_all())] == [_bytes(frame) for frame in frames]


def test_a_length_over_the_limit_is_refused_before_anything_is_read():
    """Eight bytes from a stranger do not make this process reserve gigabytes."""
    with pytest.raises(FrameError, match="limit"):
        check_length(LENGTH.pack(2**40))


def test_counts_over_the_limits_are_refused():
    """So do not a header that promises more meta or parts than any frame has."""
    for meta_len, parts in ((1 << 21, 0), (0, 1 << 20)):
        with pytest.raises(FrameError, match="limits"):
            decode(struct.pack("<HHIQI", 0x5352, 4, meta_len, 0, parts))


def test_no_value_is_in_an_error():
    """What a frame holds stays out of the message that refuses it."""
    data = json.dumps({"secret": "31415926"}).encode()[:-1]
    with pytest.raises(FrameError) as caught:
        decode(struct.pack("<HHIQI", 0x5352, 4, len(data), 0, 0) + data)
    assert "31415926" not in str(caught.value)
