"""The relay at the adjusting party, between a real dealer and clients that ask as SPU's does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from benchmarks.adjusting_party import AdjustingParty, RefusedError, check_answer, seal
from benchmarks.dealt_parties import register
from secure_runner.dealer import DealerClient, DealerConfig, DealerLimits, DealerProcess, Relay, Transcript
from secure_runner.dealer.steps import Step
from secure_runner.errors import AgreementError, UnavailableError

_STEPS = [
    Step("Mul", 8, (16,)),
    Step("RandBit", 8, (64,)),
    Step("TruncPr", 8, (16, 18)),
    Step("Mul", 8, (3,)),
]
_TRANSCRIPT = Transcript.of(_STEPS)
_WITHIN_S = 5.0
_jobs = iter(range(1_000_000))


@pytest.fixture
def own_dealer() -> Iterator[DealerProcess]:
    with DealerProcess(DealerConfig()) as process:
        yield process


@dataclass
class _Job:
    dealer: DealerProcess
    transcript: Transcript = _TRANSCRIPT
    ahead_bytes: int = 32 << 20
    lost: threading.Event = field(default_factory=threading.Event)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        address, identity = self.dealer.address, self.dealer.public_key
        (grant, _) = register(address, identity, f"relay-{next(_jobs)}", self.transcript)
        self.handle = grant.handle
        self.client = DealerClient(address, identity)
        self.seeds = [os.urandom(16), os.urandom(16)]
        self.ciphertexts = [seal(grant.public_key, seed) for seed in self.seeds]
        self.relay = Relay(
            self.client, grant.handle, self.transcript, self._lose, ahead_bytes=self.ahead_bytes
        )

    def _lose(self, reason: str) -> None:
        self.reasons.append(reason)
        self.lost.set()

    def party(self) -> AdjustingParty:
        return AdjustingParty(self.relay.address, self.ciphertexts)


def test_relayed_answers_are_right_run_after_run(dealer: DealerProcess) -> None:
    """Twenty runs, each answer checked, on two connections in turn: one may break at any time."""
    job = _Job(dealer)
    party = job.party()
    for run in range(20):
        if run % 5 == 4:
            fresh = job.party()
            fresh.counter = party.counter
            party = fresh
        for step in _STEPS:
            counter = party.counter
            check_answer(step, job.seeds, counter, party.ask(step))
    job.relay.close()


def test_jobs_run_side_by_side(dealer: DealerProcess) -> None:
    """Four sessions at once, of three element sizes each: every one gets its own corrections."""
    mixed = [Step("Mul", 8, (16,)), Step("And", 16, (8,)), Step("MulPriv", 4, (16,)), Step("Mul", 16, (4,))]

    def run(job: _Job) -> list[bytes]:
        party = job.party()
        answers = []
        for step in mixed * 5:
            counter = party.counter
            answers.append(party.ask(step))
            if step.field_bytes == 8 or step.operation == "And":
                check_answer(step, job.seeds, counter, answers[-1])
        return answers

    jobs = [_Job(dealer, Transcript.of(mixed)) for _ in range(4)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(run, jobs))

    assert len({answer for given in answers for answer in given}) == len(jobs) * len(mixed) * 5


def test_what_a_relay_holds_is_bounded(dealer: DealerProcess) -> None:
    """It has some runs in hand before SPU asks for them, and no more, however long it waits."""
    job = _Job(dealer)
    job.party().ask(_STEPS[0])
    most = 0
    for _ in range(50):
        time.sleep(0.01)
        most = max(most, job.client.status(job.handle)["served"])

    assert len(_STEPS) < most < 8 * len(_STEPS)


def test_large_corrections_stay_within_memory() -> None:
    """What waits is bounded in bytes too, at the relay and at the dealer, whatever a run needs."""
    ahead_bytes, step = 1 << 20, Step("Mul", 8, (1 << 15,))
    step_bytes = sum(step.output_bytes)
    with DealerProcess(DealerConfig(limits=DealerLimits(lookahead_bytes=ahead_bytes))) as frugal:
        job = _Job(frugal, Transcript.of([step] * 50), ahead_bytes)
        party = job.party()
        for _ in range(60):
            counter = party.counter
            check_answer(step, job.seeds, counter, party.ask(step))
            assert job.relay._answers is not None
            assert job.relay._answers.pending_bytes < 2 * (ahead_bytes + 2 * step_bytes)


def test_a_request_outside_the_transcript_ends_the_job(dealer: DealerProcess) -> None:
    """SPU is told by the relay, the other parties by the dealer, who no longer has the job."""
    job = _Job(dealer)
    party = job.party()
    party.ask(_STEPS[0])
    with pytest.raises(RefusedError, match=r"expected step 2 of 4, RandBit"):
        party.ask_at(Step("Square", 8, (16,)), party.counter)
    with pytest.raises(RefusedError, match="outside the registered transcript"):
        party.ask(_STEPS[1])

    with pytest.raises(UnavailableError, match="no such job"):
        _ask_after(job)


def test_a_repeated_request_gets_the_same_bytes(dealer: DealerProcess) -> None:
    """SPU's client repeats a request whose answer got lost with its connection."""
    job = _Job(dealer)
    party = job.party()
    counter = _STEPS[0].blocks
    party.ask(_STEPS[0])
    bits = party.ask(_STEPS[1])

    assert job.party().ask_at(_STEPS[1], counter) == bits


