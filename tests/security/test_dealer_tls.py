"""Mutual TLS at the dealer, with SPU's own client on the other end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trustme

from benchmarks.adjusting_party import AdjustingParty, RefusedError, seal
from benchmarks.dealt_parties import SEMI2K, configs, record, register, relayed
from benchmarks.spu_parties import PartyError, SpuParties, compile_function
from secure_runner.dealer import DealerClient, DealerConfig, DealerProcess, TlsFiles, beaver_config
from secure_runner.errors import AgreementError, UnavailableError

_NAMES = ("model-owner", "data-owner")
_X = np.ones((2, 3), np.float32)


def _square_sum(x):
    return (x * x).sum()


@dataclass
class _Deployment:
    directory: Path
    authority: trustme.CA
    dealer: DealerProcess

    def files(self, name: str, issuer: trustme.CA | None = None, trust: trustme.CA | None = None) -> TlsFiles:
        return _write_files(self.directory, name, issuer or self.authority, trust or self.authority)


def _write_files(directory: Path, name: str, issuer: trustme.CA, trust: trustme.CA) -> TlsFiles:
    stem = f"{name}-{id(issuer)}-{id(trust)}"
    certificate = issuer.issue_cert(name)
    files = {part: directory / f"{stem}-{part}.pem" for part in ("certificate", "key", "ca")}
    files["certificate"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    files["key"].write_bytes(certificate.private_key_pem.bytes())
    files["ca"].write_bytes(trust.cert_pem.bytes())
    return TlsFiles(certificate_file=files["certificate"], key_file=files["key"], ca_file=files["ca"])


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Deployment]:
    directory, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    tls = _write_files(directory, "dealer", authority, authority)
    with DealerProcess(DealerConfig(tls=tls)) as dealer:
        yield _Deployment(directory, authority, dealer)


def _client(deployment: _Deployment, tls: TlsFiles | None, server_name: str = "dealer") -> DealerClient:
    return DealerClient(
        deployment.dealer.address, deployment.dealer.public_key, tls=tls, server_name=server_name
    )


@pytest.mark.parametrize("way", ["direct", "relayed"])
def test_spu_computes_over_mutual_tls(deployment: _Deployment, way: str) -> None:
    """Registration and corrections both pass with certificates of the authority, whether SPU's client asks
    for them or a relay in its process."""
    compiled = compile_function(_square_sum, _X)
    transcript = record(compiled, [_X], SEMI2K)
    tls = [deployment.files(name) for name in _NAMES]
    dealer = deployment.dealer
    grants = register(
        dealer.address, dealer.public_key, f"tls-{way}", transcript, tls=tls, server_name="dealer"
    )
    relays = relayed(
        dealer.address, dealer.public_key, grants[1], transcript, tls=tls[1], server_name="dealer"
    )
    with SpuParties(2) as parties:
        parties.open(
            "tls", configs(dealer.address, grants, SEMI2K, tls), relays if way == "relayed" else None
        )
        outputs, _ = parties.run("tls", compiled, [_X], SEMI2K, times=3)

    np.testing.assert_allclose(outputs[0], 6.0, atol=1e-3)


def test_spus_client_refuses_a_dealer_of_another_authority(deployment: _Deployment) -> None:
    """The verification depth that the configuration sets makes SPU check the dealer's certificate."""
    compiled = compile_function(_square_sum, _X)
    dealer = deployment.dealer
    tls = [deployment.files(name) for name in _NAMES]
    grants = register(
        dealer.address,
        dealer.public_key,
        "wrong",
        record(compiled, [_X], SEMI2K),
        tls=tls,
        server_name="dealer",
    )
    distrusting = [deployment.files(name, trust=trustme.CA()) for name in _NAMES]
    with SpuParties(2, recv_timeout_ms=4_000) as parties:
        parties.open("wrong", configs(dealer.address, grants, SEMI2K, distrusting))
        with pytest.raises(PartyError):
            parties.run("wrong", compiled, [_X], SEMI2K)

    with _client(deployment, tls[1]) as client:
        assert client.status(grants[0].handle)["served"] == 0


def test_clients_without_the_authoritys_certificate_get_nothing(deployment: _Deployment) -> None:
    """Neither without TLS, nor with another authority's certificate, does any request get an answer."""
    stranger = deployment.files("data-owner", issuer=trustme.CA())
    for tls in (None, stranger):
        with _client(deployment, tls) as client, pytest.raises(UnavailableError):
            client.status("0" * 32)


def test_a_client_refuses_a_server_of_another_name(deployment: _Deployment) -> None:
    """A party of the deployment cannot stand in for the dealer towards the registering client."""
    with (
        _client(deployment, deployment.files("data-owner"), server_name="other") as client,
        pytest.raises(UnavailableError),
    ):
        client.status("0" * 32)


def test_a_party_registers_under_its_own_name_only(deployment: _Deployment) -> None:
    """The certificate's name must be that of the rank that registers."""
    compiled = compile_function(_square_sum, _X)
    impostor = deployment.files("helper")
    with pytest.raises(AgreementError, match="certificate is not that of party"):
        register(
            deployment.dealer.address,
            deployment.dealer.public_key,
            "impostor",
            record(compiled, [_X], SEMI2K),
            tls=[impostor, impostor],
            server_name="dealer",
        )


def test_only_the_adjusting_party_asks_for_corrections(deployment: _Deployment) -> None:
    """Another party's certificate is refused, also with ciphertexts of a session that runs; and the session
    goes on."""
    transcript = record(compile_function(_square_sum, _X), [_X], SEMI2K)
    dealer = deployment.dealer
    tls = [deployment.files(name) for name in _NAMES]
    grants = register(dealer.address, dealer.public_key, "adjust", transcript, tls=tls, server_name="dealer")
    ciphertexts = [seal(grants[0].public_key, bytes([rank]) * 16) for rank in range(2)]
    adjusting = AdjustingParty(dealer.address, ciphertexts, tls[1].client_context())
    adjusting.ask(transcript.steps[0])
    other = AdjustingParty(dealer.address, ciphertexts, tls[0].client_context())

    with pytest.raises(RefusedError, match="not that of the job's adjusting party"):
        other.ask(transcript.steps[0])
    with (
        _client(deployment, tls[0]) as client,
        pytest.raises(AgreementError, match="no such job of this adjusting party"),
    ):
        client.corrections(grants[0].handle, 1, ciphertexts)
    adjusting.ask(transcript.steps[1])


def test_strangers_cannot_ask_after_a_job(deployment: _Deployment) -> None:
    """A job's handle is of no use with a certificate of none of its parties."""
    transcript = record(compile_function(_square_sum, _X), [_X], SEMI2K)
    tls = [deployment.files(name) for name in _NAMES]
    dealer = deployment.dealer
    grants = register(dealer.address, dealer.public_key, "handle", transcript, tls=tls, server_name="dealer")

    with (
        _client(deployment, deployment.files("helper")) as client,
        pytest.raises(UnavailableError, match="no such job"),
    ):
        client.end(grants[0].handle)
    with _client(deployment, tls[0]) as client:
        assert client.status(grants[0].handle)["state"] == "ready"


def test_spu_is_always_told_to_verify() -> None:
    """SPU verifies nothing at depth 0, even with a CA file."""
    files = TlsFiles(certificate_file=Path("c"), key_file=Path("k"), ca_file=Path("a"))
    config = beaver_config("127.0.0.1:1", 1, "-----BEGIN PUBLIC KEY-----\n", tls=files)

    assert config["ssl_config"]["verify_depth"] >= 1
    assert config["ssl_config"]["ca_file_path"] == "a"
