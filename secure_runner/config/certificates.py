"""Makes certificates and keys: a development authority, party certificates, self-signed ones for pinning.

A deployment between companies would rather use their own authority; what matters is only that a party's
certificate bears the party's name as a DNS name (:mod:`secure_runner.config.tls`).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secure_runner.errors import ConfigError

__all__ = ["CertificateFiles", "authority_files", "create_authority", "issue", "party_files", "self_sign"]

_CLOCK_ALLOWANCE = timedelta(hours=1)
_KEY_MODE = 0o600


@dataclass(frozen=True)
class CertificateFiles:
    """Where a certificate and its key are."""

    certificate: Path
    key: Path


def authority_files(directory: Path) -> CertificateFiles:
    """Files of the development authority: ``ca.pem``, for every party, and ``ca.key``, for none."""
    return CertificateFiles(directory / "ca.pem", directory / "ca.key")


def party_files(directory: Path, party: str) -> CertificateFiles:
    """Files of a party: ``PARTY.pem`` and ``PARTY.key``."""
    return CertificateFiles(directory / f"{party}.pem", directory / f"{party}.key")


def create_authority(directory: Path, name: str, valid_days: int) -> CertificateFiles:
    """Make an authority that signs the certificates of a deployment's parties and nothing else.

    Raises:
        ConfigError: its files exist already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"{name} development authority")
    builder = (
        _builder(key, subject, subject, valid_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    files = authority_files(directory)
    _write(files, builder.sign(key, hashes.SHA256()), key, replace=False)
    return files


def issue(
    directory: Path, party: str, hosts: Sequence[str], valid_days: int, *, replace: bool = False
) -> CertificateFiles:
    """Make a party's key and a certificate signed by the directory's authority.

    Args:
        directory: where the authority's files are and the party's are written.
        party: the party's name.
        hosts: host names and addresses that the certificate shall hold beside it.
        valid_days: how long it is valid.
        replace: take the place of present files, for renewal; otherwise they are an error.

    Raises:
        ConfigError: the authority's files cannot be read, or the party's exist already.
    """
    authority, authority_key = _read_authority(authority_files(directory))
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _party_builder(key, party, hosts, authority.subject, valid_days).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    files = party_files(directory, party)
    _write(files, builder.sign(authority_key, hashes.SHA256()), key, replace=replace)
    return files


def self_sign(
    directory: Path, party: str, hosts: Sequence[str], valid_days: int, *, replace: bool = False
) -> CertificateFiles:
    """Make a party's key and a certificate signed by that key, for the others to pin. Arguments as ``issue``.

    Raises:
        ConfigError: the files exist already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _party_builder(key, party, hosts, _subject(party), valid_days)
    files = party_files(directory, party)
    _write(files, builder.sign(key, hashes.SHA256()), key, replace=replace)
    return files


def _party_builder(
    key: ec.EllipticCurvePrivateKey, party: str, hosts: Sequence[str], issuer: x509.Name, valid_days: int
) -> x509.CertificateBuilder:
    names = [_general_name(name) for name in dict.fromkeys((party, *hosts))]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(key, _subject(party), issuer, valid_days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    )


def _builder(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, valid_days: int
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_ALLOWANCE)
        .not_valid_after(now + timedelta(days=valid_days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_authority(files: CertificateFiles) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = load_pem_private_key(files.key.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"the authority's {error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{files.certificate} and {files.key} are no PEM certificate and plain key"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{files.key} is no elliptic-curve key, as this command makes them")
    return certificate, key


def _write(
    files: CertificateFiles, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, replace: bool
) -> None:
    """Write both or neither; the key readable by its owner alone from the first moment."""
    present = [str(path) for path in (files.certificate, files.key) if path.exists()]
    if present and not replace:
        raise ConfigError(
            f"{' and '.join(present)} exist already and are not overwritten; renew replaces them"
        )
    files.key.parent.mkdir(parents=True, exist_ok=True)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # A reader between the two moves sees a key that does not fit, and keeps what it has read before.
    _replace(files.key, key_pem, _KEY_MODE)
    _replace(files.certificate, certificate.public_bytes(Encoding.PEM), 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    beside.replace(path)
