"""SPU's pseudo-random generators, replayed from a seed.

Sources: yacl ``crypto/tools/prg`` (``FillPRand``) and ``crypto/rand`` (``ReplayShuffle``), as SPU's SEMI2K
calls them. A generator is a sequence of 16-byte blocks, addressed by a counter.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secure_runner.dealer.ring import Array

__all__ = ["BLOCK_BYTES", "SEED_BYTES", "Prg", "block_count"]

BLOCK_BYTES = 16
SEED_BYTES = 16
# cryptography asks for up to a block of room behind the output.
_SLACK_BYTES = BLOCK_BYTES - 1
# Counters take as much memory as what is made of them.
_BLOCKS_AT_ONCE = 1 << 15


def block_count(byte_count: int) -> int:
    """Blocks that SPU consumes for so many bytes: the counter advances by this."""
    return -(-byte_count // BLOCK_BYTES)


class Prg:
    """The generators of one seed. Not for use by two threads at the same moment."""

    def __init__(self, seed: bytes) -> None:
        self._key = algorithms.AES(seed)
        self._encryptor: CipherContext = Cipher(self._key, modes.ECB()).encryptor()  # noqa: S305

    def blocks(self, counter: int, count: int) -> Array:
        """``count`` blocks from ``counter`` on, as bytes (``uint8``): AES-128 of the little-endian counter.

        SPU fills ring elements from these bytes, little-endian, in row-major order.
        """
        octets = np.empty(count * BLOCK_BYTES + _SLACK_BYTES, np.uint8)
        for start in range(0, count, _BLOCKS_AT_ONCE):
            first, stop = counter + start, counter + min(start + _BLOCKS_AT_ONCE, count)
            counters = np.zeros((stop - first, 2), np.uint64)
            counters[:, 0] = np.arange(first, stop, dtype=np.uint64)
            self._encryptor.update_into(counters.view(np.uint8).data, octets[start * BLOCK_BYTES :].data)
        return octets[: count * BLOCK_BYTES]

    def stream(self, counter: int, byte_count: int) -> bytes:
        """AES-128-CTR from block ``counter`` on: what permutations and prime fields are drawn from."""
        initial = counter.to_bytes(8, "little") + bytes(8)
        return Cipher(self._key, modes.CTR(initial)).encryptor().update(bytes(byte_count))

    def permutation(self, counter: int, size: int) -> Array:
        """SPU's random permutation of ``size`` indices (``int64``), from ``size - 1`` blocks.

        A Knuth shuffle on AES-128-CTR: block i, as a little-endian number modulo i + 2, says with which
        index the element i + 1 is exchanged.
        """
        order = list(range(size))
        if size == 1:
            return np.array(order, np.int64)
        stream = self.stream(counter, (size - 1) * BLOCK_BYTES)
        low, high = np.frombuffer(stream, np.uint64).reshape(-1, 2).T
        modulus = np.arange(2, size + 1, dtype=np.uint64)
        # 2^64 mod m, in 64 bits. All factors are below 2^32, as sizes are.
        wrap = (np.uint64(0xFFFFFFFFFFFFFFFF) % modulus + np.uint64(1)) % modulus
        others = ((high % modulus * wrap + low % modulus) % modulus).tolist()
        for last in range(size - 1, 0, -1):
            other = others[last - 1]
            order[last], order[other] = order[other], order[last]
        return np.array(order, np.int64)
