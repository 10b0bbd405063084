"""The compose files: valid, and such that each party's own reader accepts what it finds in its container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from compose_spec import PyCompose

from secure_runner.cli.certs import certs
from secure_runner.config import Cluster, PartySettings
from secure_runner.config.read import read_cluster
from secure_runner.http.settings import HttpSettings

FOLDER = Path(__file__).parents[3] / "deploy" / "compose"
PROTOCOLS = ("cheetah", "aby3", "semi2k")
SERVICES = [
    (protocol, name)
    for protocol in PROTOCOLS
    for name in yaml.safe_load((FOLDER / protocol / "cluster.yaml").read_text())["parties"]
]


def _merged(protocol: str, name: str) -> dict[str, Any]:
    """A service after ``extends``, as Compose merges what is used here."""
    service = yaml.safe_load((FOLDER / protocol / "compose.yaml").read_text())["services"][name]
    common = yaml.safe_load((FOLDER / "common.yaml").read_text())["services"]
    chain = [service]
    while "extends" in chain[-1]:
        chain.append(common[chain[-1]["extends"]["service"]])
    merged: dict[str, Any] = {}
    for layer in reversed(chain):
        environment = merged.get("environment", {}) | layer.get("environment", {})
        merged |= layer | {"environment": environment}
    return merged


def _published(service: dict[str, Any]) -> set[int]:
    ports: set[int] = set()
    for entry in service["ports"]:
        outside, inside = entry.rsplit(":", 1)
        assert outside.rpartition(":")[2] == inside, "the cluster file has no listen_port"
        first, _, last = inside.partition("-")
        ports |= set(range(int(first), int(last or first) + 1))
    return ports


def needed_ports(cluster: Cluster, party: str) -> set[int]:
    """Ports on which other parties connect to this one."""
    if cluster.parties[party].role == "dealer":
        return {cluster.dealing().port}
    sockets = {
        address.port
        for lane in range(cluster.lanes)
        for slot in (0, 1)
        for address in cluster.addresses(party, lane, slot)
    }
    leads = cluster.parties[party].role == "model_owner"
    return sockets | ({cluster.coordination(party).port} if leads else set())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_compose_files_follow_the_published_schema(protocol: str) -> None:
    """Each file is valid, services use only networks that exist, and a mistyped key is found."""
    text = (FOLDER / protocol / "compose.yaml").read_text()
    for file in (text, (FOLDER / "common.yaml").read_text()):
        PyCompose.from_yaml(file).to_spec()
    with pytest.raises(ValueError, match="volumse"):
        PyCompose.from_yaml(text.replace("    volumes:", "    volumse:", 1))
    found = yaml.safe_load(text)
    used = {network for service in found["services"].values() for network in service["networks"]}
    assert used == set(found["networks"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_service_for_each_party_with_the_image_of_its_role(protocol: str) -> None:
    """Services are the cluster's parties; an organisation's network is its own; `between` is all parties'."""
    cluster = read_cluster(FOLDER / protocol / "cluster.yaml").cluster
    services = yaml.safe_load((FOLDER / protocol / "compose.yaml").read_text())["services"]
    assert cluster.protocol == protocol
    assert set(services) == set(cluster.parties)
    for name, service in services.items():
        assert service["image"] == f"credit-{cluster.parties[name].role.replace('_', '-')}:latest"
        assert cluster.parties[name].address == name, "a service is reached by its name"
        assert service["networks"] == [name, "between"]


@pytest.mark.parametrize(("protocol", "name"), SERVICES)
def test_a_party_finds_its_configuration_where_it_is_mounted(
    protocol: str, name: str, tmp_path: Path
) -> None:
    """With folders made as the page says, the environment of each container is accepted."""
    made = tmp_path / "certs"
    cluster_file = FOLDER / protocol / "cluster.yaml"
    arguments = ["create", "--cluster", str(cluster_file), "--directory", str(made)]
    assert CliRunner().invoke(certs, arguments).exit_code == 0
    own = tmp_path / name
    (own / "certs").mkdir(parents=True)
    (own / "cluster.yaml").write_bytes(cluster_file.read_bytes())
    (own / "http.yaml").write_bytes((FOLDER / "http.example.yaml").read_bytes())
    for file in ("ca.pem", f"{name}.pem", f"{name}.key"):
        (own / "certs" / file).write_bytes((made / file).read_bytes())

    service = _merged(protocol, name)
    mounts = {mount["target"]: tmp_path / mount["source"] for mount in service["volumes"]}

    def outside(path: str) -> str:
        for target, source in mounts.items():
            if path.startswith(target):
                return f"{source}{path[len(target) :]}"
        return path

    environment = {variable: outside(value) for variable, value in service["environment"].items()}
    if "SECURE_RUNNER_PROGRAM_DIGEST" in environment:
        environment["SECURE_RUNNER_PROGRAM_DIGEST"] = "0" * 64
    settings = PartySettings.from_environment(environment)
    assert settings is not None
    assert settings.party == name
    needed = [settings.tls_certificate_file, settings.tls_key_file]
    needed += [settings.trust_file(peer) for peer in settings.peers]
    assert all(path is not None and path.is_file() for path in needed)
    assert (settings.program_digest is not None) is (settings.role in ("data_owner", "helper"))
    if settings.role == "data_owner":
        HttpSettings.load(Path(environment["SECURE_RUNNER_HTTP"]), embedded=False)
    writable = {mount["target"] for mount in service["volumes"] if not mount.get("read_only")}
    assert writable == _audit(service, settings.role)


def _audit(service: dict[str, Any], role: str) -> set[str]:
    return set() if role == "dealer" else {service["environment"]["SECURE_RUNNER_AUDIT_DIR"]}


@pytest.mark.parametrize(("protocol", "name"), SERVICES)
def test_published_ports_are_those_that_others_connect_to(protocol: str, name: str) -> None:
    """Neither more nor fewer than the cluster file says; HTTP at the data owner alone, on loopback."""
    cluster = read_cluster(FOLDER / protocol / "cluster.yaml").cluster
    service = _merged(protocol, name)
    is_data_owner = cluster.parties[name].role == "data_owner"
    assert _published(service) == needed_ports(cluster, name) | ({3000} if is_data_owner else set())
    assert ("127.0.0.1:3000:3000" in service["ports"]) is is_data_owner


@pytest.mark.parametrize(("protocol", "name"), SERVICES)
def test_containers_are_bounded_and_looked_after(protocol: str, name: str) -> None:
    """No root, nothing writable but memory and the audit log, no capability; health asks the right route."""
    service = _merged(protocol, name)
    assert service["user"] == "1034:1034"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    assert service["restart"] == "unless-stopped"
    assert service["environment"]["BENTOML_HOME"].startswith("/tmp/")
    route = "/readyz" if service["environment"].get("SECURE_RUNNER_HTTP") else "/livez"
    assert f"127.0.0.1:3000{route}" in service["healthcheck"]["test"][-1]


def test_no_file_holds_a_secret() -> None:
    """Keys are named by path; tokens and digests come from the environment of who starts it."""
    for file in FOLDER.rglob("*"):
        assert file.suffix not in (".key", ".pem"), file
        if file.is_file():
            assert "PRIVATE KEY" not in file.read_text()
    for protocol, name in SERVICES:
        for variable, value in _merged(protocol, name)["environment"].items():
            is_path_or_asked_for = value.startswith(("/", "${"))
            assert is_path_or_asked_for or not variable.endswith(("KEY", "TOKEN", "DIGEST")), variable
