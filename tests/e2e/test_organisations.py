"""Organisations on hosts of their own follow docs/deploy.md to the letter, once for each protocol."""

from __future__ import annotations

import itertools
import json
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deploy_page import Followed
from organisations import Network, can_make_hosts, recorded

pytestmark = [
    pytest.mark.skipif(not can_make_hosts(), reason="needs root and iproute2 to make hosts"),
    pytest.mark.timeout(900),
]

_TOLERANCE = 1e-3
_COUNTED_AFTER_S = 1.0
"""A batch is counted with those of the same quarter of a second."""
# Distinctive values: the features that Bob's application sends.
_FEATURES = [0.7317318, -1.2345679, 0.9876543, 1.4142135, -0.5772157, 1.6180340]


@pytest.fixture(scope="module", params=["cheetah", "aby3", "semi2k"])
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Followed, Path]]:
    """All hosts after every step of the page, and the recording of what crossed the switch."""
    # Short: below it are Unix sockets, whose paths have 107 characters at most.
    directory = tmp_path_factory.mktemp(request.param)
    with Network() as network:
        followed = Followed.make(request.param, network, directory)
        with recorded(network, directory / "packets"):
            try:
                followed.follow()
                yield followed, directory / "packets"
            finally:
                followed.stop()


@pytest.fixture
def followed(deployment: tuple[Followed, Path]) -> Followed:
    """The organisations."""
    return deployment[0]


def test_the_page_ends_in_right_predictions(followed: Followed) -> None:
    """The application's curl of the page prints the prediction; any other row is right too, to 1e-3."""
    said = json.loads(followed.printed["application"][-1])["outputs"]
    assert np.allclose(said, followed.plaintext([[0.5, -1.0, 0.25, 2.0, 0.0, 1.5]]), atol=_TOLERANCE)
    rows = [_FEATURES, [0.0] * 6, [1.0] * 6]
    status, body = followed.predict(rows)
    assert status == 200, body
    assert np.allclose(json.loads(body)["outputs"], followed.plaintext(rows), atol=_TOLERANCE)


def test_the_model_owner_refuses_predictions_and_says_why(followed: Followed) -> None:
    """Alice's service names the party to ask, without reading the features."""
    error = json.loads(followed.printed["alice"][-1])["error"]
    assert error["code"] == "wrong_party"
    assert "data owner" in error["message"]


def test_who_answers_no_predictions_answers_none_whatever_is_asked(followed: Followed, tried: Any) -> None:
    """Alice's, Carol's and Dora's services, on every path, BentoML's own too: no prediction, weight or 5xx.

    And no batch: nobody can spend what Alice allows Bob through them.
    """
    batches = computed_rows(followed)
    for name, party in followed.parties.items():
        if name == "bob":
            continue
        command = [sys.executable, str(Path(__file__).with_name("try_surface.py")), party.url]
        done = subprocess.run(
            followed.network.command(name, *command), capture_output=True, text=True, check=True
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert any(what.startswith("GET /livez") and status == 200 for what, status, _ in answers)
        for what, status, text in answers:
            tried.status("HTTP of parties that answer no predictions", status or 400)
            assert status < 500, (name, what, text)
            assert '"outputs":' not in text or "/manifest" in what, (name, what)
            assert not (status == 200 and what.startswith(("POST", "PUT"))), (name, what, text)
            for weight in (w for matrix in followed.weights for w in matrix.ravel()[:4]):
                assert f"{weight:.5f}"[:-1] not in text, (name, what)
    assert computed_rows(followed) == batches
    assert followed.predict([_FEATURES])[0] == 200


def computed_rows(followed: Followed) -> str:
    """What Alice's metrics say of rows computed, warm-ups included, once all that ran is counted."""
    time.sleep(_COUNTED_AFTER_S)
    _, text = followed.parties["alice"].request("GET", "/metrics")
    return "\n".join(
        line for line in text.splitlines() if line.startswith("secure_runner_computed_rows_total")
    )


def test_without_a_token_nothing_is_predicted(followed: Followed) -> None:
    """Bob's service wants a token."""
    bob = followed.parties["bob"]
    assert bob.request("POST", "/predict", {"inputs": [_FEATURES]}, client="application")[0] == 401


def test_no_weight_is_in_the_files_of_the_others(followed: Followed) -> None:
    """Byte by byte: no weight, in any float format, is anywhere in a directory but Alice's."""
    needles = [
        np.asarray(weight[:4], dtype).tobytes()
        for weight in (w.ravel() for w in followed.weights)
        for dtype in ("<f4", ">f4", "<f8")
    ]
    found = {name for name, host in followed.everyone.items() if holds_any(host.directory, needles)}
    assert found == {"alice"}, "at Alice the search must find something, elsewhere nothing"


def test_the_network_carries_tls_records_and_no_planted_value(deployment: tuple[Followed, Path]) -> None:
    """On every connection between two parties: TLS records only, no feature, no weight."""
    followed, recording = deployment
    assert followed.predict([_FEATURES])[0] == 200
    packets = list(read_packets(recording))
    streams = {key: data for key, data in tcp_streams(packets).items() if data}
    parties = {followed.network.hosts[name] for name in followed.parties}
    pairs = {frozenset((source, destination)) for source, _, destination, _ in streams}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(parties, 2)}, "all must be recorded"
    assert sum(map(len, streams.values())) > 100_000, "the link's traffic must be in the recording"
    assert [key for key, data in streams.items() if not is_tls(data)] == []
    features = np.asarray(_FEATURES)
    needles = [features[:2].astype("<f4").tobytes(), features[:2].astype("<f8").tobytes()]
    needles += [weight.ravel()[:2].tobytes() for weight in followed.weights]
    needles += [str(_FEATURES[0]).encode()]
    assert any(b"alice" in packet for packet in packets), "the search itself must find a name in a handshake"
    for needle in needles:
        assert not any(needle in packet for packet in packets)


@pytest.mark.parametrize("deployment", ["cheetah"], indirect=True)
def test_a_renewed_certificate_is_taken_up_without_a_pause(followed: Followed) -> None:
    """Files replaced as the page says, no server restarted: a new session shows them, and none is refused."""
    bob = followed.parties["bob"]
    before = (bob.directory / "certs/bob.pem").read_text()
    followed.follow("Rotating certificates")
    renewed = (bob.directory / "certs/bob.pem").read_text()
    assert renewed != before
    until = time.monotonic() + 120
    while certificates_shown(followed) != {renewed}:
        assert time.monotonic() < until, bob.log[-3000:]
        assert followed.predict([_FEATURES])[0] == 200
    assert followed.predict([_FEATURES])[0] == 200


def certificates_shown(followed: Followed) -> set[str]:
    """What Bob's control channels show to Alice, of both slots, where one listens; PEM."""
    shown = set()
    for port in (9001, 9003):
        connect = f"openssl s_client -connect 10.77.0.11:{port} -cert certs/alice.pem -key certs/alice.key"
        said = followed.parties["alice"].script(f"{connect} </dev/null 2>/dev/null || true")
        if found := re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", said, re.DOTALL):
            shown.add(found[0])
    return shown


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