def test_other_processes_are_not_served(dealer: DealerProcess) -> None:
    """A process of the same machine, even with the right ciphertexts, gets its connection closed."""
    job = _Job(dealer)
    host, _, port = job.relay.address.rpartition(":")
    ask = f"s = socket.create_connection(({host!r}, {port})); s.sendall(b'POST'); print(s.recv(9))"
    command = [sys.executable, "-c", f"import socket; {ask}"]

    out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert "b''" in out.stdout or "ConnectionResetError" in out.stderr
    check_answer(_STEPS[0], job.seeds, 0, job.party().ask(_STEPS[0]))


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"POST /spu.mpc.semi2k.beaver.ttp_server.BeaverService/AdjustMul HTTP/1.1\r\n\r\n",
        b"POST /spu.mpc.semi2k.beaver.ttp_server.BeaverService/AdjustMul HTTP/1.1\r\n"
        b"content-length: 2\r\n\r\n{}and more",
        b"a" * 70_000,
    ],
    ids=["no_http", "another_path", "no_body", "pipelined", "endless"],
)
def test_what_is_no_request_of_spus_is_not_served(dealer: DealerProcess, data: bytes) -> None:
    """It is refused or its connection closes; nothing is handed out."""
    job = _Job(dealer)
    host, _, port = job.relay.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1 << 16)
        except ConnectionError:
            answer = b""
    assert answer == b"" or b"not JSON" in answer


def test_a_lost_dealer_is_told(own_dealer: DealerProcess) -> None:
    """When nothing is in hand any more, SPU's request ends in an error, and the party is told why. (A hung
    dealer is noticed by the watch of the job.)"""
    job = _Job(own_dealer)
    party = job.party()
    party.ask(_STEPS[0])
    os.kill(own_dealer.pid, signal.SIGKILL)

    with pytest.raises(RefusedError, match="no answer from the dealer"):
        _run_on(party)

    assert job.lost.wait(_WITHIN_S)
    assert "no answer" in job.reasons[0]


def test_the_dealer_hands_out_the_transcript_in_order_and_nothing_else(dealer: DealerProcess) -> None:
    """Not from further on, not again from further back, not for other seeds, not for a job that is over."""
    job = _Job(dealer)
    first = job.client.corrections(job.handle, 0, job.ciphertexts)
    assert job.client.corrections(job.handle, 0, job.ciphertexts) == first
    served = job.client.status(job.handle)["served"]
    with pytest.raises(AgreementError, match=f"from number {served} on"):
        job.client.corrections(job.handle, served + 1, job.ciphertexts)
    job.client.corrections(job.handle, served, job.ciphertexts)
    with pytest.raises(AgreementError, match="expected to be asked"):
        job.client.corrections(job.handle, 0, job.ciphertexts)
    with pytest.raises(AgreementError, match="with other seeds"):
        job.client.corrections(job.handle, served, list(reversed(job.ciphertexts)))
    with pytest.raises(AgreementError, match="no such job"):
        job.client.corrections("0" * 32, served, job.ciphertexts)
    other = _Job(dealer)
    with pytest.raises(AgreementError, match="seed of rank 0"):
        other.client.corrections(other.handle, 0, job.ciphertexts)
    with pytest.raises(AgreementError, match="one seed for each of the 2 parties"):
        other.client.corrections(other.handle, 0, [*other.ciphertexts, job.ciphertexts[0]])


def _ask_after(job: _Job) -> None:
    until = time.monotonic() + _WITHIN_S
    while time.monotonic() < until:
        job.client.status(job.handle)


def _run_on(party: AdjustingParty) -> None:
    for _ in range(20):
        for step in (*_STEPS[1:], _STEPS[0]):
            party.ask(step)
