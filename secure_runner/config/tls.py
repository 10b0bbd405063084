"""TLS material of a party, and the check that a certificate belongs to the party it claims to be.

The only place that reads certificates and keys. A certificate authority says merely that a certificate is one
of its own; between the parties it also matters *whose*. So a certificate counts as a party's when its subject
alternative names hold that party's name and no other party's, and, where the cluster pins certificates, when
it is one of the pinned ones, byte for byte.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from secure_runner.config.party import VARIABLES, PartySettings
from secure_runner.errors import ConfigError

__all__ = [
    "IdentityError",
    "TlsMaterial",
    "check_identity",
    "client_context",
    "read_tls",
    "refreshing_server_context",
    "server_context",
]

_log = logging.getLogger(__name__)


class IdentityError(ConfigError):
    """A peer's certificate is not that of the party it should be."""

    code = "identity"


@dataclass(frozen=True)
class TlsMaterial:
    """What one party needs to talk TLS to the others, read once."""

    party: str
    parties: tuple[str, ...]
    """Names of all parties of the cluster."""
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    trust_pem: Mapping[str, bytes]
    """Party to the PEM certificates that its own must be signed by or, if pinned, be one of.

    This party's own is in it too, as nothing but its present certificate: its doctor may ask its runner.
    """
    pinned: bool
    """Whether ``trust_pem`` holds the peers' own certificates rather than an authority's."""
    certificate_file: Path
    key_file: Path = field(repr=False)


def read_tls(settings: PartySettings) -> TlsMaterial | None:
    """Read and check this party's certificate, key and trust files; None where the cluster uses no TLS.

    Files are read afresh at each call, so certificates can be replaced while the cluster runs.

    Raises:
        ConfigError: a file is missing, malformed or expired, or the certificate is not this party's.
    """
    if settings.cluster.tls is None:
        return None
    assert settings.tls_certificate_file is not None
    assert settings.tls_key_file is not None
    certificate_pem = _read(settings.tls_certificate_file, VARIABLES["tls_certificate_file"])
    key_pem = _read(settings.tls_key_file, VARIABLES["tls_key_file"])
    material = TlsMaterial(
        party=settings.party,
        parties=tuple(settings.cluster.parties),
        certificate_pem=certificate_pem,
        key_pem=key_pem,
        trust_pem={
            peer: _read(settings.trust_file(peer), f"the trust file of {peer}") for peer in settings.peers
        }
        | {settings.party: certificate_pem},
        pinned=settings.own.certificate_file is not None,
        certificate_file=settings.tls_certificate_file,
        key_file=settings.tls_key_file,
    )
    _check_own(material)
    for peer in settings.peers:
        _certificates(material.trust_pem[peer], str(settings.trust_file(peer)))
    return material


def check_identity(material: TlsMaterial, certificate_der: bytes, expected: str) -> None:
    """Check that a certificate, whose signature TLS has verified, is the expected party's.

    Raises:
        IdentityError: it is not; names both parties.
    """
    certificate = x509.load_der_x509_certificate(certificate_der)
    _check_name(certificate, material.parties, expected, "the peer's certificate")
    if material.pinned or expected == material.party:
        pins = _certificates(material.trust_pem[expected], f"the pinned certificates of {expected}")
        if certificate not in pins:
            raise IdentityError(
                f"the peer's certificate bears the name {expected} but is none of those pinned for it; "
                f"if {expected} has replaced its certificate, add the new one to its certificate_file"
            )


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """Context of a listening socket: demands a certificate that one of the peers' trust files covers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    _fill(context, material, b"\n".join(material.trust_pem.values()))
    return context


def refreshing_server_context(settings: PartySettings) -> ssl.SSLContext:
    """A server context that takes up replaced certificates, without a restart.

    Files are looked at when a client greets. Trust is only ever added: an authority that should no longer be
    trusted ends with the process, while a certificate's party is checked against the present files each time.

    Raises:
        ConfigError: this party's certificate, key or trust is wrong at the start.
    """
    present = _read_known(settings)
    context = server_context(present)

    def refresh(_socket: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal present
        try:
            latest = _read_known(settings)
            if latest != present:
                _fill(context, latest, b"\n".join(latest.trust_pem.values()))
                present = latest
        except ConfigError as error:
            _log.warning("certificates on disk are not usable, the earlier ones stay in use: %s", error)

    context.sni_callback = refresh
    return context


def client_context(material: TlsMaterial, peer: str) -> ssl.SSLContext:
    """Context of a connection to one peer. Pass the peer's name as ``server_hostname``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _fill(context, material, material.trust_pem[peer])
    return context


def _read_known(settings: PartySettings) -> TlsMaterial:
    material = read_tls(settings)
    assert material is not None, "called where the cluster uses TLS"
    return material


def _fill(context: ssl.SSLContext, material: TlsMaterial, trust_pem: bytes) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A pinned certificate is trusted itself, whoever has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=trust_pem.decode("ascii"))
    try:
        context.load_cert_chain(material.certificate_file, material.key_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"certificate {material.certificate_file} and its key do not load: {error.reason}"
        ) from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be read: {error.strerror}") from error


def _certificates(pem: bytes, source: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"{source} holds no PEM certificate") from error


def _check_own(material: TlsMaterial) -> None:
    source = str(material.certificate_file)
    certificate = _certificates(material.certificate_pem, source)[0]
    _check_name(certificate, material.parties, material.party, f"certificate {source}")
    now = datetime.now(timezone.utc)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigError(
            f"certificate {source} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}; "
            f"replace it, or set this machine's clock"
        )
    try:
        key = load_pem_private_key(material.key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{VARIABLES['tls_key_file']}: no unencrypted PEM private key in the file"
        ) from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise ConfigError(f"the key of {VARIABLES['tls_key_file']} does not belong to certificate {source}")


def _check_name(
    certificate: x509.Certificate, parties: tuple[str, ...], expected: str, description: str
) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [name for name in parties if name in names.get_values_for_type(x509.DNSName)]
    except (x509.ExtensionNotFound, ValueError):
        found = []
    if found != [expected]:
        raise IdentityError(
            f"{description} must bear the DNS name {expected!r} and no other party's among its subject "
            f"alternative names; it bears {', '.join(map(repr, found)) or 'no party name'}"
        )
