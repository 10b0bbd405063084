"""Who is on the other end of a connection, as far as TLS proves it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

__all__ = ["Peer"]


@dataclass(frozen=True)
class Peer:
    """The other end of a connection."""

    address: str
    """Its IP address."""
    names: frozenset[str] | None
    """DNS names in its verified certificate, of which its party name is one; None without TLS."""

    @classmethod
    def of(cls, address: Any, tls: ssl.SSLObject | None) -> Peer:
        """From a transport's ``peername`` and ``ssl_object``."""
        host = str(address[0]) if isinstance(address, tuple) else str(address)
        if tls is None:
            return cls(host, None)
        certificate: Any = tls.getpeercert() or {}
        names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
        return cls(host, frozenset(names))

    def may_be(self, party: str) -> bool:
        """Whether the peer may speak for the party. Without TLS (loopback only) anyone may."""
        return self.names is None or party in self.names

    @property
    def client(self) -> str:
        """What limits are counted by."""
        return self.address if self.names is None else "/".join(sorted(self.names))
