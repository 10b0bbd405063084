"""Parties that die or hang: noticed at once, replaced by new processes, and never a wrong answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import numpy as np
import psutil
import pytest

from secure_runner.errors import UnavailableError

PARTIES = ("model-owner", "data-owner", "helper")
ATOL = 1e-3
# The link itself notices a dead peer after its receive timeout of 30 s, a run after 120 s.
NOTICED_S = 10.0


@pytest.fixture(scope="module")
def deployed(deploy):
    return deploy(protocol="aby3")


def _processes_of(party: str) -> list[psutil.Process]:
    """In session, in the session in reserve, standing by."""
    return [process for process, command in _commands().items() if party in command]


def _commands() -> dict[psutil.Process, list[str]]:
    """Command of each living child: one that was killed is no longer there, waited for already or not."""
    found = {}
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found[child] = child.cmdline()
    return found


def _all_gone(pids: dict[str, int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids.values())


@pytest.mark.parametrize("party", PARTIES)
def test_a_killed_party_ends_the_session_and_the_next_one_serves(deployed, small_model, party):
    """Under load: all processes replaced, only right answers or UnavailableError.

    A request that was in flight is answered by the next session: one death costs its client time only.
    """
    deployed.wait_ready()
    before, epoch = deployed.processes, deployed.epoch
    assert set(before) == set(PARTIES)
    with deployed.load(small_model) as load:
        deployed.wait_until(lambda: load.right > 5, 60)
        many = np.tile(small_model.rows, (8, 1))
        in_flight = deployed.submit(many)
        time.sleep(0.1)
        assert not in_flight.done(), "it must be in flight for this to show anything"
        os.kill(before[party], signal.SIGKILL)
        deployed.wait_until(lambda: _all_gone(before), NOTICED_S)
        deployed.wait_ready()
        served = load.right
        deployed.wait_until(lambda: load.right > served + 5, 60)
        answer = in_flight.result(120)["y"]
    np.testing.assert_allclose(answer, small_model.expected(many), rtol=0, atol=ATOL)
    assert deployed.epoch > epoch
    assert not set(before.values()) & set(deployed.processes.values())
    assert load.wrong == 0
    assert all(isinstance(error, UnavailableError) for error in load.errors), load.errors


def test_a_party_that_hangs_is_replaced(deployed, small_model):
    """A process that lives but does not answer ends the session as a dead one does."""
    deployed.wait_ready()
    before, epoch = deployed.processes, deployed.epoch
    os.kill(before["helper"], signal.SIGSTOP)
    in_flight = deployed.submit(small_model.rows[:3])
    deployed.wait_until(lambda: deployed.epoch > epoch, 60)
    deployed.wait_ready()
    # The reserve has taken over; the processes of the session before end beside it.
    deployed.wait_until(lambda: _all_gone(before), NOTICED_S)
    np.testing.assert_allclose(
        in_flight.result(120)["y"], small_model.expected(small_model.rows[:3]), rtol=0, atol=ATOL
    )


def test_a_session_in_reserve_takes_over(deployed, small_model):
    """It has been formed before the fault: its processes are the ones that serve after it."""
    deployed.wait_ready()
    in_session = deployed.processes
    deployed.wait_until(lambda: all(len(_processes_of(party)) == 3 for party in PARTIES), 60)
    waiting = {p.pid for party in PARTIES for p in _processes_of(party)} - set(in_session.values())
    deployed.wait_until(lambda: deployed.deployment.status()["lanes"][0]["reserve"], 60)
    os.kill(in_session["helper"], signal.SIGKILL)
    deployed.wait_until(lambda: _all_gone(in_session), NOTICED_S)
    deployed.wait_ready()
    assert set(deployed.processes.values()) <= waiting
    np.testing.assert_allclose(
        deployed.predict(small_model.rows), small_model.expected(small_model.rows), rtol=0, atol=ATOL
    )


def test_every_process_of_a_party_can_be_replaced(deployed, small_model):
    """In session, in reserve and standing by, killed together; then those of another while it recovers."""
    deployed.wait_ready()
    for party in ("helper", "model-owner"):
        killed = _processes_of(party)
        for process in killed:
            process.kill()
        deployed.wait_until(lambda: _all_gone({str(p.pid): p.pid for p in killed}), NOTICED_S)  # noqa: B023
    deployed.wait_ready()
    np.testing.assert_allclose(
        deployed.predict(small_model.rows), small_model.expected(small_model.rows), rtol=0, atol=ATOL
    )


@pytest.mark.parametrize("late_s", [0.0, 0.4])
def test_a_process_that_is_stopped_while_it_gets_ready_is_replaced(deployed, late_s):
    """It says nothing for a long time then, which is no reason to believe that it does anything."""
    deployed.wait_ready()
    deployed.wait_until(lambda: len(_processes_of("helper")) == 3, 60)
    before = {process.pid for process in _processes_of("helper")}
    max(_processes_of("helper"), key=psutil.Process.create_time).kill()
    deployed.wait_until(lambda: {p.pid for p in _processes_of("helper")} - before, 60)
    time.sleep(late_s)
    young = max(_processes_of("helper"), key=psutil.Process.create_time)
    os.kill(young.pid, signal.SIGSTOP)
    deployed.wait_until(lambda: not psutil.pid_exists(young.pid), NOTICED_S)
    deployed.wait_until(lambda: len(_processes_of("helper")) == 3, 60)
    deployed.wait_ready()


def test_stopping_leaves_no_process_and_no_port(deployed, small_model):
    """Requests in flight end, every child is gone, every port can be bound again. It comes last."""
    deployed.wait_ready()
    in_session = set(deployed.processes.values())
    started = [process for process, command in _commands().items() if "secure_runner.party" in command]
    assert in_session <= {child.pid for child in started}
    in_flight = deployed.submit(np.tile(small_model.rows, (8, 1)))
    deployed.stop()
    assert in_flight.done()
    assert isinstance(in_flight.exception(), (UnavailableError, type(None)))
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive
    cluster = deployed.deployment.cluster
    for party in cluster.parties.values():
        for port in range(party.port, party.port + cluster.port_count):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
