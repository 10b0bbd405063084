"""The cluster file and the private settings: what is accepted, and what errors say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from secure_runner.config import (
    Cluster,
    PartySettings,
    embedded_cluster,
    embedded_settings,
    read_cluster,
)
from secure_runner.config.schema import cluster_schema
from secure_runner.errors import ConfigError

ROOT = Path(__file__).parents[3]

CREDIT = {
    "name": "credit",
    "protocol": "aby3",
    "parties": {
        "lender": {"role": "model_owner", "address": "lender.example.com", "port": 9400},
        "bank": {
            "role": "data_owner",
            "address": "bank.example.com",
            "port": 9400,
            "listen_host": "10.0.0.5",
            "listen_port": 19400,
        },
        "notary": {"role": "helper", "address": "10.1.1.1", "port": 9400},
    },
    "tls": {"ca_file": "ca.pem"},
}
LOOPBACK = {
    "name": "trial",
    "protocol": "cheetah",
    "insecure": True,
    "parties": {
        "lender": {"role": "model_owner", "address": "127.0.0.1", "port": 9400},
        "bank": {"role": "data_owner", "address": "localhost", "port": 9500},
    },
}


def changed(base, path, value):
    """A copy with the setting at the dotted path set, or removed if the value is None."""
    copy = json.loads(json.dumps(base))
    *parents, last = path.split(".")
    inner = copy
    for name in parents:
        inner = inner.setdefault(name, {})
    if value is None:
        inner.pop(last, None)
    else:
        inner[last] = value
    return copy


@pytest.fixture
def write(tmp_path):
    def write(settings):
        path = tmp_path / "cluster.yaml"
        path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
        return path

    return write


def test_ports_follow_from_one_base_and_do_not_overlap(write):
    """First port for the runners, then control and link for each slot of each lane; NAT maps them all."""
    cluster = read_cluster(write(CREDIT | {"lanes": 3})).cluster
    assert cluster.port_count == 13
    ports = [cluster.coordination("bank").port]
    for lane in range(3):
        for slot in range(2):
            ports += cluster.ports("bank", lane, slot)
    assert ports == list(range(9400, 9413))
    assert str(cluster.addresses("bank", 0, 0).link) == "bank.example.com:9402"
    assert str(cluster.addresses("bank", 0, 0, listen=True).link) == "10.0.0.5:19402"
    assert str(cluster.coordination("lender", listen=True)) == "0.0.0.0:9400"
    with pytest.raises(ConfigError, match="lane 3 slot 0"):
        cluster.ports("bank", 3, 0)
    with pytest.raises(ConfigError, match="no party 'stranger'"):
        cluster.ports("stranger", 0, 0)


def test_ranks_follow_roles_and_not_the_alphabet(write):
    """The model owner is rank 0 whatever the parties are called, and the dealer has no rank."""
    assert read_cluster(write(CREDIT)).cluster.ranked_parties == ("lender", "bank", "notary")
    semi2k = embedded_cluster("semi2k")
    assert semi2k.ranked_parties == ("model-owner", "data-owner")
    assert semi2k.dealer == "dealer"


def test_the_digest_covers_settings_and_not_their_spelling(write):
    """Comments and order do not change the digest the parties compare; any setting does, a default too."""
    first = read_cluster(write(CREDIT))
    second = read_cluster(write("# comment\n" + yaml.safe_dump(dict(reversed(CREDIT.items())))))
    assert first.cluster.digest == second.cluster.digest
    assert first.file_digest != second.file_digest
    explicit = read_cluster(write(changed(CREDIT, "timeouts.recv_timeout_s", 30))).cluster
    assert explicit.digest == first.cluster.digest
    for path, value in [
        ("timeouts.recv_timeout_s", 31),
        ("lanes", 2),
        ("parties.bank.port", 9401),
        ("tls.ca_file", "other.pem"),
        ("parties.notary.address", "10.1.1.2"),
    ]:
        assert read_cluster(write(changed(CREDIT, path, value))).cluster.digest != first.cluster.digest


def test_a_cluster_survives_the_way_to_a_party_process():
    """Settings serialise to JSON and come back equal, digest included."""
    for settings in embedded_settings(embedded_cluster("aby3", lanes=2)).values():
        again = PartySettings.model_validate_json(settings.model_dump_json())
        assert again == settings
        assert again.cluster.digest == settings.cluster.digest


@pytest.mark.parametrize(
    ("base", "path", "value", "expected"),
    [
        (CREDIT, "protocol", "ref2k", "protocol: Input should be 'cheetah', 'semi2k' or 'aby3'; got 'ref2k'"),
        (CREDIT, "name", None, "name: expected a value, but the field is missing"),
        (CREDIT, "timeout", 3, "timeout: there is no such setting"),
        (CREDIT, "timeouts.recv_timeout", 3, "timeouts.recv_timeout: there is no such setting"),
        (CREDIT, "timeouts.recv_timeout_s", "30", "timeouts.recv_timeout_s: Input should be a valid number"),
        (CREDIT, "timeouts.recv_timeout_s", 0, "timeouts.recv_timeout_s: Input should be greater than 0"),
        (CREDIT, "timeouts.recv_timeout_s", float("nan"), "timeouts.recv_timeout_s: "),
        (CREDIT, "timeouts.heartbeat_timeout_s", 0.3, "at least twice heartbeat_interval_s"),
        (
            CREDIT,
            "parties.bank.port",
            70000,
            "parties.bank.port: Input should be less than or equal to 65535",
        ),
        (CREDIT, "parties.bank.port", 65533, "take 5 ports from 65533 up"),
        (CREDIT, "parties.bank.listen_port", 65533, "parties.bank.listen_port: lanes: 1 take 5 ports"),
        (CREDIT, "parties.bank.address", "bank example", "parties.bank.address: String should match"),
        (CREDIT, "parties.Bank", {"role": "helper", "address": "h", "port": 1}, "parties.Bank"),
        (CREDIT, "parties.notary", None, "aby3 needs a party with role helper; there is none"),
        (CREDIT, "parties.notary.role", "dealer", "aby3 has no role dealer; it is given to notary"),
        (
            CREDIT,
            "parties.notary.role",
            "data_owner",
            "one party has role data_owner; it is given to bank, not",
        ),
        (CREDIT, "protocol", "cheetah", "cheetah has no role helper; it is given to notary"),
        (CREDIT, "tls", None, "tls: missing, although bank, lender, notary"),
        (CREDIT, "tls", {}, "tls.ca_file: missing, and no certificate_file for bank, lender, notary"),
        (CREDIT, "parties.bank.certificate_file", "b.pem", "given beside certificate_file of bank"),
        (CREDIT, "insecure", True, "insecure: true is for loopback addresses only; not so for bank, lender"),
        (CREDIT, "insecure", "yes", "insecure: Input should be a valid boolean"),
        (CREDIT, "lanes", 0, "lanes: Input should be greater than or equal to 1"),
        (CREDIT, "parties.notary.address", "bank.example.com", "its range overlaps that of bank"),
        (CREDIT, "embedded", True, "embedded is set by the runner itself"),
        (LOOPBACK, "insecure", None, "tls: missing; on loopback it may be, with insecure: true"),
        (LOOPBACK, "parties.bank.listen_host", "0.0.0.0", "insecure: true is for loopback addresses only"),
        (
            changed(LOOPBACK, "insecure", None),
            "protocol",
            "semi2k",
            "lets the model owner unmask the features",
        ),
    ],
)
def test_an_error_names_the_setting_what_was_expected_and_what_came(write, base, path, value, expected):
    """Each mistake in a cluster file has a message that leads to the line to change."""
    with pytest.raises(ConfigError) as caught:
        read_cluster(write(changed(base, path, value)))
    assert expected in str(caught.value)
    assert "cluster.yaml" in str(caught.value)


def test_all_mistakes_are_told_at_once(write):
    """A file with three mistakes needs one reading, not three."""
    broken = changed(changed(changed(CREDIT, "lanes", 0), "protocol", "x"), "parties.bank.port", "y")
    with pytest.raises(ConfigError) as caught:
        read_cluster(write(broken))
    assert str(caught.value).count("\n  - ") == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "the key 'name' is given twice"),
        ("- a\n- b\n", "must hold settings by name, got list"),
        ("name: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("name: \xff\n".encode("latin-1").decode("latin-1") + "\x00", "is not valid YAML"),
        ("", "must hold settings by name, got NoneType"),
    ],
)
def test_a_file_that_is_no_cluster_is_refused(write, text, expected):
    """Duplicate keys, other structures, broken or dangerous YAML end in a ConfigError."""
    with pytest.raises(ConfigError, match=expected):
        read_cluster(write(text))


def test_a_missing_file_is_named(tmp_path):
    """The path that could not be read is in the message."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        read_cluster(tmp_path / "nowhere.yaml")


