"""The Kubernetes manifests: valid, and such that each party's own reader accepts what it finds in its pod."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from secure_runner.config import PartySettings
from secure_runner.config.read import read_cluster
from secure_runner.dealer.service import IDENTITY_VARIABLE

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
ROLES = ("model-owner", "data-owner", "helper", "dealer")
PROTOCOLS = ("cheetah", "aby3", "semi2k")
PARTIES = {"model-owner": "alice", "data-owner": "bob", "helper": "carol", "dealer": "dora"}
# Oldest and newest of the versions that are looked after when this is written.
VERSIONS = ("1.31", "1.34")
FILES = sorted(FOLDER.glob("*.yaml"))


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def _of(role: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in _documents(role) if document["kind"] == kind]


def _pod(role: str) -> dict[str, Any]:
    (found,) = _of(role, "StatefulSet")
    return dict(found["spec"]["template"]["spec"])


def _container(role: str) -> dict[str, Any]:
    (found,) = _pod(role)["containers"]
    return dict(found)


def _cluster_text(protocol: str) -> str:
    return str(_documents(f"cluster-{protocol}")[0]["data"]["cluster-0.yaml"])


def _protocols(role: str) -> tuple[str, ...]:
    """Protocols that have this role."""
    return {"helper": ("aby3",), "dealer": ("semi2k",)}.get(role, PROTOCOLS)


def _party_ports(role: str) -> set[int]:
    """Ports that others connect to: coordination at the model owner, control and link, dealing."""
    last = 9001 if role == "dealer" else 9004
    return set(range(9000 if role == "model-owner" else 9001, last + 1))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_follow_the_published_schemas(file: Path, version: str) -> None:
    """Every object is valid and has no field that its schema does not know."""
    for document in yaml.safe_load_all(file.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_mistyped_field_would_be_found() -> None:
    """The validation above is strict."""
    (broken,) = copy.deepcopy(_of("data-owner", "StatefulSet"))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_finds_its_configuration_where_it_is_mounted(role: str, tmp_path: Path) -> None:
    """The environment of each pod is accepted, also after the volume has changed under it."""
    for protocol in _protocols(role):
        volume = tmp_path / protocol / "settings"
        _project(volume, role, protocol, "first")
        settings = PartySettings.from_environment(_environment(role, volume))
        assert settings is not None
        assert settings.party == PARTIES[role]
        _project(volume, role, protocol, "second")
        files = [settings.tls_certificate_file, settings.tls_key_file]
        files += [settings.trust_file(peer) for peer in settings.peers]
        assert {path.read_text() for path in files if path is not None} == {"second"}


def _project(volume: Path, role: str, protocol: str, content: str) -> None:
    """Fill the volume as the kubelet does: a folder of its own for each state, reached through links."""
    sources = next(v for v in _pod(role)["volumes"] if v["name"] == "settings")["projected"]["sources"]
    state = volume / f"..{content}"
    for source in sources:
        for item in source.get("secret", {}).get("items", []):
            (state / item["path"]).parent.mkdir(parents=True, exist_ok=True)
            (state / item["path"]).write_text(content)
    (state / "cluster-0.yaml").write_text(_cluster_text(protocol))
    for name in (path.name for path in state.iterdir()):
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(Path("..data") / name)
    previous = (volume / "..data").resolve() if (volume / "..data").is_symlink() else None
    if previous is not None:
        (volume / "..data").unlink()
        previous.rename(volume / "..gone")
    (volume / "..data").symlink_to(state.name)


def _environment(role: str, volume: Path) -> dict[str, str]:
    """The container's environment as the kubelet would give it to pod 0."""
    mounted = next(m for m in _container(role)["volumeMounts"] if m["name"] == "settings")["mountPath"]
    filled = {"program-digest": "0" * 64, "dealer-key": "key"}
    environment = {}
    for entry in _container(role)["env"]:
        reference = entry.get("valueFrom", {}).get("configMapKeyRef", {})
        value = entry.get("value") or filled.get(reference.get("key"), "0")
        environment[entry["name"]] = value.replace("$(POD_INDEX)", "0").replace(mounted, str(volume))
    return environment


