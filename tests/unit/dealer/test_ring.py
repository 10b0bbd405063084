"""Ring arithmetic against Python's integers."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_runner.dealer.ring import FIELD_BYTES, RINGS, Array

_EDGES = [
    0,
    1,
    2,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 63,
    (1 << 64) - 1,
    1 << 64,
    1 << 127,
    (1 << 128) - 1,
]


def _array(field_bytes: int, numbers: list[int]) -> Array:
    octets = b"".join(number.to_bytes(field_bytes, "little") for number in numbers)
    return RINGS[field_bytes].view(np.frombuffer(octets, np.uint8))


def _numbers(field_bytes: int, array: Array) -> list[int]:
    octets = np.ascontiguousarray(array).tobytes()
    return [
        int.from_bytes(octets[at : at + field_bytes], "little") for at in range(0, len(octets), field_bytes)
    ]


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    field_bytes = draw(st.sampled_from(FIELD_BYTES))
    modulus = 1 << 8 * field_bytes
    number = st.one_of(st.integers(0, modulus - 1), st.sampled_from([edge % modulus for edge in _EDGES]))
    pairs = draw(st.lists(st.tuples(number, number), min_size=1, max_size=8))
    return field_bytes, [a for a, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("add", operator.add), ("subtract", operator.sub), ("multiply", operator.mul)],
)
@given(pairs=_pairs())
def test_arithmetic_wraps_around(
    name: str, expected: Callable[[int, int], int], pairs: tuple[int, list[int], list[int]]
) -> None:
    """Sum, difference and product are those of the integers modulo 2^k."""
    field_bytes, a, b = pairs
    result = getattr(RINGS[field_bytes], name)(_array(field_bytes, a), _array(field_bytes, b))

    modulus = 1 << 8 * field_bytes
    assert _numbers(field_bytes, result) == [expected(x, y) % modulus for x, y in zip(a, b, strict=True)]


@given(pairs=_pairs(), data=st.data())
def test_shifts(pairs: tuple[int, list[int], list[int]], data: st.DataObject) -> None:
    """Left, logical right and arithmetic right shifts, at all distances."""
    field_bytes, numbers, _ = pairs
    ring, bits = RINGS[field_bytes], 8 * field_bytes
    modulus, distance = 1 << bits, data.draw(st.integers(0, bits - 1))
    array = _array(field_bytes, numbers)
    signed = [number - modulus if number >> (bits - 1) else number for number in numbers]

    assert _numbers(field_bytes, ring.shift_left(array, distance)) == [
        (x << distance) % modulus for x in numbers
    ]
    assert _numbers(field_bytes, ring.shift_right(array, distance)) == [x >> distance for x in numbers]
    assert _numbers(field_bytes, ring.shift_right_signed(array, distance)) == [
        (x >> distance) % modulus for x in signed
    ]
    assert _numbers(field_bytes, ring.shift_right(array, bits)) == [0] * len(numbers)


@pytest.mark.parametrize("field_bytes", FIELD_BYTES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (2, 3, 700), (1, 6, 513)])
def test_matmul(field_bytes: int, shape: tuple[int, int, int]) -> None:
    """Matrix products are exact, also where the inner dimension is longer than floats can sum exactly."""
    m, n, k = shape
    rng = np.random.default_rng(0)
    # All ones: the largest sums that can come.
    a = [(1 << 8 * field_bytes) - 1] * (m * k)
    b = [int.from_bytes(rng.bytes(field_bytes), "little") for _ in range(k * n)]

    product = RINGS[field_bytes].matmul(_array(field_bytes, a), _array(field_bytes, b), m, n, k)

    modulus = 1 << 8 * field_bytes
    expected = [
        sum(a[i * k + x] * b[x * n + j] for x in range(k)) % modulus for i in range(m) for j in range(n)
    ]
    assert _numbers(field_bytes, product) == expected


@pytest.mark.parametrize("field_bytes", FIELD_BYTES)
def test_bits_become_elements(field_bytes: int) -> None:
    """Zeros and ones keep their value."""
    assert _numbers(field_bytes, RINGS[field_bytes].from_bits(np.array([1, 0, 1], np.uint8))) == [1, 0, 1]
