"""What is no message, sent to every port of two parties in session: closed, and they serve on."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import trustme

from secure_runner.sessions.messages import End, Start

ATOL = 1e-2
_SEED = 20
_HELD = 40
_PATIENCE_S = 0.4
_LARGE = 4 << 20
"""Above the largest coordination message, and above what SPU's and gRPC's own ports take as a head."""


@dataclass(frozen=True)
class Port:
    """A port of a party, and whose certificate is a peer's there."""

    what: str
    party: str
    peer: str
    address: tuple[str, int]


def _ports(cluster) -> Iterator[Port]:
    parties = cluster.ranked_parties
    yield Port("coordination", parties[0], parties[1], cluster.coordination(parties[0]))
    for party, peer in (parties, parties[::-1]):
        for slot in (0, 1):
            addresses = cluster.addresses(party, 0, slot)
            yield Port(f"control {slot}", party, peer, addresses.control)
            yield Port(f"link {slot}", party, peer, addresses.link)


def _inputs() -> dict[str, bytes]:
    """Name → bytes: what other protocols say, lies about lengths, halves of messages, noise."""
    draw = random.Random(_SEED)
    start = Start(session_id="s", epoch=9, lane=0, slot=0).model_dump_json().encode()
    end = End(epoch=1, lane=0).model_dump_json().encode()
    framed = [len(body).to_bytes(4, "big") + body for body in (start, end)]
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    found = {
        "nothing": b"",
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "http": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "flags": b"GET /flags HTTP/1.1\r\nhost: x\r\n\r\n",
        "variables": b"GET /vars HTTP/1.1\r\nhost: x\r\n\r\n",
        "chunks": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n",
        "head": b"GET /" + b"a" * _LARGE,
        "http2": preface + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        "http2 length": preface + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        "brpc length": b"PRPC\xff\xff\xff\xff\x00\x00\x00\x10",
        "brpc noise": b"PRPC\x00\x00\x00\x20\x00\x00\x00\x10" + draw.randbytes(32),
        "early start": framed[0],
        "early end": framed[1],
        "both at once": b"".join(framed),
        "half a message": framed[0][: len(framed[0]) // 2],
        "length of 4 GiB": b"\xff\xff\xff\xff{}",
        "length of none": bytes(4),
        "nested": (200_000).to_bytes(4, "big") + b"[" * 200_000,
        "pickle": b"\x80\x04\x95" + bytes(8) + b"cos\nsystem\n",
    }
    hello = {"type": "hello", "party": "data-owner", "versions": {"x" * 200: "y"}}
    body = json.dumps(hello).encode()
    found["half a hello"] = len(body).to_bytes(4, "big") + body
    found |= {f"noise {n}": draw.randbytes(draw.randint(1, 3000)) for n in range(9)}
    return found


def _context(made, shown: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        context.load_cert_chain(made.directory / f"{shown}.pem", made.directory / f"{shown}.key")
    return context


def _send(port: Port, data: bytes, context: ssl.SSLContext | None) -> bytes:
    """Send, and read what comes back before the port closes or patience ends."""
    received = b""
    with contextlib.suppress(OSError), socket.create_connection(port.address, timeout=5) as plain:
        plain.settimeout(_PATIENCE_S)
        with context.wrap_socket(plain) if context is not None else plain as connection:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
    return received


@pytest.mark.parametrize("identity", ["plain", "no certificate", "stranger", "peer"])
def test_ports_take_nothing_that_is_no_message(tls_pair, small_model, tried, identity):
    """Plain, over TLS without a certificate, with a stranger's and with the peer's own.

    The session that serves is the same one afterwards and its answers are right. No port says anything of
    the process behind it, as SPU's server could about its flags and variables.
    """
    made, parties = tls_pair
    data_owner = parties["data-owner"]
    made.issue("stranger", "data-owner", "model-owner", authority=trustme.CA())
    data_owner.wait_ready()
    epoch = data_owner.epoch

    def attack(port: Port, data: bytes) -> bytes:
        if identity == "plain":
            return _send(port, data, None)
        shown = {"no certificate": None, "stranger": "stranger", "peer": port.peer}[identity]
        return _send(port, data, _context(made, shown))

    attacks = [(port, data) for port in _ports(made.cluster) for data in _inputs().values()]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda one: attack(*one), attacks))
    assert len(answers) == len(attacks)
    for answer in answers:
        tried.answer(f"parties' ports, {identity}", answer)
    assert not [answer for answer in answers if b"200 OK" in answer or b"usercode" in answer]
    _check(data_owner, small_model)
    assert data_owner.epoch == epoch


def test_clients_that_say_nothing_hold_nobody_up(tls_pair, small_model):
    """Connections that stay open and silent, or send a byte and wait: others are served meanwhile."""
    made, parties = tls_pair
    with contextlib.ExitStack() as held:
        for port in _ports(made.cluster):
            for number in range(_HELD):
                with contextlib.suppress(OSError):
                    slow = held.enter_context(socket.create_connection(port.address, timeout=5))
                    if number % 2:
                        slow.sendall(b"\x16")
        _check(parties["data-owner"], small_model)
        # A renewed session opens control channel and link anew while the silent connections are held.
        epoch = parties["data-owner"].epoch
        made.issue("data-owner")
        parties["data-owner"].wait_until(lambda: parties["data-owner"].epoch > epoch, 90)
        _check(parties["data-owner"], small_model)


def _check(data_owner, small_model):
    rows = small_model.rows[:5]
    np.testing.assert_allclose(data_owner.predict(rows), small_model.expected(rows), rtol=0, atol=ATOL)
