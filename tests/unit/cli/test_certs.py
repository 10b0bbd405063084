"""``secure-runner certs``, and what its certificates are good for."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner
from cryptography import x509

from secure_runner.cli import COMMANDS, main
from secure_runner.config import PartySettings, read_cluster
from secure_runner.config.tls import IdentityError, check_identity, read_tls, server_context
from secure_runner.errors import ConfigError

CLUSTER = """
name: credit
protocol: cheetah
parties:
  lender: {role: model_owner, address: lender.example.com, port: 9400}
  bank: {role: data_owner, address: 10.0.0.5, port: 9400}
tls: {ca_file: certs/ca.pem}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path / "certs"


def run(*arguments):
    return CliRunner().invoke(main, ["certs", *arguments])


def settings(party, directory, **changes):
    file = read_cluster(directory.parent / "cluster.yaml")
    given = {
        "cluster": file.cluster,
        "cluster_directory": file.directory,
        "party": party,
        "tls_certificate_file": directory / f"{party}.pem",
        "tls_key_file": directory / f"{party}.key",
    }
    return PartySettings.model_validate(given | changes)


def der_of(path):
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_create_makes_what_every_party_needs(files):
    """One command gives an authority and, for each party, a certificate that all accept."""
    done = run("create", "--cluster", "cluster.yaml")
    assert done.exit_code == 0, done.output
    assert "bank, 10.0.0.5; until" in done.output
    assert {path.name for path in files.iterdir()} == {
        "ca.pem",
        "ca.key",
        "lender.pem",
        "lender.key",
        "bank.pem",
        "bank.key",
    }
    material = read_tls(settings("lender", files))
    server_context(material)
    check_identity(material, der_of(files / "bank.pem"), "bank")
    with pytest.raises(IdentityError, match="'bank' and no other party's"):
        check_identity(material, der_of(files / "lender.pem"), "bank")
    bank = x509.load_pem_x509_certificate((files / "bank.pem").read_bytes())
    assert not bank.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_readable_by_their_owner_alone(files):
    """Key files have mode 0600."""
    run("create", "--cluster", "cluster.yaml")
    for path in files.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"PRIVATE KEY" in path.read_bytes()


def test_create_overwrites_nothing_and_completes_what_is_missing(files):
    """A second run is an error; a new party's certificate is added to the others'."""
    run("create", "--cluster", "cluster.yaml")
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    again = run("create", "--cluster", "cluster.yaml")
    assert again.exit_code == 1
    assert "holds certificates of all parties already" in again.output
    (files / "bank.pem").unlink()
    (files / "bank.key").unlink()
    assert run("create", "--cluster", "cluster.yaml").exit_code == 0
    after = {path.name: path.read_bytes() for path in files.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"bank.pem", "bank.key"}


def test_renew_replaces_one_pair_under_the_same_authority(files):
    """A renewed certificate counts for the others with nothing changed at their side."""
    run("create", "--cluster", "cluster.yaml")
    older, cluster = (files / "bank.pem").read_bytes(), (files.parent / "cluster.yaml").read_bytes()
    assert run("renew", "bank", "--cluster", "cluster.yaml").exit_code == 0
    assert (files / "bank.pem").read_bytes() != older
    assert (files.parent / "cluster.yaml").read_bytes() == cluster
    check_identity(read_tls(settings("lender", files)), der_of(files / "bank.pem"), "bank")
    read_tls(settings("bank", files))
    assert stat.S_IMODE((files / "bank.key").stat().st_mode) == 0o600
    refused = run("renew", "eve", "--cluster", "cluster.yaml")
    assert refused.exit_code == 1
    assert "'eve' is no party of credit; they are lender, bank" in refused.output


