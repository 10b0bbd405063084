"""The dealer's configuration refuses what would be unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from secure_runner.dealer import DealerConfig, Identity, TlsFiles, beaver_config
from secure_runner.errors import ConfigError

_TLS = TlsFiles(certificate_file=Path("c.pem"), key_file=Path("k.pem"), ca_file=Path("a.pem"))


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::"])
def test_without_tls_only_loopback(host: str) -> None:
    """Any other address needs certificates."""
    with pytest.raises(ValidationError, match="tls: missing"):
        DealerConfig(host=host)
    assert DealerConfig(host=host, tls=_TLS).tls == _TLS


def test_host_is_an_address() -> None:
    """A name could resolve to anything."""
    with pytest.raises(ValidationError, match="expected an IP address"):
        DealerConfig(host="localhost")


def test_key_paths_are_not_shown() -> None:
    """Neither the TLS key's nor the identity's."""
    assert "k.pem" not in repr(DealerConfig(tls=_TLS, identity_key_file=Path("identity.pem")))
    assert "identity.pem" not in repr(DealerConfig(identity_key_file=Path("identity.pem")))


def test_missing_files_are_named() -> None:
    """The message says which files, and holds nothing of them."""
    with pytest.raises(ConfigError, match=r"c\.pem"):
        _TLS.server_context()
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        Identity.from_file(Path("nowhere.pem"))


def test_identity_survives_a_file(tmp_path: Path) -> None:
    """The key that parties pin is the same after a restart."""
    identity, path = Identity(), tmp_path / "identity.pem"
    path.write_bytes(identity.private_pem)

    assert Identity.from_file(path).public_key == identity.public_key


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:port"])
def test_addresses_have_a_port(address: str) -> None:
    """SPU would end the process over it."""
    with pytest.raises(ConfigError, match="host:port"):
        beaver_config(address, 0, "-----BEGIN PUBLIC KEY-----\n")


def test_keys_are_pem() -> None:
    """The same here."""
    with pytest.raises(ConfigError, match="PEM"):
        beaver_config("127.0.0.1:1", 0, "MFkw")
