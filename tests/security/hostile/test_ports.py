"""What is no message, sent to every port of two parties and a dealer: closed, and they serve on.

So is what deviates, from a party that may speak to the dealer.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from benchmarks.adjusting_party import AdjustingParty, RefusedError, seal
from benchmarks.dealt_parties import register
from secure_runner.dealer import DealerClient, DealerConfig, DealerProcess, TlsFiles, Transcript
from secure_runner.dealer.requests import PATH_PREFIX
from secure_runner.dealer.steps import Step
from secure_runner.errors import AgreementError, UnavailableError
from secure_runner.sessions.messages import End, Start

ATOL = 1e-2
_SEED = 20
_HELD = 40
_PATIENCE_S = 0.4
_PLANTED = "never-repeat-this"
_PARTIES = ("model-owner", "data-owner")
_MUL, _RAND_BIT = Step("Mul", 8, (16,)), Step("RandBit", 8, (16,))
_LARGE = 4 << 20
"""Above the largest coordination message, and above what SPU's and gRPC's own ports take as a head."""


@dataclass(frozen=True)
class Port:
    """A port of a party, and whose certificate is a peer's there."""

    what: str
    party: str
    peer: str
    address: tuple[str, int]


@dataclass(frozen=True)
class Dealt:
    """Two parties in session over mutual TLS, and their dealer."""

    made: Any
    parties: dict[str, Any]
    dealer: DealerProcess
    log: Path
    """Of all of them."""

    def files(self, name: str) -> TlsFiles:
        """What a party shows to the dealer."""
        directory = self.made.directory
        certificate, key, authority = (directory / f for f in (f"{name}.pem", f"{name}.key", "ca.pem"))
        return TlsFiles(certificate_file=certificate, key_file=key, ca_file=authority)

    def client(self, name: str) -> DealerClient:
        """A party's client of the dealer."""
        address, key = self.dealer.address, self.dealer.public_key
        return DealerClient(address, key, tls=self.files(name), server_name="dealer")


@pytest.fixture(scope="module")
def dealt(deploy, tls_cluster_in, small_files, tmp_path_factory) -> Iterator[Dealt]:
    """Real processes of all three, in session."""
    made = tls_cluster_in(tmp_path_factory.mktemp("dealt"), "semi2k")
    found = Dealt(made, {}, None, made.directory / "processes.log")  # type: ignore[arg-type]
    at = made.cluster.dealing(listen=True)
    with contextlib.ExitStack() as running:
        with _standard_error_in(found.log):
            config = DealerConfig(host=at.host, port=at.port, tls=found.files("dealer"))
            dealer = running.enter_context(DealerProcess(config))
            files = {"model-owner": small_files, "data-owner": replace(small_files, params_file=None)}
            for name in _PARTIES:
                settings = made.settings_with(name, name, dealer_key=dealer.public_key)
                found.parties[name] = deploy(files=files[name], settings=settings, wait=False)
            for party in found.parties.values():
                party.wait_ready()
        yield replace(found, dealer=dealer)
        for party in found.parties.values():
            party.stop()


@contextlib.contextmanager
def _standard_error_in(file: Path) -> Iterator[None]:
    """Processes that are started meanwhile write their errors there."""
    kept = os.dup(2)
    try:
        with file.open("wb") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ports(cluster) -> Iterator[Port]:
    parties = cluster.ranked_parties
    yield Port("dealer", "dealer", parties[1], cluster.dealing())
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
    found |= _requests_of_a_dealer()
    found |= {f"noise {n}": draw.randbytes(draw.randint(1, 3000)) for n in range(9)}
    return found


def _requests_of_a_dealer() -> dict[str, bytes]:
    """Name → bytes: of its paths, with what does not belong there."""

    def post(path: str, body: bytes, *lines: str) -> bytes:
        head = [f"POST {path} HTTP/1.1", "host: x", *(lines or [f"content-length: {len(body)}"])]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body

    planted = json.dumps({"job": _PLANTED, "prg_inputs": [{"encrypted_seeds": [_PLANTED] * 2}]}).encode()
    seeds = json.dumps({"first": 0, "encrypted_seeds": [_PLANTED, "b"]}).encode()
    adjust = f"{PATH_PREFIX}AdjustMul"
    return {
        "registration of nobody": post("/jobs", planted),
        "half a registration": post("/jobs", planted[:20], "content-length: 900"),
        "registration of 1 GiB": post("/jobs", b"{}", f"content-length: {1 << 30}", f"x: {_PLANTED}"),
        "endless registration": post("/jobs", b"ffffff\r\n" + bytes(_LARGE), "transfer-encoding: chunked"),
        "two lengths": post("/jobs", b"{}0\r\n\r\n", "content-length: 2", "transfer-encoding: chunked"),
        "no operation": post(f"{PATH_PREFIX}{_PLANTED}", planted),
        "corrections of no job": post(adjust, planted),
        "large corrections": post(adjust, planted + b" " * (1 << 20)),
        "nested corrections": post(adjust, b"[" * 60_000),
        "another's corrections": post(f"/jobs/{'0' * 32}/corrections", seeds),
        "another's job": f"DELETE /jobs/{_PLANTED} HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
        "two requests": post(adjust, planted) * 2,
    }


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
def test_ports_take_nothing_that_is_no_message(dealt, small_model, tried, identity):
    """Plain, over TLS without a certificate, with a stranger's and with the peer's own.

    The session that serves is the same one afterwards and its answers are right. No port says anything of
    the process behind it, as SPU's server could about its flags and variables; and no log repeats
    anything of what came.
    """
    made = dealt.made
    data_owner = dealt.parties["data-owner"]
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
        tried.answer(f"ports, {identity}", b"" if _is_refusal_to_spu(answer) else answer)
        assert b"HTTP/1.1 5" not in answer
        assert b"200 OK" not in answer or _is_refusal_to_spu(answer)
        assert b"usercode" not in answer
    _check(data_owner, small_model)
    assert data_owner.epoch == epoch
    _check_log(dealt)