def test_semi2k_without_a_dealer_needs_insecure_and_loopback(write):
    """The insecure preset starts on loopback with the words written out, and nowhere else."""
    trial = changed(LOOPBACK, "protocol", "semi2k")
    assert read_cluster(write(trial)).cluster.dealer is None
    with pytest.raises(ConfigError, match="insecure: true is for loopback"):
        read_cluster(write(changed(trial, "parties.bank.address", "10.0.0.1")))


def test_an_embedded_cluster_has_all_roles_on_free_loopback_ports():
    """Embedded means every role on this machine; semi2k brings its dealer unless told to be insecure."""
    assert set(embedded_cluster("aby3").parties) == {"model-owner", "data-owner", "helper"}
    assert set(embedded_cluster("cheetah").parties) == {"model-owner", "data-owner"}
    assert set(embedded_cluster("semi2k").parties) == {"model-owner", "data-owner", "dealer"}
    insecure = embedded_cluster("semi2k", insecure=True)
    assert set(insecure.parties) == {"model-owner", "data-owner"}
    assert all(party.address == "127.0.0.1" for party in insecure.parties.values())


def environment(path, **variables):
    return {"SECURE_RUNNER_CLUSTER": str(path)} | {f"SECURE_RUNNER_{k}": v for k, v in variables.items()}


