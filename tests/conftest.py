"""Fixtures for tests of every kind."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from secure_runner.config import Cluster, PartySettings, embedded_cluster


@dataclass
class TlsCluster:
    """A cluster on loopback with real certificates: one authority, one certificate a party."""

    directory: Path
    cluster: Cluster
    authority: trustme.CA
    settings: dict[str, PartySettings] = field(default_factory=dict)

    def issue(self, name: str, *identities: str, authority: trustme.CA | None = None) -> tuple[Path, Path]:
        """Write ``name.pem`` and ``name.key`` for these alternative names (by default the name)."""
        issued = (authority or self.authority).issue_cert(*(identities or (name,)))
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return certificate, key

    def settings_with(self, party: str, certificate: str, **changes: Any) -> PartySettings:
        """Settings of a party that shows the certificate of that file name."""
        return PartySettings.model_validate(
            {
                **self.settings[party].model_dump(),
                "cluster": self.cluster,
                "tls_certificate_file": self.directory / f"{certificate}.pem",
                "tls_key_file": self.directory / f"{certificate}.key",
                **changes,
            }
        )


@pytest.fixture
def tls_cluster(tmp_path: Path) -> Callable[..., TlsCluster]:
    """Makes clusters on free loopback ports with mutual TLS."""

    def make(protocol: str = "aby3", *, pinned: bool = False, **changes: Any) -> TlsCluster:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        plain = embedded_cluster(protocol).model_dump() | {"embedded": False, "tls": {"ca_file": "ca.pem"}}
        if pinned:
            plain["tls"] = {}
            for name, party in plain["parties"].items():
                party["certificate_file"] = f"{name}.pem"
        made = TlsCluster(tmp_path, Cluster.model_validate(plain | changes), authority)
        for name in made.cluster.parties:
            certificate, key = made.issue(name)
            made.settings[name] = PartySettings(
                cluster=made.cluster,
                cluster_directory=tmp_path,
                party=name,
                tls_certificate_file=certificate,
                tls_key_file=key,
                dealer_key=base64.b64encode(bytes(32)).decode() if made.cluster.dealer else None,
            )
        return made

    return make
