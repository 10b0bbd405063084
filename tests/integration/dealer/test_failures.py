"""A dealer that is killed, hangs or restarts: the parties know it at once, and a new session works."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.dealt_parties import SEMI2K, configs, record, register
from benchmarks.spu_parties import PartyError, SpuParties, compile_function
from secure_runner.dealer import DealerClient, DealerConfig, DealerProcess, JobWatch

_NOTICED_WITHIN_S = 5.0
_X = np.ones((2, 3), np.float32)


def _square_sum(x):
    return (x * x).sum()


@pytest.fixture
def own_dealer() -> Iterator[DealerProcess]:
    with DealerProcess(DealerConfig()) as process:
        yield process


def _watched(dealer: DealerProcess, job: str) -> tuple[threading.Event, list[str]]:
    compiled = compile_function(_square_sum, _X)
    grants = register(dealer.address, dealer.public_key, job, record(compiled, [_X], SEMI2K))
    lost, reasons = threading.Event(), []

    def on_lost(reason: str) -> None:
        reasons.append(reason)
        lost.set()

    client = DealerClient(dealer.address, dealer.public_key)
    JobWatch(client, grants[0].handle, on_lost).start()
    return lost, reasons


def test_a_killed_dealer_is_noticed(own_dealer: DealerProcess) -> None:
    """The watch tells that the dealer does not answer."""
    lost, reasons = _watched(own_dealer, "killed")
    os.kill(own_dealer.pid, signal.SIGKILL)

    assert lost.wait(_NOTICED_WITHIN_S)
    assert "no answer" in reasons[0]


def test_a_hung_dealer_is_noticed(own_dealer: DealerProcess) -> None:
    """So it does when the dealer's connections stay open and nothing comes."""
    lost, reasons = _watched(own_dealer, "hung")
    os.kill(own_dealer.pid, signal.SIGSTOP)
    noticed = lost.wait(_NOTICED_WITHIN_S)
    os.kill(own_dealer.pid, signal.SIGCONT)

    assert noticed
    assert "ReadTimeout" in reasons[0]


def test_a_restarted_dealer_does_not_know_the_job() -> None:
    """A dealer on the same port without the job is a lost job, not a job that waits."""
    with DealerProcess(DealerConfig()) as first:
        port = int(first.address.rpartition(":")[2])
        lost, reasons = _watched(first, "restarted")
    with DealerProcess(DealerConfig(port=port)):
        assert lost.wait(_NOTICED_WITHIN_S)
    assert "no answer" in reasons[0] or "no such job" in reasons[0]


def test_a_new_job_works_after_the_dealer_restarted(
    own_dealer: DealerProcess, two_parties: SpuParties
) -> None:
    """The old runtime fails at once at the adjusting party; new processes with a new job compute."""
    compiled = compile_function(_square_sum, _X)
    transcript = record(compiled, [_X], SEMI2K)
    grants = register(own_dealer.address, own_dealer.public_key, "before", transcript)
    two_parties.open("before", configs(own_dealer.address, grants, SEMI2K))
    two_parties.run("before", compiled, [_X], SEMI2K)
    own_dealer.close()
    with pytest.raises(PartyError):
        two_parties.run("before", compiled, [_X], SEMI2K)

    with DealerProcess(DealerConfig()) as second, SpuParties(2) as fresh:
        grants = register(second.address, second.public_key, "after", transcript)
        fresh.open("after", configs(second.address, grants, SEMI2K))
        outputs, _ = fresh.run("after", compiled, [_X], SEMI2K)
    np.testing.assert_allclose(outputs[0], 6.0, atol=1e-3)


def test_the_dealer_ends_with_its_parent() -> None:
    """Closing standard input, which is what a dying parent does, ends the process."""
    process = DealerProcess(DealerConfig())
    process._process.stdin.close()

    process._process.wait(_NOTICED_WITHIN_S)
    assert not process.is_running
    process.close()