def test_self_signed_certificates_are_pinned(files):
    """Without an authority each party makes its own and pins the other's, byte for byte."""
    pinned = CLUSTER.replace("port: 9400}", "port: 9400, certificate_file: certs/NAME.pem}").replace(
        "{ca_file: certs/ca.pem}", "{}"
    )
    for name in ("lender", "bank"):
        pinned = pinned.replace("NAME", name, 1)
        assert run("self-signed", name, "--host", f"{name}.example.com").exit_code == 0
    (files.parent / "cluster.yaml").write_text(pinned)
    material = read_tls(settings("lender", files))
    check_identity(material, der_of(files / "bank.pem"), "bank")
    again = run("self-signed", "bank")
    assert again.exit_code == 1
    assert "are not overwritten" in again.output
    assert run("self-signed", "bank", "--replace").exit_code == 0
    with pytest.raises(IdentityError, match="none of those pinned"):
        check_identity(material, der_of(files / "bank.pem"), "bank")


def test_an_address_that_is_another_partys_name_is_refused(files):
    """A certificate with two parties' names would stand for both."""
    (files.parent / "cluster.yaml").write_text(CLUSTER.replace("lender.example.com", "bank"))
    refused = run("create", "--cluster", "cluster.yaml")
    assert refused.exit_code == 1
    assert "the address of lender is the name of another party, bank" in refused.output


def test_show_prints_names_validity_and_fingerprint(files):
    """An operator sees what a certificate is without other tools, and is told when a file holds none."""
    run("create", "--cluster", "cluster.yaml", "--days", "7")
    shown = run("show", "certs/bank.pem")
    assert "bank, 10.0.0.5; until" in shown.output
    assert "(6 days left); sha256 " in shown.output
    assert run("show", "cluster.yaml").exit_code == 1


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda d: (d / "bank.key").unlink(),
            "SECURE_RUNNER_TLS_KEY: .*bank.key cannot be read: No such",
        ),
        (lambda d: (d / "ca.pem").unlink(), "the trust file of lender: .*ca.pem cannot be read"),
        (lambda d: (d / "ca.pem").write_text("x"), "ca.pem holds no PEM certificate"),
        (lambda d: (d / "bank.key").write_text("x"), "SECURE_RUNNER_TLS_KEY: no unencrypted PEM private key"),
        (
            lambda d: (d / "bank.key").write_bytes((d / "lender.key").read_bytes()),
            "the key of SECURE_RUNNER_TLS_KEY does not belong to certificate .*bank.pem",
        ),
        (
            lambda d: [
                (d / f"bank.{end}").write_bytes((d / f"lender.{end}").read_bytes()) for end in ("pem", "key")
            ],
            "must bear the DNS name 'bank' .* it bears 'lender'",
        ),
    ],
    ids=["no-key", "no-authority", "authority-no-pem", "key-no-pem", "other-key", "other-party"],
)
def test_wrong_files_are_named(files, spoil, expected):
    """What is wrong with a party's own files is told when they are read, by variable and path."""
    run("create", "--cluster", "cluster.yaml")
    spoil(files)
    with pytest.raises(ConfigError, match=expected):
        read_tls(settings("bank", files))


def test_an_expired_certificate_is_named(files, monkeypatch):
    """Dates are in the message."""
    from datetime import timedelta

    from secure_runner.config import certificates

    run("create", "--cluster", "cluster.yaml")
    monkeypatch.setattr(certificates, "_CLOCK_ALLOWANCE", timedelta(days=400))
    monkeypatch.setattr(certificates, "timedelta", lambda days: timedelta(days=-1))
    assert run("renew", "bank", "--cluster", "cluster.yaml").exit_code == 0
    with pytest.raises(ConfigError, match=r"is valid from .* UTC, and it is .*replace it, or set"):
        read_tls(settings("bank", files))


def test_no_key_shows_in_a_representation(files):
    """What holds a key does not print it."""
    run("create", "--cluster", "cluster.yaml")
    text = repr(read_tls(settings("bank", files)))
    assert "PRIVATE" not in text
    assert "bank.key" not in text


def test_help_lists_every_command_and_imports_none():
    """``secure-runner --help`` is quick: no subcommand's module is imported for it."""
    code = (
        "import sys\nfrom secure_runner.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('secure_runner.cli.')))\n"
        "print(sorted({'jax', 'spu', 'secretflow', 'bentoml', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n[]\n")
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_examples(name):
    """Each subcommand loads, and its help shows how it is called."""
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"secure-runner {name} " in done.output