def _is_refusal_to_spu(answer: bytes) -> bool:
    """The dealer answers SPU's client by 200 and frames; one that is no correction does not begin with 0."""
    head, _, frame = answer.partition(b"\r\n\r\n")
    return b"200 OK" in head and b"octet-stream" in head and frame[:1] not in (b"", b"\0")


class DealersJob:
    """A job of both parties at the dealer, beside those of the session that serves."""

    def __init__(self, dealt: Dealt, name: str, transcript: Transcript) -> None:
        self._dealt = dealt
        dealer, tls = dealt.dealer, [dealt.files(party) for party in _PARTIES]
        grants = register(dealer.address, dealer.public_key, name, transcript, tls=tls, server_name="dealer")
        self.handle = grants[0].handle
        self.seeds = [seal(grants[0].public_key, os.urandom(16)) for _ in _PARTIES]

    def asking(self, party: str = "data-owner", seeds: list[str] | None = None) -> AdjustingParty:
        """A connection of a party that asks for corrections."""
        context = self._dealt.files(party).client_context()
        return AdjustingParty(self._dealt.dealer.address, seeds or self.seeds, context)

    def end(self, party: str) -> None:
        """Tell the dealer that it is over."""
        with self._dealt.client(party) as client:
            client.end(self.handle)


_REFUSALS = (RefusedError, AgreementError, UnavailableError)


def test_a_party_that_deviates_at_the_dealer_ends_its_own_job_and_nothing_else(dealt, small_model, tried):
    """Replayed, reordered, mixed, too late, along other transcripts than pinned, in another's name: refused.

    All certificates are real ones. The session that serves is the same one afterwards, its answers are right,
    and no log has any of the seeds and handles.
    """
    data_owner = dealt.parties["data-owner"]
    data_owner.wait_ready()
    epoch = data_owner.epoch
    pinned, other = Transcript.of([_MUL, _RAND_BIT]), Transcript.of([_RAND_BIT, _MUL])
    names = [f"deviating-{number}" for number in range(3)]
    mixed, ended, reordered = jobs = [DealersJob(dealt, name, pinned) for name in names]
    asked, over, early = (job.asking() for job in jobs)
    right = asked.ask(_MUL)
    assert mixed.asking().ask_at(_MUL, 0) == right, "asked again, the same: nothing new is told"
    assert over.ask(_MUL)
    ended.end("model-owner")
    attempts = {
        "the other party's corrections": lambda: mixed.asking("model-owner").ask_at(_RAND_BIT, asked.counter),
        "another job's seed": lambda: mixed.asking(seeds=[mixed.seeds[0], reordered.seeds[1]]).ask(_MUL),
        "the seeds swapped": lambda: mixed.asking(seeds=mixed.seeds[::-1]).ask(_MUL),
        "another step over masks of the last": lambda: asked.ask_at(_RAND_BIT, 0),
        "what would have come next": lambda: asked.ask(_RAND_BIT),
        "the last step first": lambda: early.ask(_RAND_BIT),
        "the first one after it": lambda: early.ask_at(_MUL, 0),
        "a session that is over, on its connection": lambda: over.ask(_RAND_BIT),
        "a session that is over, on another": lambda: ended.asking().ask(_MUL),
        "an end told twice": lambda: ended.end("data-owner"),
        "a name used before": lambda: DealersJob(dealt, names[0], pinned),
        "a name used before, another transcript": lambda: DealersJob(dealt, names[0], other),
    }
    for what, attempt in attempts.items():
        with pytest.raises(_REFUSALS), tried.reading("dealer, parties that deviate", _REFUSALS):
            assert attempt() is None, what
    _check(data_owner, small_model)
    assert data_owner.epoch == epoch
    _check_log(dealt, *(secret for job in jobs for secret in (job.handle, *job.seeds)))


def test_clients_that_say_nothing_hold_nobody_up(dealt, small_model):
    """Connections that stay open and silent, or send a byte and wait: others are served meanwhile."""
    made, parties = dealt.made, dealt.parties
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


def _check_log(dealt: Dealt, *secrets: str) -> None:
    """It has lines, and in none of them is what was sent, nor the path of a job."""
    log = dealt.log.read_text()
    assert "listening on" in log
    for secret in (_PLANTED, "/jobs/", "Traceback", "PRIVATE KEY", *secrets):
        assert secret not in log
