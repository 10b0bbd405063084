"""Who is at the other end of the SPU link: certificates of one session, and a proof for each pair of parties.

SPU's link verifies that a certificate leads to its CA file and nothing more: no name is checked, so any
certificate of a shared authority could stand for any party. Therefore the parties' long-lived certificates
are not used there. Each party makes a key and a self-signed certificate for this session alone, and hands the
certificate to each peer over the control channel, where identities are checked. The link trusts exactly those
certificates. Keys live in memory only and end with the process.

With three parties a certificate still admits its owner at another's rank. So each pair also swaps random
nonces over the control channel, derives a key from them (HKDF, RFC 5869), and sends an HMAC (RFC 2104) of
session, names and ranks as the first message over the link.

What this does not stop: a helper that controls the network between the other two and relays their link
through itself. That is an active deviation, which no protocol offered here withstands anyway.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from secure_runner.errors import SecureRunnerError

if TYPE_CHECKING:
    from secure_runner.config import PartySettings
    from secure_runner.party.control import ControlChannel

__all__ = ["LinkIdentity", "LinkIdentityError", "agree_on_link"]

_EXCHANGE_NUMBER = 1
_NONCE_BYTES = 32
_MAX_CERTIFICATE_BYTES = 4096
# Covers clocks that differ; nobody keeps the key, so a long life costs nothing.
_VALID_BEFORE, _VALID_AFTER = timedelta(days=1), timedelta(days=3650)


class LinkIdentityError(SecureRunnerError):
    """What a peer sent for the link, or over it, does not prove that it is the party of that rank."""

    code = "link_identity"


@dataclass(frozen=True)
class LinkIdentity:
    """One party's means to open the SPU link of one session and to know who is on it."""

    session_id: str
    party: str
    ranked_parties: tuple[str, ...]
    pair_keys: Mapping[str, bytes] = field(repr=False)
    """Peer to the key that only it and this party know."""
    certificate_pem: bytes
    """This party's certificate for the session; empty on loopback without TLS."""
    key_pem: bytes = field(repr=False)
    trust_pem: bytes
    """The peers' certificates for the session."""

    def secure(self, description: Any) -> None:
        """Turn mutual TLS on in an ``spu.link.Desc``; leaves it as it is on loopback without TLS.

        The files that SPU wants to read are memory of this process, open until it ends.
        """
        if not self.certificate_pem:
            return
        certificate, key, trust = map(_memory_file, (self.certificate_pem, self.key_pem, self.trust_pem))
        description.enable_ssl = True
        for options in (description.server_ssl_opts, description.client_ssl_opts):
            options.cert.certificate_path = certificate
            options.cert.private_key_path = key
            options.verify.ca_file_path = trust
            # 0 would turn verification off, although there is a CA file.
            options.verify.verify_depth = 1

    def prove(self, link: Any) -> None:
        """Exchange proofs as the first messages on an ``spu.link.Context``.

        Raises:
            LinkIdentityError: the party at a rank is not the one that the control channel knows.
            RuntimeError: SPU's own, when the link fails or times out.
        """
        peers = [(rank, name) for rank, name in enumerate(self.ranked_parties) if name != self.party]
        for rank, name in peers:
            # Not send: a link without message sequence ids has only this one.
            link.send_async(rank, self._proof(name, sender=self.party, receiver=name))
        for rank, name in peers:
            expected = self._proof(name, sender=name, receiver=self.party)
            if not hmac.compare_digest(bytes(link.recv(rank)), expected):
                raise LinkIdentityError(
                    f"the party at rank {rank} of the SPU link did not prove that it is {name}"
                )

    def _proof(self, peer: str, *, sender: str, receiver: str) -> bytes:
        parts = [self.session_id]
        for name in (sender, receiver):
            parts += [str(self.ranked_parties.index(name)), name]
        return hmac.digest(self.pair_keys[peer], "\0".join(parts).encode(), "sha256")


def agree_on_link(channel: ControlChannel, settings: PartySettings, session_id: str) -> LinkIdentity:
    """Swap certificates and nonces for the link with every computing peer, after ``sf.init``.

    Raises:
        ControlError: a peer is not there in time.
        LinkIdentityError: a peer sent something else.
    """
    ranked = settings.cluster.ranked_parties
    peers = [name for name in ranked if name != settings.party]
    with_tls = settings.cluster.tls is not None
    certificate_pem, key_pem = _session_certificate(settings.party) if with_tls else (b"", b"")
    nonces = {peer: secrets.token_bytes(_NONCE_BYTES) for peer in peers}
    received = channel.exchange(
        {peer: [nonces[peer], certificate_pem] for peer in peers}, number=_EXCHANGE_NUMBER
    )
    trusted, keys = [], {}
    for peer in peers:
        nonce, peer_pem = _offer(received[peer], peer, with_tls=with_tls)
        trusted.append(peer_pem)
        by_party = {settings.party: nonces[peer], peer: nonce}
        keys[peer] = _pair_key([by_party[name] for name in ranked if name in by_party], session_id)
    return LinkIdentity(
        session_id=session_id,
        party=settings.party,
        ranked_parties=ranked,
        pair_keys=keys,
        certificate_pem=certificate_pem,
        key_pem=key_pem,
        trust_pem=b"".join(trusted),
    )


def _offer(message: Any, peer: str, *, with_tls: bool) -> tuple[bytes, bytes]:
    """Check a peer's nonce and certificate. The certificate is written anew, so that nothing rides along."""
    problem = LinkIdentityError(
        f"party {peer} sent something other than a nonce and a certificate for the link"
    )
    if type(message) is not list or [type(part) for part in message] != [bytes, bytes]:
        raise problem
    nonce, pem = message
    if len(nonce) != _NONCE_BYTES or len(pem) > _MAX_CERTIFICATE_BYTES or bool(pem) != with_tls:
        raise problem
    if not pem:
        return nonce, pem
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise problem from error
    return nonce, certificate.public_bytes(Encoding.PEM)


def _pair_key(nonces_by_rank: Sequence[bytes], session_id: str) -> bytes:
    derivation = HKDF(
        hashes.SHA256(), length=32, salt=session_id.encode(), info=b"secure-runner link identity"
    )
    return derivation.derive(b"".join(nonces_by_rank))


def _session_certificate(party: str) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID_BEFORE)
        .not_valid_after(now + _VALID_AFTER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(party)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), key_pem


def _memory_file(content: bytes) -> str:
    """Path of an anonymous file that only this process can open and that no disk holds."""
    descriptor = os.memfd_create("secure-runner", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return f"/proc/self/fd/{descriptor}"
