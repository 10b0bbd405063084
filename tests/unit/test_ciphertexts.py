"""Ciphertexts of homomorphic products, held against what SPU's log says of the same shapes."""

import pytest

from secure_runner.programs.ciphertexts import Ciphertexts, ciphertexts

FOUND = {
    # One polynomial holds it all: there is nothing to pack.
    ((1, 30, 64), True): Ciphertexts(sent=1, answered=1, extracted=64, multiplied=1),
    ((1, 30, 64), False): Ciphertexts(sent=1, answered=1, extracted=64, multiplied=1),
    # "8x64x32 => 8x64x16 … interleave": two results in one answer, which takes 6 levels of merging.
    ((8, 64, 32), True): Ciphertexts(sent=1, packed=1, multiplied=2, switches=2 + 2 + 2 + 2 + 2 + 1),
    ((8, 64, 32), False): Ciphertexts(sent=1, answered=2, extracted=256, multiplied=2),
    # "32x30x64 => 32x16x16 … interleave".
    ((32, 30, 64), True): Ciphertexts(sent=2, packed=1, multiplied=8, switches=4 + 4 + 2 + 1),
    ((32, 64, 32), False): Ciphertexts(sent=1, answered=8, extracted=1024, multiplied=8),
    # "pack_lwes": 256 coefficients are merged, and a factor of 2^5 removed.
    ((1, 256, 256), True): Ciphertexts(sent=1, packed=1, multiplied=8, switches=255 + 5),
}


@pytest.mark.parametrize(("shape", "packed"), list(FOUND))
def test_counts_are_those_of_spu(shape, packed):
    """Blocks, answers and steps of packing."""
    assert ciphertexts(*shape, packed=packed) == FOUND[shape, packed]


@pytest.mark.parametrize("packed", [True, False])
def test_a_product_costs_the_same_on_either_side(packed):
    """Of the transposed product, the other factor is encrypted."""
    one, other = (ciphertexts(*shape, packed=packed) for shape in ((4, 64, 32), (32, 64, 4)))
    assert (one.sent, one.multiplied) == (other.sent, other.multiplied)


def test_counts_add_up():
    """As many products of one shape as are asked for, and of several shapes together."""
    one = ciphertexts(8, 64, 32, packed=False)
    assert one * 3 == one + one + one
    assert (one * 3).exchanged == 3 * (one.sent + one.answered)