@pytest.mark.parametrize("role", ROLES)
def test_every_file_that_a_variable_names_is_mounted(role: str) -> None:
    """Certificates, keys, http.yaml and identity come from the Secrets; /tmp and audit are writable."""
    environment = _environment(role, Path("/etc/secure-runner"))
    sources = next(v for v in _pod(role)["volumes"] if v["name"] == "settings")["projected"]["sources"]
    items = {item["path"] for source in sources for item in source.get("secret", {}).get("items", [])}
    named = {
        value.removeprefix("/etc/secure-runner/")
        for name, value in environment.items()
        if value.startswith("/etc/") and name != "SECURE_RUNNER_CLUSTER"
    }
    assert items == named
    assert (IDENTITY_VARIABLE in environment) is (role == "dealer")
    assert ("SECURE_RUNNER_HTTP" in environment) is (role == "data-owner")
    assert ("SECURE_RUNNER_PROGRAM_DIGEST" in environment) is (role in ("data-owner", "helper"))
    writable = {m["mountPath"] for m in _container(role)["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/tmp"} | ({"/var/lib/secure-runner/audit"} if role != "dealer" else set())
    assert environment["BENTOML_HOME"].startswith("/tmp/")


@pytest.mark.parametrize("role", ROLES)
def test_the_same_ports_everywhere(role: str, tmp_path: Path) -> None:
    """Container, both Services and the NetworkPolicy have the ports that the cluster files give the party."""
    for protocol in _protocols(role):
        (tmp_path / "cluster.yaml").write_text(_cluster_text(protocol))
        cluster = read_cluster(tmp_path / "cluster.yaml").cluster
        assert cluster.protocol == protocol
        first = cluster.parties[PARTIES[role]].port
        assert _party_ports(role) <= set(range(first, first + cluster.port_count))
    expected = _party_ports(role)
    assert {p["containerPort"] for p in _container(role)["ports"]} == expected | {3000}
    headless, outside = _of(role, "Service")[:2]
    assert headless["spec"]["clusterIP"] == "None"
    assert {port["port"] for port in headless["spec"]["ports"]} == expected | {3000}
    assert {port["port"] for port in outside["spec"]["ports"]} == expected
    (policy,) = _of(role, "NetworkPolicy")
    peers, http = policy["spec"]["ingress"]
    assert _range(peers["ports"]) == expected
    assert all("ipBlock" in peer and peer["ipBlock"]["cidr"].endswith("/32") for peer in peers["from"])
    assert _range(http["ports"]) == {3000}
    assert not [peer for peer in http["from"] if "ipBlock" in peer], "HTTP is for the inside alone"


def _range(ports: list[dict[str, Any]]) -> set[int]:
    (only,) = ports
    return set(range(only["port"], only.get("endPort", only["port"]) + 1))


@pytest.mark.parametrize("role", ROLES)
def test_a_waiting_party_can_be_reached_and_is_not_restarted(role: str) -> None:
    """Parties get ready by being reached: Services between them publish all pods; only HTTP waits."""
    for service in _of(role, "Service")[:2]:
        assert service["spec"]["publishNotReadyAddresses"] is True
    for service in _of(role, "Service")[2:]:
        assert "publishNotReadyAddresses" not in service["spec"]
    container = _container(role)
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness")}
    assert set(paths.values()) == {"/livez"}
    startup, readiness = container["startupProbe"], container["readinessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    assert readiness["httpGet"]["path"] == "/readyz"
    assert readiness["periodSeconds"] <= 5
    assert readiness["timeoutSeconds"] > 1.5, "/readyz takes that long when the runner hangs"
    (budget,) = _of(role, "PodDisruptionBudget")
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("role", ROLES)
def test_pods_may_do_nothing_they_need_not(role: str) -> None:
    """No root, capability, privilege, writable root, API token or foreign variable."""
    pod, container = _pod(role), _container(role)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1034
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert container["image"] == f"credit-{role}:latest"


def test_secrets_are_named_and_not_contained() -> None:
    """No file makes a Secret or holds a key."""
    for file in FILES:
        assert "PRIVATE KEY" not in file.read_text()
        assert "Secret" not in {document["kind"] for document in yaml.safe_load_all(file.read_text())}
