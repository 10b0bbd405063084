"""The dealer's identity: an Ed25519 key that every party pins, and the grants signed with it.

A grant hands a job's own encryption key to a party. The signature covers everything the parties agreed on, so
neither a counterparty nor whoever sits on the network can put another key, job or transcript in its place.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict

from secure_runner.dealer.registration import Registration
from secure_runner.errors import AgreementError, ConfigError

__all__ = ["Grant", "Identity", "check_public_key"]

_CONTEXT = b"secure-runner dealer grant 1\0"
_PUBLIC_KEY_BYTES = 32


class Grant(BaseModel):
    """The dealer's answer to a registration once all parties have registered the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    parties: tuple[str, ...]
    adjust_rank: int
    transcript_sha256: str
    handle: str
    """Where the job is looked after: ``/jobs/{handle}``."""
    public_key: str
    """PEM of the job's SM2 key, for SPU."""
    signature: str
    """Base64, over everything above."""

    def verify(self, identity: str, registration: Registration) -> None:
        """Check that the dealer of the pinned identity granted exactly what this party registered.

        Raises:
            AgreementError: it did not. Nothing must be encrypted to ``public_key`` then.
        """
        granted = (self.job, self.parties, self.adjust_rank, self.transcript_sha256)
        if granted != registration.agreed:
            raise AgreementError("the dealer granted another job, parties or transcript than were registered")
        try:
            key = Ed25519PublicKey.from_public_bytes(check_public_key(identity))
            key.verify(base64.b64decode(self.signature, validate=True), self._signed_bytes())
        except (InvalidSignature, binascii.Error):
            raise AgreementError(
                "the dealer's grant is not signed with the identity key that this party's configuration pins"
            ) from None

    def _signed_bytes(self) -> bytes:
        content = self.model_dump(exclude={"signature"})
        return _CONTEXT + orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


class Identity:
    """The dealer's private half."""

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self._key = Ed25519PrivateKey.generate() if key is None else key

    @classmethod
    def from_file(cls, path: Path) -> Identity:
        """Read the private key from a PEM file.

        Raises:
            ConfigError: there is none, or of another kind.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"the dealer's identity key {path} cannot be read: {type(error).__name__}"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                f"the dealer's identity key {path} is not Ed25519; make one with openssl genpkey"
            )
        return cls(key)

    @property
    def public_key(self) -> str:
        """What parties pin: base64 of the 32 bytes."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    @property
    def private_pem(self) -> bytes:
        """The private key for a file that only the dealer can read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def grant(self, registration: Registration, handle: str, public_key: str) -> Grant:
        """A signed grant of what the parties registered."""
        job, parties, adjust_rank, transcript = registration.agreed
        unsigned = Grant(
            job=job,
            parties=parties,
            adjust_rank=adjust_rank,
            transcript_sha256=transcript,
            handle=handle,
            public_key=public_key,
            signature="",
        )
        signature = base64.b64encode(self._key.sign(unsigned._signed_bytes())).decode()
        return unsigned.model_copy(update={"signature": signature})


def check_public_key(text: str) -> bytes:
    """The bytes of a pinned identity key.

    Raises:
        ConfigError: it is not base64 of 32 bytes.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _PUBLIC_KEY_BYTES:
        raise ConfigError(f"the dealer's identity key must be base64 of {_PUBLIC_KEY_BYTES} bytes")
    return key
