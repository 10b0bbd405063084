"""Two organisations on hosts of their own follow docs/deploy.md to the letter."""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from organisations import ROOT, Network, Organisation, can_make_hosts, recorded

pytestmark = [
    pytest.mark.skipif(not can_make_hosts(), reason="needs root and iproute2 to make hosts"),
    pytest.mark.timeout(900),
]

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<head>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESSES = {"alice": "10.77.0.10", "bob": "10.77.0.11"}
_TOLERANCE = 1e-3
# Distinctive values: the features that Bob sends, and the weights that Alice holds.
_FEATURES = [0.7317318, -1.2345679, 0.9876543, 1.4142135, -0.5772157, 1.6180340]


@dataclass
class Deployment:
    """What the page left running."""

    alice: Organisation
    bob: Organisation
    weights: list[np.ndarray]
    capture: Path
    printed: dict[str, list[str]]

    def predict(self, rows: list[list[float]]) -> tuple[int, str]:
        """Ask Bob's service from Bob's host."""
        token = (self.bob.directory / "token").read_text().strip()
        return self.bob.request(
            "POST", "/predict", {"inputs": rows}, headers={"Authorization": f"Bearer {token}"}
        )

    def plaintext(self, rows: list[list[float]]) -> np.ndarray:
        """What the model says of the rows."""
        first, second = self.weights
        return np.maximum(np.asarray(rows, np.float32) @ first, 0) @ second


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Both hosts after every step of the page."""
    base = tmp_path_factory.mktemp("organisations")
    with Network() as network:
        parties = {}
        for name, address in _ADDRESSES.items():
            assert network.add_host(name, mbit_per_s=100) == address
            parties[name] = Organisation(name, network, base / name)
            (parties[name].directory / "secure-runner").symlink_to(ROOT)
        weights = write_model(parties["alice"].directory / "credit.onnx")
        capture = base / "packets"
        printed: dict[str, list[str]] = {name: [] for name in parties}
        try:
            with recorded(network, capture):
                follow_page(parties, printed)
                yield Deployment(parties["alice"], parties["bob"], weights, capture, printed)
        finally:
            for party in parties.values():
                party.stop()


def follow_page(parties: dict[str, Organisation], printed: dict[str, list[str]]) -> None:
    """Run every block of the page on the host that its first line names."""
    for block in _BLOCK.finditer((ROOT / "docs/deploy.md").read_text()):
        head, body = block["head"].lstrip("# "), block["body"]
        if block["language"] == "yaml":
            name, _, file = head.partition(": ")
            (parties[name].directory / file).write_text(body)
        elif block["language"] == "text":
            sender, _, receiver = head.partition(" → ")
            for file in body.split():
                target = parties[receiver].directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(parties[sender].directory / file, target)
        else:
            name, _, how = head.partition(", ")
            if how == "keeps running":
                parties[name].serve_script(body)
                continue
            if how == "once ready":
                parties[name].wait_until_ready()
            printed[name].append(parties[name].script(body))


def write_model(path: Path) -> list[np.ndarray]:
    """A small network with distinctive weights."""
    random = np.random.default_rng(20)
    weights = [random.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 2))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("MatMul", ["positive", "second"], ["y"]),
        ],
        "credit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, ("first", "second"), strict=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return weights


def test_the_page_ends_in_right_predictions(deployment: Deployment) -> None:
    """The curl of the page prints the prediction; any other row is right too, to 1e-3."""
    said = json.loads(deployment.printed["bob"][-1])["outputs"]
    assert np.allclose(said, deployment.plaintext([[0.5, -1.0, 0.25, 2.0, 0.0, 1.5]]), atol=_TOLERANCE)
    status, body = deployment.predict([_FEATURES, [0.0] * 6, [1.0] * 6])
    assert status == 200, body
    expected = deployment.plaintext([_FEATURES, [0.0] * 6, [1.0] * 6])
    assert np.allclose(json.loads(body)["outputs"], expected, atol=_TOLERANCE)


def test_the_model_owner_refuses_predictions_and_says_why(deployment: Deployment) -> None:
    """Alice's service names the party to ask, without reading the features."""
    error = json.loads(deployment.printed["alice"][-1])["error"]
    assert error["code"] == "wrong_party"
    assert "data owner" in error["message"]


def test_without_a_token_nothing_is_predicted(deployment: Deployment) -> None:
    """Bob's service wants a token."""
    assert deployment.bob.request("POST", "/predict", {"inputs": [_FEATURES]})[0] == 401


