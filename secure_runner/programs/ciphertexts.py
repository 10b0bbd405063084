"""What a homomorphic matrix product of CHEETAH takes, counted in ciphertexts.

One party encrypts its matrix, in polynomials that hold a block each; the other multiplies them by blocks of
its own matrix, which stays in the clear there, and answers with the encrypted results, masked. Answers can be
packed: less is sent, but each step of packing is a key switch, which costs more than anything else.

The blocks are those that SPU chooses (``libspu/mpc/cheetah/arith``: ``MatMatProtocol::GetSubMatShape``,
``CheetahDot::doDotOLE``), after `Lu et al., NDSS 2025 <https://eprint.iacr.org/2023/1678>`_ and `Chen et al.,
ACNS 2021 <https://eprint.iacr.org/2020/015>`_.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import cache

__all__ = ["DEGREE", "Ciphertexts", "ciphertexts"]

DEGREE = 8192
"""Of the polynomials in a ring of 64 bits: how many coefficients one holds."""


@dataclass(frozen=True)
class Ciphertexts:
    """Of products of a matrix of one party with a matrix of the other."""

    sent: int = 0
    """Ciphertexts from the party that encrypts."""
    answered: int = 0
    """Ciphertexts back, not packed."""
    extracted: int = 0
    """Coefficients that these hold beside their masks."""
    packed: int = 0
    """Packed ciphertexts back."""
    multiplied: int = 0
    """Products of a ciphertext and a plaintext polynomial."""
    switches: int = 0
    """Key switches of packing."""

    @property
    def exchanged(self) -> int:
        """Ciphertexts there and back."""
        return self.sent + self.answered + self.packed

    def __add__(self, other: Ciphertexts) -> Ciphertexts:
        """Of both together."""
        return Ciphertexts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, count: int) -> Ciphertexts:
        """Of so many of these products."""
        return Ciphertexts(*(one * count for one in astuple(self)))


@cache
def ciphertexts(rows: int, depth: int, columns: int, *, packed: bool) -> Ciphertexts:
    """Count for a matrix of ``rows`` by ``depth`` with one of ``depth`` by ``columns``, in FM64.

    Args:
        rows: of the left matrix.
        depth: its columns, which are the rows of the right matrix.
        columns: of the right matrix.
        packed: whether answers may be packed, as SPU does by default.
    """
    dims = (rows, depth, columns)
    interleaved = by_coefficient = False
    if packed:
        shape = _block(dims, packed=True)
        if _blocks(rows, shape[0]) * _blocks(columns, shape[2]) > 1:
            interleaved = shape[1] < rows * columns
            by_coefficient = not interleaved
    shape = _block(dims, packed=interleaved or by_coefficient)
    m, k, n = (_blocks(size, block) for size, block in zip(dims, shape, strict=True))
    found = Ciphertexts(sent=min(m * k, k * n), multiplied=m * k * n)
    if interleaved:
        switches = _interleaving(m * n, shape[1])
        return found + Ciphertexts(packed=_blocks(m * n, shape[1]), switches=switches)
    if by_coefficient:
        switches = _by_coefficient(rows * columns)
        return found + Ciphertexts(packed=_blocks(rows * columns, DEGREE), switches=switches)
    return found + Ciphertexts(answered=m * n, extracted=rows * columns)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _block(dims: tuple[int, int, int], *, packed: bool) -> tuple[int, int, int]:
    """Shape of the blocks that SPU finds cheapest: ciphertexts count most, then packing, then products."""
    rows, depth, columns = dims
    best, cheapest = (0, 0, 0), math.inf
    for d0 in range(1, min(DEGREE, rows) + 1):
        d1 = 1
        while d1 <= depth and d0 * d1 <= DEGREE:
            d2 = min(columns, DEGREE // d0 // d1)
            m, k, n = _blocks(rows, d0), _blocks(depth, d1), _blocks(columns, d2)
            exchanged = min(m, n) * k + _blocks(m * n, d1)
            automorphisms = _blocks(rows * columns, DEGREE) * d1 if packed else 0
            cost = exchanged * 1000.0 + automorphisms + m * k * n / 10.0
            if cost <= cheapest:
                best, cheapest = (d0, d1, d2), cost
            d1 = d1 * 2 if packed else d1 + 1
    return best


def _interleaving(count: int, gap: int) -> int:
    """Key switches that merge results, ``gap`` of them into each answer, level by level."""
    switches = 0
    for start in range(0, count, gap):
        half = gap // 2
        while half:
            switches += min(count - start, gap, half)
            half //= 2
    return switches


def _by_coefficient(count: int) -> int:
    """Key switches that merge single coefficients, and remove the factor that this leaves."""
    aligned = 1 << (count - 1).bit_length()
    switches = 0
    for start in range(0, aligned, DEGREE):
        held, size = min(max(count - start, 0), DEGREE), min(aligned - start, DEGREE)
        half = size // 2
        while half:
            switches += min(held, half)
            half //= 2
        switches += int(math.log2(DEGREE // size))
    return switches
