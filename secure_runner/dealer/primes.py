"""Arithmetic modulo a Mersenne prime, for the two operations that SPU also does in a prime field.

SPU writes ``GFMP`` for it; its kernel for the exponential over a prime (``EXP_PRIME``) multiplies there. Few
elements and rarely, so plain Python numbers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import numpy as np

from secure_runner.dealer.ring import Array

__all__ = ["STREAM_BYTES", "prime_correction", "prime_of"]

_PRIME_BITS = {4: 31, 8: 61, 16: 127}
STREAM_BYTES = {4: 9, 8: 8, 16: 16}
"""Element size to the generator's bytes that make one element. A 31-bit one is reduced from 72 bits."""


def prime_of(field_bytes: int) -> int:
    """The prime of an element size."""
    return (1 << _PRIME_BITS[field_bytes]) - 1


def prime_correction(operation: str, field_bytes: int, masks: Sequence[Sequence[bytes]]) -> Array:
    """What the last mask lacks, little-endian (``uint8``).

    ``masks`` are the parties' generator bytes, mask by mask, party by party.
    """
    prime = prime_of(field_bytes)
    shares = [[_elements(stream, field_bytes) for stream in mask] for mask in masks]
    if operation == "MulPrivGfmp":
        wanted = _combine(lambda a, b: a * b % prime, shares[0])
    else:
        first, second = (_combine(lambda a, b: (a + b) % prime, mask) for mask in shares[:2])
        wanted = [a * b % prime for a, b in zip(first, second, strict=True)]
    last = _combine(lambda a, b: (a + b) % prime, shares[-1])
    lacking = [(a - b) % prime for a, b in zip(wanted, last, strict=True)]
    return np.frombuffer(b"".join(value.to_bytes(field_bytes, "little") for value in lacking), np.uint8)


def _elements(stream: bytes, field_bytes: int) -> list[int]:
    """SPU's elements from generator bytes (yacl ``FillPRandWithMersennePrime``): a 31-bit one is the rest of
    a longer number, the others are cut to the prime's bits."""
    prime, size = prime_of(field_bytes), STREAM_BYTES[field_bytes]
    numbers = [int.from_bytes(stream[at : at + size], "little") for at in range(0, len(stream), size)]
    if size == field_bytes:
        numbers = [number & prime for number in numbers]
    return [number % prime for number in numbers]


def _combine(operation: Callable[[int, int], int], shares: Iterable[list[int]]) -> list[int]:
    return reduce(lambda total, share: list(map(operation, total, share)), shares)