def test_the_data_owners_files_hold_no_weight(deployment: Deployment) -> None:
    """Byte by byte: no weight, in any float format, is anywhere in Bob's directory."""
    needles = [
        np.asarray(weight[:4], dtype).tobytes()
        for weight in (w.ravel() for w in deployment.weights)
        for dtype in ("<f4", ">f4", "<f8")
    ]
    assert holds_any(deployment.alice.directory / "bentoml", needles), "the search itself must find something"
    assert not holds_any(deployment.bob.directory, needles)


def test_the_network_carries_tls_records_and_no_planted_value(deployment: Deployment) -> None:
    """On every connection between the two hosts: TLS records only, no feature, no weight."""
    assert deployment.predict([_FEATURES])[0] == 200
    packets = list(read_packets(deployment.capture))
    streams = tcp_streams(packets)
    between = {
        key: data for key, data in streams.items() if {key[0], key[2]} == set(_ADDRESSES.values()) and data
    }
    assert sum(map(len, between.values())) > 100_000, "the link's traffic must be in the capture"
    not_tls = [key for key, data in between.items() if not is_tls(data)]
    assert not_tls == []
    features = np.asarray(_FEATURES)
    needles = [features[:2].astype("<f4").tobytes(), features[:2].astype("<f8").tobytes()]
    needles += [weight.ravel()[:2].tobytes() for weight in deployment.weights]
    needles += [str(_FEATURES[0]).encode()]
    for needle in needles:
        assert not any(needle in packet for packet in packets)


def test_a_restarted_party_is_served_again(deployment: Deployment) -> None:
    """Bob stops and serves again: the next session forms without anybody's help."""
    blocks = [
        b
        for b in _BLOCK.finditer((ROOT / "docs/deploy.md").read_text())
        if b["head"] == "# bob, keeps running"
    ]
    deployment.bob.stop()
    deployment.bob.serve_script(blocks[0]["body"])
    deployment.bob.wait_until_ready()
    status, body = deployment.predict([_FEATURES])
    assert status == 200, body
    assert np.allclose(json.loads(body)["outputs"], deployment.plaintext([_FEATURES]), atol=_TOLERANCE)


def holds_any(directory: Path, needles: list[bytes]) -> bool:
    """Whether any file below holds any of the needles."""
    for path in directory.rglob("*"):
        if (
            path.is_file()
            and not path.is_symlink()
            and "secure-runner" not in path.relative_to(directory).parts[:1]
        ):
            content = path.read_bytes()
            if any(needle in content for needle in needles):
                return True
    return False


def read_packets(path: Path) -> Iterator[bytes]:
    """Frames of a recording that is still being written."""
    content = path.read_bytes()
    at = 0
    while at + 4 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        yield content[at + 4 : at + 4 + length]
        at += 4 + length


def tcp_streams(packets: list[bytes]) -> dict[tuple[str, int, str, int], bytes]:
    """(source, port, destination, port) → what was sent, in order, each byte once."""
    segments: dict[tuple[str, int, str, int], dict[int, bytes]] = {}
    starts: dict[tuple[str, int, str, int], int] = {}
    for packet in packets:
        if packet[12:14] != b"\x08\x00" or packet[23] != 6:
            continue
        header = 14 + 4 * (packet[14] & 15)
        total = 14 + struct.unpack_from(">H", packet, 16)[0]
        source, destination = (".".join(map(str, packet[at : at + 4])) for at in (26, 30))
        source_port, destination_port, sequence = struct.unpack_from(">HHI", packet, header)
        payload = packet[header + 4 * (packet[header + 12] >> 4) : total]
        key = (source, source_port, destination, destination_port)
        if packet[header + 13] & 2:
            starts[key] = (sequence + 1) % 2**32
            segments[key] = {}
        elif payload and key in starts:
            offset = (sequence - starts[key]) % 2**32
            known = segments[key].get(offset, b"")
            segments[key][offset] = max(known, payload, key=len)
    return {key: _joined(parts) for key, parts in segments.items()}


def _joined(parts: dict[int, bytes]) -> bytes:
    stream = bytearray()
    for offset in sorted(parts):
        if offset > len(stream):
            break
        stream[offset : offset + len(parts[offset])] = parts[offset]
    return bytes(stream)


def is_tls(stream: bytes) -> bool:
    """Whether a stream is TLS records, one after the other (the last may be cut off)."""
    at = 0
    while at + 5 <= len(stream):
        kind, version, length = struct.unpack_from(">BHH", stream, at)
        if kind not in (20, 21, 22, 23) or version not in (0x0301, 0x0303) or length > 2**14 + 256:
            return False
        at += 5 + length
    return True