def test_private_settings_come_from_the_environment(write, tmp_path):
    """Variables name the party and its files; trust files lie beside the cluster file, or where told."""
    path = write(CREDIT)
    files = {"TLS_CERT": "/run/bank.pem", "TLS_KEY": "/run/secret/bank.key"}
    settings = PartySettings.from_environment(environment(path, PARTY="bank", **files))
    assert (settings.party, settings.role, settings.peers) == ("bank", "data_owner", ("lender", "notary"))
    assert settings.trust_file("lender") == tmp_path / "ca.pem"
    assert "secret" not in repr(settings)
    moved = environment(path, PARTY="bank", TLS_CA="/etc/ca.pem", **files)
    assert str(PartySettings.from_environment(moved).trust_file("lender")) == "/etc/ca.pem"
    assert PartySettings.from_environment({}) is None
    assert PartySettings.from_environment({"SECURE_RUNNER_CLUSTER": ""}) is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "SECURE_RUNNER_PARTY is not set; expected one of bank, lender, notary of cluster credit"),
        ({"PARTY": "eve"}, "party: 'eve' is not in cluster credit; expected one of bank, lender, notary"),
        ({"PARTY": "bank", "TLS_CERT": "c"}, r"tls_key_file \(SECURE_RUNNER_TLS_KEY\): missing"),
        (
            {"PARTY": "bank", "TLS_CERT": "c", "TLS_KEY": "k", "PROGRAM_DIGEST": "sha256:ab"},
            "program_digest: String should match",
        ),
    ],
)
def test_a_wrong_environment_names_the_variable(write, variables, expected):
    """An operator who forgot a variable reads its name."""
    with pytest.raises(ConfigError, match=expected):
        PartySettings.from_environment(environment(write(CREDIT), **variables))


def test_a_party_without_a_cluster_is_an_error():
    """Forgetting the cluster file must not silently start everything embedded."""
    with pytest.raises(ConfigError, match="SECURE_RUNNER_CLUSTER is not"):
        PartySettings.from_environment({"SECURE_RUNNER_PARTY": "bank"})


def test_the_schema_in_the_docs_is_that_of_the_model():
    """docs/cluster-schema.json is what ``python -m secure_runner.config.schema`` prints."""
    assert json.loads((ROOT / "docs" / "cluster-schema.json").read_text()) == cluster_schema()


def settings_of(model, schema=None):
    """Dotted names of all settings of the cluster file, from the schema."""
    schema = schema or cluster_schema()
    for name, field in model["properties"].items():
        references = [field, *field.get("anyOf", []), field.get("additionalProperties", {})]
        found = [item["$ref"] for item in references if isinstance(item, dict) and "$ref" in item]
        inner = [schema["$defs"][reference.rsplit("/", 1)[1]] for reference in found]
        nested = [item for item in inner if "properties" in item]
        yield name
        for item in nested:
            yield from settings_of(item, schema)


def test_every_setting_is_described_in_the_docs():
    """docs/configuration.md names every setting of the cluster file and every variable."""
    from secure_runner.config.party import VARIABLES

    text = (ROOT / "docs" / "configuration.md").read_text()
    names = {*settings_of(cluster_schema()), *VARIABLES.values(), "SECURE_RUNNER_CLUSTER"}
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_the_clusters_in_the_docs_are_valid(write):
    """Every YAML block of docs/configuration.md that holds parties is a valid cluster file."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    clusters = [block for block in blocks if "parties:" in block]
    assert clusters
    for block in clusters:
        read_cluster(write(block))


def test_reading_the_configuration_is_light():
    """Configuration imports neither SecretFlow nor SPU, JAX or BentoML: the command line stays quick."""
    heavy = "{'secretflow', 'spu', 'jax', 'bentoml', 'grpc', 'numpy'}"
    code = f"import sys, secure_runner.config; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_roles_are_no_lookups():
    """Asking a cluster for a role it does not have is a ConfigError."""
    with pytest.raises(ConfigError, match="no party with role helper"):
        embedded_cluster("cheetah").party_with("helper")


def test_a_cluster_of_one_model_is_immutable():
    """What has been agreed on cannot change under the runner."""
    cluster = embedded_cluster("cheetah")
    with pytest.raises(ValueError, match="frozen"):
        cluster.lanes = 3
    assert isinstance(cluster, Cluster)
