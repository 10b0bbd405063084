"""What is done to a served Bento, and how long it is away: one function a fault."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
from chaos.target import Target

__all__ = ["FAULTS", "Blow", "Fault", "Host", "chosen_faults", "loopback_of"]

_FROZEN_S = 8.0
_CUT_S = 3.0


@dataclass(frozen=True)
class Host:
    """How to reach the network of the target's host; None where it cannot be cut."""

    set_loopback: Callable[[str], None] | None = None
    """Sets the host's loopback ``up`` or ``down``: the line between its parties, and not that to clients."""


@dataclass(frozen=True)
class Blow:
    """One fault that was done."""

    victim: str
    began_s: float
    """Monotonic clock."""
    cleared_s: float
    """When nothing outside the service stood in the way of an answer any more; recovery counts from here."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    what: str
    do: Callable[[Target, Host, random.Random], Blow]
    server_worker: bool = False
    """A worker of the server and not a party: this recovery is counted apart too."""
    protocols: tuple[str, ...] = ("aby3", "semi2k", "cheetah")
    needs_root: bool = False
    loses_connections: bool = False
    """Whether it kills the process that clients are connected to."""


def kill_party(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of a party in session."""
    parties = target.in_session()
    name = chosen.choice(sorted(parties))
    return _signal(name, parties[name], signal.SIGKILL)


def kill_standby(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of a standing-by process and, at once, of the party in session."""
    standing_by = target.standing_by()
    if standing_by:
        _signal("standby", chosen.choice(standing_by), signal.SIGKILL)
    return kill_party(target, host, chosen)


def kill_waiting(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of a process that waits: in the session in reserve, or standing by."""
    return _signal("waiting", chosen.choice(target.standing_by()), signal.SIGKILL)


def freeze_waiting(target: Target, host: Host, chosen: random.Random) -> Blow:
    """SIGSTOP of a process that waits and, at once, of a party in session; then SIGCONT."""
    waiting = chosen.choice(target.standing_by())
    _signal("waiting", waiting, signal.SIGSTOP)
    blow = freeze_party(target, host, chosen)
    _signal("waiting", waiting, signal.SIGCONT)
    return blow


def kill_everything_of_a_party(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of every process of one party, at once: in session, in reserve, standing by."""
    role = chosen.choice(sorted(role for role in target.processes() if role.startswith("party ")))
    now_s = time.monotonic()
    for process in target.processes()[role]:
        _signal("", process, signal.SIGKILL)
    return Blow(role.removeprefix("party "), now_s, now_s)


def kill_all_parties(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of every party in session, at once."""
    now_s = time.monotonic()
    for process in target.in_session().values():
        _signal("", process, signal.SIGKILL)
    return Blow("all parties", now_s, now_s)


def kill_dealer(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of the dealer."""
    return _signal("dealer", target.processes()["dealer"][0], signal.SIGKILL)


def kill_runner(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of the worker that looks after the parties."""
    return _signal("runner", target.processes()["runner"][0], signal.SIGKILL)


def kill_service(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of the worker that clients talk to."""
    return _signal("service", target.processes()["service"][0], signal.SIGKILL)


def freeze_party(target: Target, host: Host, chosen: random.Random) -> Blow:
    """SIGSTOP of a party for longer than it may be silent, then SIGCONT."""
    parties = target.in_session()
    name = chosen.choice(sorted(parties))
    return _freeze(name, parties[name])


def freeze_worker(role: str) -> Callable[[Target, Host, random.Random], Blow]:
    """SIGSTOP of the worker that serves, for longer than it may be stopped, then SIGCONT."""

    def freeze(target: Target, host: Host, chosen: random.Random) -> Blow:
        return _freeze(role, target.processes()[role][0])

    return freeze


def kill_worker_standing_by(target: Target, host: Host, chosen: random.Random) -> Blow:
    """``kill -9`` of a worker that stands by."""
    return _signal("worker standing by", chosen.choice(target.workers_standing_by()), signal.SIGKILL)


def freeze_dealer(target: Target, host: Host, chosen: random.Random) -> Blow:
    """SIGSTOP of the dealer, then SIGCONT."""
    return _freeze("dealer", target.processes()["dealer"][0])


def cut(target: Target, host: Host, chosen: random.Random) -> Blow:
    """All connections between the parties cut for some seconds."""
    assert host.set_loopback is not None
    began_s = time.monotonic()
    host.set_loopback("down")
    time.sleep(_CUT_S)
    host.set_loopback("up")
    return Blow("line between the parties", began_s, time.monotonic())


FAULTS: Mapping[str, Fault] = {
    "kill": Fault("kill -9, one party", kill_party),
    "kill-all": Fault("kill -9, all parties", kill_all_parties),
    "kill-standby": Fault("kill -9, standby and party", kill_standby),
    "kill-waiting": Fault("kill -9, a process that waits", kill_waiting),
    "kill-everything": Fault("kill -9, every process of a party", kill_everything_of_a_party),
    "freeze": Fault("SIGSTOP, one party", freeze_party),
    "freeze-waiting": Fault("SIGSTOP, standby and party", freeze_waiting),
    "kill-dealer": Fault("kill -9, dealer", kill_dealer, protocols=("semi2k",)),
    "freeze-dealer": Fault("SIGSTOP, dealer", freeze_dealer, protocols=("semi2k",)),
    "cut": Fault("loopback down for 3 s", cut, needs_root=True),
    "freeze-runner": Fault("SIGSTOP, runner's worker", freeze_worker("runner"), server_worker=True),
    "freeze-service": Fault(
        "SIGSTOP, service's worker", freeze_worker("service"), server_worker=True, loses_connections=True
    ),
    "kill-worker-standby": Fault("kill -9, worker standing by", kill_worker_standing_by, server_worker=True),
    "kill-runner": Fault("kill -9, runner's worker", kill_runner, server_worker=True),
    "kill-service": Fault(
        "kill -9, service's worker", kill_service, server_worker=True, loses_connections=True
    ),
}
"""Name on the command line → fault."""


def chosen_faults(names: list[str], protocol: str, host: Host) -> list[str]:
    """Those of ``names`` that can be done to this protocol here."""
    return [
        name
        for name in names
        if protocol in FAULTS[name].protocols
        and (host.set_loopback is not None or not FAULTS[name].needs_root)
    ]


def _signal(name: str, process: psutil.Process, number: signal.Signals) -> Blow:
    now_s = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    return Blow(name, now_s, now_s)


def _freeze(name: str, process: psutil.Process) -> Blow:
    blow = _signal(name, process, signal.SIGSTOP)
    time.sleep(_FROZEN_S)
    _signal(name, process, signal.SIGCONT)
    return blow


def loopback_of(prefix: list[str]) -> Callable[[str], None]:
    """Sets the loopback of the host that ``prefix`` runs commands on."""

    def set_loopback(state: str) -> None:
        subprocess.run([*prefix, "ip", "link", "set", "lo", state], check=True)

    return set_loopback
