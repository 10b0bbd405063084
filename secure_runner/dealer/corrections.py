"""What the dealer adds: for each operation, the correction that turns random masks into correlated ones.

Every party expands its masks from its own seed; the dealer expands all of them. One party, the adjusting one,
adds the correction to its last mask, and then the parties' masks, summed, satisfy the operation's relation:
a product, a truncation, a bit and so on (SPU ``libspu/mpc/semi2k/beaver``, ``TrustedParty``).

The dealer sees seeds and sizes. A correction is uniformly random to whoever misses one seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secure_runner.dealer.prg import BLOCK_BYTES, Prg, block_count
from secure_runner.dealer.primes import STREAM_BYTES, prime_correction
from secure_runner.dealer.ring import RINGS, Array, Ring
from secure_runner.dealer.steps import Step

__all__ = ["Masks", "correct"]


class Masks:
    """All parties' generator output over one range of blocks, expanded once and summed on demand."""

    def __init__(self, parties: Sequence[Prg], counter: int, blocks: int) -> None:
        self._counter = counter
        self._streams = [party.blocks(counter, blocks) for party in parties]
        self._sums: dict[int, Array] = {}
        self._xor: Array | None = None

    def sum(self, ring: Ring, counter: int, byte_count: int) -> Array:
        """The parties' masks from ``counter`` on, summed in the ring."""
        total = self._sums.get(ring.element_bytes)
        if total is None:
            total = ring.view(self._streams[0])
            for stream in self._streams[1:]:
                total = ring.add(total, ring.view(stream))
            total = self._sums[ring.element_bytes] = total.view(np.uint8).reshape(-1)
        return ring.view(self._cut(total, counter, byte_count))

    def xor(self, ring: Ring, counter: int, byte_count: int) -> Array:
        """The parties' masks, combined by exclusive or."""
        if self._xor is None:
            total = self._streams[0].view(np.uint64)
            for stream in self._streams[1:]:
                total = total ^ stream.view(np.uint64)
            self._xor = total.view(np.uint8)
        return ring.view(self._cut(self._xor, counter, byte_count))

    def product(self, ring: Ring, counter: int, byte_count: int) -> Array:
        """The parties' masks, multiplied in the ring."""
        factors = [ring.view(self._cut(stream, counter, byte_count)) for stream in self._streams]
        total = factors[0]
        for factor in factors[1:]:
            total = ring.multiply(total, factor)
        return total

    def _cut(self, octets: Array, counter: int, byte_count: int) -> Array:
        start = (counter - self._counter) * BLOCK_BYTES
        return octets[start : start + byte_count]


def correct(step: Step, counter: int, masks: Masks, parties: Sequence[Prg], secret: Prg) -> list[Array]:
    """The corrections of a step whose masks begin at block ``counter``.

    ``secret`` is a generator that only the dealer has. It makes RandBit's bits a function of the counter, so
    that a repeated request gets the same bits: two different answers would tell their difference.
    """
    ring = RINGS[step.field_bytes]
    counters = [counter]
    for blocks in step.input_blocks:
        counters.append(counters[-1] + blocks)
    if step.is_prime:
        length = step.dims[0] * STREAM_BYTES[step.field_bytes]
        streams = [[party.stream(at, length) for party in parties] for at in counters[:-1]]
        return [prime_correction(step.operation, step.field_bytes, streams)]
    spans = list(zip(counters, step.input_bytes, strict=False))
    if step.operation in ("And", "Eqz", "MulPriv"):
        return [_correct_mixed(step.operation, ring, spans, masks)]
    sums = [masks.sum(ring, *span) for span in spans]
    if step.operation == "TruncPr":
        return _correct_truncation(ring, sums, step.bits)
    if step.operation == "RandBit":
        return [ring.subtract(ring.from_bits(_random_bits(secret, counter, step.dims[0])), sums[0])]
    if step.operation == "Perm":
        permuted = np.empty_like(sums[0])
        permuted[parties[step.owner].permutation(counters[-1], step.dims[0])] = sums[0]
        return [ring.subtract(permuted, sums[1])]
    return [ring.subtract(_relation(step, ring, sums), sums[-1])]


def _relation(step: Step, ring: Ring, sums: list[Array]) -> Array:
    """What the last mask shall sum up to, for operations on sums with one output."""
    if step.operation == "Dot":
        return ring.matmul(sums[0], sums[1], *step.dims)
    if step.operation == "Square":
        return ring.multiply(sums[0], sums[0])
    if step.operation == "Trunc":
        return ring.shift_right_signed(sums[0], step.bits)
    assert step.operation == "Mul"
    return ring.multiply(sums[0], sums[1])


def _correct_mixed(operation: str, ring: Ring, spans: list[tuple[int, int]], masks: Masks) -> Array:
    """Operations that combine masks otherwise than by sums alone."""
    if operation == "And":
        a, b, c = (masks.xor(ring, *span) for span in spans)
        return a & b ^ c
    if operation == "Eqz":
        return masks.sum(ring, *spans[0]) ^ masks.xor(ring, *spans[1])
    assert operation == "MulPriv"
    return ring.subtract(masks.product(ring, *spans[0]), masks.sum(ring, *spans[1]))


def _correct_truncation(ring: Ring, sums: list[Array], bits: int) -> list[Array]:
    """Bits ``bits`` to k-2 of the first mask, and its highest bit (Escudero et al., ePrint 2020/338,
    section 5.1)."""
    middle = ring.shift_right(ring.shift_left(sums[0], 1), bits + 1)
    highest = ring.shift_right(sums[0], ring.bits - 1)
    return [ring.subtract(middle, sums[1]), ring.subtract(highest, sums[2])]


def _random_bits(secret: Prg, counter: int, count: int) -> Array:
    """Bits from the blocks of the same numbers as the step's own, which no other step uses."""
    octets = secret.blocks(counter, block_count(-(-count // 8)))
    return np.unpackbits(octets, count=count)
