"""SM2 decryption, against an independent encryption and against everything that is not a ciphertext."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.adjusting_party import seal
from secure_runner.dealer import sm2
from secure_runner.dealer.sm2 import DecryptionError, PrivateKey

_KEY = PrivateKey()


def test_decrypts_what_was_sealed() -> None:
    """Seeds come out as they went in, under several keys."""
    for _ in range(5):
        key, seed = PrivateKey(), os.urandom(16)
        assert key.decrypt(base64.b64decode(seal(key.public_pem, seed))) == seed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_agrees_with_openssl(tmp_path: Path) -> None:
    """OpenSSL reads the public key and makes ciphertexts that decrypt."""
    (tmp_path / "key.pem").write_text(_KEY.public_pem)
    command = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", str(tmp_path / "key.pem")]
    sealed = subprocess.run(command, input=b"0123456789abcdef", capture_output=True, check=True).stdout

    assert _KEY.decrypt(sealed) == b"0123456789abcdef"


def test_another_keys_ciphertext_is_refused() -> None:
    """Not decrypted to something else."""
    with pytest.raises(DecryptionError, match="not made with this key"):
        _KEY.decrypt(base64.b64decode(seal(PrivateKey().public_pem, os.urandom(16))))


def test_every_changed_byte_is_noticed() -> None:
    """Malleability would let one party's seed depend on the other's."""
    sealed = bytearray(base64.b64decode(seal(_KEY.public_pem, os.urandom(16))))
    for at in range(0, len(sealed), 3):
        changed = sealed.copy()
        changed[at] ^= 0x01
        with pytest.raises(DecryptionError):
            _KEY.decrypt(bytes(changed))


def test_points_off_the_curve_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the tag fits: multiplying such a point would tell parts of the key (invalid curves)."""
    # The blinding would spoil the attack too; without it, the check alone has to stop it.
    monkeypatch.setattr(sm2, "_BLINDING_BITS", 0)
    seed, point = os.urandom(16), (5, 7)
    x, y = (part.to_bytes(32, "big") for part in sm2._multiply(_KEY._d, point))
    mask = hashlib.new("sm3", x + y + (1).to_bytes(4, "big")).digest()
    tag = hashlib.new("sm3", x + seed + y).digest()
    masked = bytes(a ^ b for a, b in zip(seed, mask, strict=False))
    content = b"\x02\x01\x05\x02\x01\x07\x04\x20" + tag + b"\x04\x10" + masked

    with pytest.raises(DecryptionError, match="not on the curve"):
        _KEY.decrypt(b"\x30" + bytes([len(content)]) + content)


@given(data=st.binary(max_size=160))
def test_other_bytes_are_refused(data: bytes) -> None:
    """With the one error that callers handle."""
    with pytest.raises(DecryptionError):
        _KEY.decrypt(data)


def test_the_private_key_is_in_no_text() -> None:
    """Neither in the representation nor in the public half."""
    secret = str(_KEY._d)
    assert secret not in repr(_KEY)
    assert secret not in str(vars(_KEY)["_public"])
