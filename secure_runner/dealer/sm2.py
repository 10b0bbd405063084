"""Public-key encryption on the SM2 curve, as SPU's parties encrypt their seeds with it.

Standard: GB/T 32918.4 (SM2 public key encryption), curve parameters of GB/T 32918.5, with SM3 as hash. The
ciphertext is OpenSSL's DER: ``SEQUENCE {INTEGER x, INTEGER y, OCTET STRING hash, OCTET STRING cipher}``.
``cryptography`` has no SM2, and SPU accepts nothing else, so the few lines of curve arithmetic are here.

Python's integers are not constant-time. Each key serves one job and few decryptions, and each multiplication
is blinded: a random multiple of the group's order is added to the key and the start point has random
projective coordinates, so that running times do not depend on the key alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

__all__ = ["DecryptionError", "PrivateKey"]

_P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
_A = _P - 3
_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
_N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
_COORDINATE_BYTES = 32
_HASH_BYTES = 32
_BLINDING_BITS = 64

# SubjectPublicKeyInfo up to the key's bits: id-ecPublicKey, sm2p256v1, BIT STRING of an uncompressed point.
_SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
_DER_SEQUENCE, _DER_INTEGER, _DER_OCTETS = 0x30, 0x02, 0x04

_Point = tuple[int, int]
_Jacobian = tuple[int, int, int]


class DecryptionError(Exception):
    """Bytes that are not a ciphertext under this key."""


class PrivateKey:
    """An SM2 key pair. The private number stays in this object and is in no representation of it."""

    def __init__(self) -> None:
        self._d = 1 + secrets.randbelow(_N - 2)
        self._public = _multiply(self._d, _G)

    @property
    def public_pem(self) -> str:
        """The public key as PEM (SubjectPublicKeyInfo), the form that SPU's configuration takes."""
        x, y = (coordinate.to_bytes(_COORDINATE_BYTES, "big") for coordinate in self._public)
        text = base64.encodebytes(_SPKI_PREFIX + b"\x04" + x + y).decode()
        body = text.replace("\n", "")
        lines = [body[start : start + 64] for start in range(0, len(body), 64)]
        return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext.

        Raises:
            DecryptionError: not a ciphertext, or not one made with this key's public half.
        """
        point, digest, masked = _parse(ciphertext)
        if not _is_on_curve(point):
            raise DecryptionError("the ciphertext's point is not on the curve")
        x, y = (coordinate.to_bytes(_COORDINATE_BYTES, "big") for coordinate in _multiply(self._d, point))
        plaintext = bytes(a ^ b for a, b in zip(masked, _derive(x + y, len(masked)), strict=True))
        if not hmac.compare_digest(_sm3(x + plaintext + y), digest):
            raise DecryptionError("the ciphertext was not made with this key")
        return plaintext


def _sm3(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


def _derive(secret: bytes, length: int) -> bytes:
    """The standard's key derivation: SM3 over the secret and a counter from 1."""
    blocks = -(-length // _HASH_BYTES)
    return b"".join(_sm3(secret + index.to_bytes(4, "big")) for index in range(1, blocks + 1))[:length]


def _parse(ciphertext: bytes) -> tuple[_Point, bytes, bytes]:
    sequence, rest = _der_element(ciphertext, _DER_SEQUENCE)
    x, sequence = _der_element(sequence, _DER_INTEGER)
    y, sequence = _der_element(sequence, _DER_INTEGER)
    digest, sequence = _der_element(sequence, _DER_OCTETS)
    masked, sequence = _der_element(sequence, _DER_OCTETS)
    if rest or sequence or len(digest) != _HASH_BYTES or not masked:
        raise DecryptionError("the ciphertext is not the expected DER structure")
    return (int.from_bytes(x, "big"), int.from_bytes(y, "big")), digest, masked


def _der_element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the first element, which must have the tag, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise DecryptionError("the ciphertext is not the expected DER structure")
    length, start = data[1], 2
    if length == 0x81 and len(data) > 2:
        length, start = data[2], 3
    elif length > 0x7F:
        raise DecryptionError("the ciphertext is longer than a seed's")
    if len(data) < start + length:
        raise DecryptionError("the ciphertext is truncated")
    return data[start : start + length], data[start + length :]


def _is_on_curve(point: _Point) -> bool:
    x, y = point
    return x < _P and y < _P and (y * y - (x * x * x + _A * x + _B)) % _P == 0


def _multiply(scalar: int, point: _Point) -> _Point:
    """``scalar * point`` by a blinded Montgomery ladder; the curve's order is prime, so never infinity."""
    blinded = scalar + secrets.randbits(_BLINDING_BITS) * _N
    z = 1 + secrets.randbelow(_P - 1)
    start = (point[0] * z * z % _P, point[1] * z * z * z % _P, z)
    low, high = start, _double(start)
    for position in range(blinded.bit_length() - 2, -1, -1):
        if blinded >> position & 1:
            low, high = _add(low, high), _double(high)
        else:
            low, high = _double(low), _add(low, high)
    inverse = pow(low[2], -1, _P)
    return low[0] * inverse * inverse % _P, low[1] * inverse * inverse * inverse % _P


def _double(point: _Jacobian) -> _Jacobian:
    """Jacobian doubling for a = -3."""
    x, y, z = point
    delta, gamma = z * z % _P, y * y % _P
    beta = x * gamma % _P
    alpha = 3 * (x - delta) * (x + delta) % _P
    new_x = (alpha * alpha - 8 * beta) % _P
    return new_x, (alpha * (4 * beta - new_x) - 8 * gamma * gamma) % _P, ((y + z) ** 2 - gamma - delta) % _P


def _add(p: _Jacobian, q: _Jacobian) -> _Jacobian:
    """Jacobian addition of two points that differ and are not infinity."""
    x1, y1, z1 = p
    x2, y2, z2 = q
    z1z1, z2z2 = z1 * z1 % _P, z2 * z2 % _P
    u1, u2 = x1 * z2z2 % _P, x2 * z1z1 % _P
    s1, s2 = y1 * z2 * z2z2 % _P, y2 * z1 * z1z1 % _P
    h, r = (u2 - u1) % _P, (s2 - s1) % _P
    hh = h * h % _P
    hhh, v = h * hh % _P, u1 * hh % _P
    x3 = (r * r - hhh - 2 * v) % _P
    return x3, (r * (v - x3) - s1 * hhh) % _P, z1 * z2 * h % _P
