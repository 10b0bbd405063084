"""Checks of this party's own set-up; nothing leaves the machine."""

from __future__ import annotations

import errno
import socket
import ssl
import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from cryptography import x509

from secure_runner.config import SLOTS, Address, PartySettings
from secure_runner.config.tls import read_tls
from secure_runner.doctor.findings import Finding, fault, good, note
from secure_runner.errors import ConfigError
from secure_runner.sessions.messages import Hello

__all__ = ["check_certificate", "check_ports", "check_settings", "check_versions"]

_EXPIRES_SOON_DAYS = 14
_PROBE_TIMEOUT_S = 2.0


def check_settings(environment: Mapping[str, str]) -> tuple[PartySettings | None, list[Finding]]:
    """Read the cluster file and the environment; no settings if they are wrong or there is no cluster."""
    try:
        settings = PartySettings.from_environment(environment)
    except ConfigError as error:
        return None, [fault("configuration", str(error), "correct the setting named above")]
    if settings is None:
        text = "SECURE_RUNNER_CLUSTER is not set: the runner starts all parties on this machine"
        return None, [note("configuration", text, "set it, and SECURE_RUNNER_PARTY, to join a cluster")]
    cluster = settings.cluster
    text = (
        f"{settings.party} is {settings.role} of {cluster.name} ({cluster.protocol}), digest {cluster.digest}"
    )
    return settings, [good("configuration", text)]


def check_certificate(settings: PartySettings) -> list[Finding]:
    """Read this party's certificate, key and trust files, and look at their dates and modes."""
    try:
        material = read_tls(settings)
    except ConfigError as error:
        return [fault("own certificate", str(error), "see secure-runner certs --help")]
    if material is None:
        return [note("own certificate", "the cluster uses no TLS: it is for trials on loopback only")]
    findings = []
    certificate = x509.load_pem_x509_certificates(material.certificate_pem)[0]
    days = (certificate.not_valid_after_utc - datetime.now(timezone.utc)).days
    if days < _EXPIRES_SOON_DAYS:
        text = f"{material.certificate_file} expires in {days} days"
        findings.append(note("own certificate", text, "replace it; no restart is needed"))
    else:
        findings.append(good("own certificate", f"{material.certificate_file} is valid for {days} more days"))
    if material.key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{material.key_file} can be read by others than its owner"
        findings.append(note("own key", text, "chmod 600, unless a secret store mounts it so"))
    return findings


def check_versions(hello: Hello) -> list[Finding]:
    """The packages that all parties must have in the same version."""
    text = ", ".join(f"{name} {version}" for name, version in hello.versions.items())
    if "not installed" in hello.versions.values():
        return [fault("own versions", text, "install the packages of the Bento's lock file")]
    return [good("own versions", text)]


def check_ports(settings: PartySettings) -> list[Finding]:
    """Whether this party can listen where the cluster says, or already does."""
    taken, serving = [], False
    for address, speaks_for_us in _listening_addresses(settings):
        problem = _bind_problem(address)
        if problem is None or (speaks_for_us and serving):
            continue
        if problem == "in use" and _is_ours(settings, address):
            serving = True
        elif not serving:
            taken.append((address, problem))
    if serving:
        return [note("own ports", "this party's runner is running; its ports are in use by it")]
    if not taken:
        return [good("own ports", "free, for the runner to listen on")]
    address, problem = taken[0]
    remedy = "end the program that uses it, or choose another port or listen_host in the cluster file"
    return [fault("own ports", f"cannot listen on {address}: {problem}", remedy)]


def _listening_addresses(settings: PartySettings) -> Iterator[tuple[Address, bool]]:
    """Where this party listens, and whether the socket's certificate is only of a session."""
    cluster, party = settings.cluster, settings.party
    if settings.role == "dealer":
        yield cluster.dealing(listen=True), False
        return
    if settings.role == "model_owner":
        yield cluster.coordination(party, listen=True), False
    for lane in range(cluster.lanes):
        for slot in range(SLOTS):
            addresses = cluster.addresses(party, lane, slot, listen=True)
            yield addresses.control, False
            yield addresses.link, True


def _bind_problem(address: Address) -> str | None:
    try:
        (family, kind, _, _, target), *_ = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except socket.gaierror:
        return "the host name cannot be resolved"
    except OSError as error:
        return "in use" if error.errno == errno.EADDRINUSE else str(error.strerror).lower()
    return None


def _is_ours(settings: PartySettings, address: Address) -> bool:
    """Whether what listens there shows this party's own certificate."""
    if settings.tls_certificate_file is None:
        return False
    own = x509.load_pem_x509_certificates(settings.tls_certificate_file.read_bytes())[0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Only compared with our own, byte for byte; nothing is sent.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(address.from_here, _PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain) as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
    except OSError:
        return False
    return shown is not None and x509.load_der_x509_certificate(shown) == own
