"""SPU's side of a dealer: the part of the runtime configuration that names it."""

from __future__ import annotations

from typing import Any

from secure_runner.dealer.config import TlsFiles
from secure_runner.errors import ConfigError

__all__ = ["beaver_config"]

_VERIFY_DEPTH = 2
"""Longest chain of certificates. Never 0: with that, SPU's client checks nothing, even with a CA file."""


def beaver_config(
    address: str, adjust_rank: int, public_key: str, *, tls: TlsFiles | None = None
) -> dict[str, Any]:
    """``ttp_beaver_config`` of SPU's ``RuntimeConfig``; the same at all parties but for ``tls``.

    Args:
        address: ``host:port`` of the dealer.
        adjust_rank: the rank that asks for corrections, as registered.
        public_key: PEM of the job's key, from a verified grant.
        tls: the party's own files; None only where the dealer has no TLS.

    Raises:
        ConfigError: the address is not ``host:port``, or the key is not PEM (SPU would end the process).
    """
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdecimal()):
        raise ConfigError(f"the dealer's address must be host:port, got {address!r}")
    if not public_key.startswith("-----BEGIN PUBLIC KEY-----"):
        raise ConfigError("the job's key must be a PEM public key, as the dealer's grant has it")
    config: dict[str, Any] = {
        "server_host": address,
        "adjust_rank": adjust_rank,
        "asym_crypto_schema": "sm2",
        "server_public_key": public_key,
        "transport_protocol": "http",
    }
    if tls is not None:
        config["ssl_config"] = {
            "certificate": str(tls.certificate_file),
            "private_key": str(tls.key_file),
            "ca_file_path": str(tls.ca_file),
            "verify_depth": _VERIFY_DEPTH,
        }
    return config
