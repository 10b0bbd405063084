"""TLS of the control channel in gRPC's terms."""

from __future__ import annotations

import ssl

import grpc

from secure_runner.config.tls import IdentityError, TlsMaterial, check_identity

__all__ = ["check_sender", "client_credentials", "server_credentials"]


def check_sender(material: TlsMaterial | None, context: grpc.ServicerContext, source: str) -> None:
    """Check that the connection's certificate is that of the message's sender. On loopback there is none.

    Raises:
        IdentityError: it is another party's, or there is none although there should be.
    """
    if material is None:
        return
    certificates = context.auth_context().get("x509_pem_cert", [])
    if not certificates:
        raise IdentityError("the connection has no certificate")
    check_identity(material, ssl.PEM_cert_to_DER_cert(certificates[0].decode("ascii")), source)


def server_credentials(material: TlsMaterial) -> grpc.ServerCredentials:
    """Credentials of the listening side, which demands a certificate of every peer."""
    return grpc.ssl_server_credentials(
        [(material.key_pem, material.certificate_pem)],
        root_certificates=b"\n".join(material.trust_pem.values()),
        require_client_auth=True,
    )


def client_credentials(material: TlsMaterial, peer: str) -> grpc.ChannelCredentials:
    """Credentials of the connecting side. The channel must expect the peer's name instead of its address."""
    return grpc.ssl_channel_credentials(
        root_certificates=material.trust_pem[peer],
        private_key=material.key_pem,
        certificate_chain=material.certificate_pem,
    )
