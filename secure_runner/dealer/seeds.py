"""The parties' seeds out of their ciphertexts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from secure_runner.dealer.prg import SEED_BYTES
from secure_runner.dealer.sm2 import DecryptionError, PrivateKey

__all__ = ["SeedError", "decrypt_seeds"]


class SeedError(Exception):
    """Ciphertexts that do not hold one seed for each party under the expected key."""


def decrypt_seeds(key: PrivateKey, ciphertexts: Sequence[str]) -> list[bytes]:
    """The seeds, in rank order, of ciphertexts in base64.

    Raises:
        SeedError: a ciphertext is not for this key, not of a seed, or two parties bear the same seed (one
            would have copied the other's).
    """
    seeds = []
    for rank, ciphertext in enumerate(ciphertexts):
        try:
            seed = key.decrypt(base64.b64decode(ciphertext, validate=True))
        except (DecryptionError, binascii.Error) as error:
            raise SeedError(f"seed of rank {rank}: {error}") from None
        if len(seed) != SEED_BYTES:
            raise SeedError(f"seed of rank {rank}: expected {SEED_BYTES} bytes, got {len(seed)}")
        seeds.append(seed)
    if len(set(seeds)) != len(seeds):
        raise SeedError("two parties have the same seed")
    return seeds
