"""``secure-runner certs``: certificates of a deployment's parties."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from secure_runner.config import Cluster, read_cluster
from secure_runner.config.certificates import (
    CertificateFiles,
    authority_files,
    create_authority,
    issue,
    party_files,
    self_sign,
)
from secure_runner.errors import ConfigError

__all__ = ["certs"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_AUTHORITY_DAYS = 3650
_EXAMPLES = """
\b
Examples:
  secure-runner certs create --cluster cluster.yaml --directory certs
  secure-runner certs renew bank --cluster cluster.yaml --directory certs
  secure-runner certs self-signed bank --host bank.example.com --directory certs
  secure-runner certs show certs/bank.pem
"""

_cluster = click.option("--cluster", "cluster_file", type=_FILE, required=True, help="The cluster file.")
_directory = click.option(
    "--directory", type=_DIRECTORY, default=Path("certs"), show_default=True, help="Where the files are."
)
_days = click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long they are valid."
)


@click.group(epilog=_EXAMPLES)
def certs() -> None:
    """Make certificates for mutual TLS between the parties.

    A party's certificate bears the party's name of the cluster file. Certificates can be replaced at any time
    without touching that file: the next connection uses what is then on disk.
    """


@certs.command()
@_cluster
@_directory
@_days
def create(cluster_file: Path, directory: Path, days: int) -> None:
    """Make a development authority and a certificate for each party that has none yet.

    Hand each party its own .pem and .key and the authority's ca.pem. Nobody needs ca.key but you, to renew.
    """
    cluster = read_cluster(cluster_file).cluster
    made = []
    if not authority_files(directory).certificate.exists():
        made.append(create_authority(directory, cluster.name, _AUTHORITY_DAYS))
    for name in cluster.parties:
        files = party_files(directory, name)
        if not files.certificate.exists() and not files.key.exists():
            made.append(issue(directory, name, _hosts(cluster, name), days))
    if not made:
        raise ConfigError(f"{directory} holds certificates of all parties already; renew replaces one")
    _report(made)


@certs.command()
@click.argument("party")
@_cluster
@_directory
@_days
def renew(party: str, cluster_file: Path, directory: Path, days: int) -> None:
    """Replace PARTY's certificate and key by new ones of the same authority."""
    cluster = read_cluster(cluster_file).cluster
    _report([issue(directory, party, _hosts(cluster, party), days, replace=True)])


@certs.command("self-signed")
@click.argument("party")
@click.option("--host", "hosts", multiple=True, help="Host name or address; can be given several times.")
@_directory
@_days
@click.option("--replace", is_flag=True, help="Replace present files.")
def self_signed(party: str, hosts: Sequence[str], directory: Path, days: int, replace: bool) -> None:
    """Make a certificate for PARTY without any authority, for the other parties to pin.

    Send the .pem to the others, by a way that cannot be tampered with; the .key stays here. Each party names
    the others' files in the cluster file, as certificate_file.
    """
    _report([self_sign(directory, party, hosts, days, replace=replace)])


@certs.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
def show(files: Sequence[Path]) -> None:
    """Print names, validity and fingerprint of the certificates in FILES."""
    for path in files:
        for certificate in _read(path):
            click.echo(f"{path}: {_describe(certificate)}")


def _hosts(cluster: Cluster, party: str) -> list[str]:
    if party not in cluster.parties:
        raise ConfigError(f"{party!r} is no party of {cluster.name}; they are {', '.join(cluster.parties)}")
    host = cluster.parties[party].address
    if host != party and host in cluster.parties:
        raise ConfigError(f"the address of {party} is the name of another party, {host}; rename that party")
    return [host]


def _report(made: Sequence[CertificateFiles]) -> None:
    for files in made:
        for certificate in _read(files.certificate):
            click.echo(f"{files.certificate} and {files.key.name}: {_describe(certificate)}")


def _read(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} holds no PEM certificate") from error


def _describe(certificate: x509.Certificate) -> str:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = ", ".join(str(name.value) for name in extension.value)
    except x509.ExtensionNotFound:
        names = certificate.subject.rfc4514_string()
    left = certificate.not_valid_after_utc - datetime.now(timezone.utc)
    validity = f"{left.days} days left" if left.days >= 0 else "expired"
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return f"{names}; until {certificate.not_valid_after_utc:%Y-%m-%d} ({validity}); sha256 {fingerprint}"
