"""Arithmetic in Z/2^k for k = 32, 64 and 128, on numpy arrays.

Values of the 32- and 64-bit rings are one-dimensional ``uint32`` and ``uint64`` arrays. Numpy has no 128-bit
integers, so values of the 128-bit ring are pairs: ``uint64`` of shape ``(count, 2)``, low half first, which
is also how SPU lays them out in memory. All operations wrap around, as SPU's do.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secure_runner.dealer.matmul import native_matmul, wide_matmul

__all__ = ["FIELD_BYTES", "RINGS", "Array", "Ring"]

Array = npt.NDArray[Any]

FIELD_BYTES = (4, 8, 16)
"""Element sizes of SPU's FM32, FM64 and FM128."""

_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)


class Ring(Protocol):
    """One ring. Arrays are never changed in place; operands have the same count."""

    element_bytes: int
    bits: int

    def view(self, octets: Array) -> Array:
        """Little-endian bytes (``uint8``, one-dimensional) as ring elements, without a copy."""
        ...

    def from_bits(self, bits: Array) -> Array:
        """Elements 0 and 1 from a ``uint8`` array of 0 and 1."""
        ...

    def add(self, a: Array, b: Array) -> Array:
        """``a + b``."""
        ...

    def subtract(self, a: Array, b: Array) -> Array:
        """``a - b``."""
        ...

    def multiply(self, a: Array, b: Array) -> Array:
        """``a * b``, element by element."""
        ...

    def matmul(self, a: Array, b: Array, m: int, n: int, k: int) -> Array:
        """The ``(m, k)`` by ``(k, n)`` matrix product, flattened in row-major order."""
        ...

    def shift_left(self, a: Array, bits: int) -> Array:
        """``a << bits`` with ``0 <= bits < k``."""
        ...

    def shift_right(self, a: Array, bits: int) -> Array:
        """Logical ``a >> bits`` with ``0 <= bits <= k``; zero where ``bits`` is k."""
        ...

    def shift_right_signed(self, a: Array, bits: int) -> Array:
        """Arithmetic ``a >> bits`` of the two's complement number, ``0 <= bits < k``."""
        ...


class _NativeRing:
    """The rings whose elements numpy has: 32 and 64 bits."""

    def __init__(self, dtype: type[np.unsignedinteger[Any]], signed: type[np.signedinteger[Any]]) -> None:
        self._dtype, self._signed = np.dtype(dtype), np.dtype(signed)
        self.element_bytes = self._dtype.itemsize
        self.bits = 8 * self.element_bytes

    def view(self, octets: Array) -> Array:
        return octets.view(self._dtype)

    def from_bits(self, bits: Array) -> Array:
        return bits.astype(self._dtype)

    def add(self, a: Array, b: Array) -> Array:
        total: Array = a + b
        return total

    def subtract(self, a: Array, b: Array) -> Array:
        difference: Array = a - b
        return difference

    def multiply(self, a: Array, b: Array) -> Array:
        product: Array = a * b
        return product

    def matmul(self, a: Array, b: Array, m: int, n: int, k: int) -> Array:
        return native_matmul(a.reshape(m, k), b.reshape(k, n)).reshape(-1)

    def shift_left(self, a: Array, bits: int) -> Array:
        shifted: Array = a << self._dtype.type(bits)
        return shifted

    def shift_right(self, a: Array, bits: int) -> Array:
        if bits >= self.bits:
            return np.zeros_like(a)
        shifted: Array = a >> self._dtype.type(bits)
        return shifted

    def shift_right_signed(self, a: Array, bits: int) -> Array:
        shifted: Array = a.view(self._signed) >> self._signed.type(bits)
        return shifted.view(self._dtype)


class _WideRing:
    """The 128-bit ring, on pairs of 64-bit halves."""

    element_bytes = 16
    bits = 128

    def view(self, octets: Array) -> Array:
        return octets.view(np.uint64).reshape(-1, 2)

    def from_bits(self, bits: Array) -> Array:
        return _pair(bits.astype(np.uint64), np.zeros(len(bits), np.uint64))

    def add(self, a: Array, b: Array) -> Array:
        total = a + b
        total[:, 1] += total[:, 0] < a[:, 0]
        return total

    def subtract(self, a: Array, b: Array) -> Array:
        difference = a - b
        difference[:, 1] -= a[:, 0] < b[:, 0]
        return difference

    def multiply(self, a: Array, b: Array) -> Array:
        low, carry = _full_product(a[:, 0], b[:, 0])
        return _pair(low, carry + a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0])

    def matmul(self, a: Array, b: Array, m: int, n: int, k: int) -> Array:
        return wide_matmul(a.reshape(m, k, 2), b.reshape(k, n, 2)).reshape(-1, 2)

    def shift_left(self, a: Array, bits: int) -> Array:
        low, high = a[:, 0], a[:, 1]
        if bits == 0:
            return a.copy()
        if bits >= 64:
            return _pair(np.zeros_like(low), low << np.uint64(bits - 64))
        return _pair(low << np.uint64(bits), high << np.uint64(bits) | low >> np.uint64(64 - bits))

    def shift_right(self, a: Array, bits: int) -> Array:
        return self._shift_right(a, bits, np.zeros_like(a[:, 1]))

    def shift_right_signed(self, a: Array, bits: int) -> Array:
        sign = (a[:, 1].view(np.int64) >> np.int64(63)).view(np.uint64)
        return self._shift_right(a, bits, sign)

    def _shift_right(self, a: Array, bits: int, fill: Array) -> Array:
        """Shift right; ``fill`` (per element all zeros or all ones) comes in from the left."""
        low, high = a[:, 0], a[:, 1]
        if bits >= 128:
            return _pair(fill, fill)
        if bits >= 64:
            low, high, bits = high, fill, bits - 64
        if bits == 0:
            return _pair(low, high)
        right, left = np.uint64(bits), np.uint64(64 - bits)
        return _pair(low >> right | high << left, high >> right | fill << left)


def _pair(low: Array, high: Array) -> Array:
    return np.stack((low, high), axis=1)


def _full_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Low and high half of the 128-bit products of 64-bit numbers, by 32-bit parts."""
    a_low, a_high = a & _LOW_32, a >> _SHIFT_32
    b_low, b_high = b & _LOW_32, b >> _SHIFT_32
    low_high, high_low = a_low * b_high, a_high * b_low
    middle = (a_low * b_low >> _SHIFT_32) + (low_high & _LOW_32) + (high_low & _LOW_32)
    high = a_high * b_high + (low_high >> _SHIFT_32) + (high_low >> _SHIFT_32) + (middle >> _SHIFT_32)
    return a * b, high


RINGS: dict[int, Ring] = {
    4: _NativeRing(np.uint32, np.int32),
    8: _NativeRing(np.uint64, np.int64),
    16: _WideRing(),
}
"""The rings by element size in bytes."""
