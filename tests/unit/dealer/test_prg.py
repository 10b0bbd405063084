"""The generators against their definition."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from secure_runner.dealer.prg import _BLOCKS_AT_ONCE, Prg, block_count

_SEED = bytes(range(16))


@given(counter=st.integers(0, (1 << 63) - 10), count=st.integers(1, 9))
def test_blocks_encrypt_the_counter(counter: int, count: int) -> None:
    """Block i is AES-128 of the counter's 128-bit little-endian form, plus i."""
    encryptor = Cipher(algorithms.AES(_SEED), modes.ECB()).encryptor()
    expected = b"".join(encryptor.update((counter + index).to_bytes(16, "little")) for index in range(count))

    assert Prg(_SEED).blocks(counter, count).tobytes() == expected


@given(counter=st.integers(0, 1 << 62), size=st.integers(1, 40))
def test_permutations_hold_each_index_once(counter: int, size: int) -> None:
    """They are Knuth's shuffle, by the blocks of AES-128-CTR as numbers."""
    initial = counter.to_bytes(8, "little") + bytes(8)
    stream = Cipher(algorithms.AES(_SEED), modes.CTR(initial)).encryptor().update(bytes(16 * size))
    expected = list(range(size))
    for last in range(size - 1, 0, -1):
        other = int.from_bytes(stream[16 * (last - 1) : 16 * last], "little") % (last + 1)
        expected[last], expected[other] = expected[other], expected[last]

    order = Prg(_SEED).permutation(counter, size)

    assert list(order) == expected
    assert sorted(order) == list(range(size))


def test_block_counts_round_up() -> None:
    """A block is 16 bytes."""
    assert [block_count(length) for length in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]


def test_long_ranges_are_those_of_their_parts() -> None:
    """Blocks are made some at a time; where one lot ends and the next begins cannot be seen."""
    prg, count = Prg(_SEED), 2 * _BLOCKS_AT_ONCE + 5

    parts = [prg.blocks(7 + start, 1) for start in range(count)]

    assert prg.blocks(7, count).tobytes() == b"".join(part.tobytes() for part in parts)
