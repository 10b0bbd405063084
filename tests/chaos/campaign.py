"""Faults at random moments under load, and what was seen meanwhile."""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from chaos.clients import CLEAN, Job, Load
from chaos.faults import FAULTS, Blow, Host
from chaos.target import Leftovers, Target

from benchmarks.models import NamedMlp

__all__ = ["Outcome", "Recovery", "beset", "load_on"]

_READY_TIMEOUT_S = 300.0
_RECOVERY_TIMEOUT_S = 90.0
_PAUSE_S = (2.0, 12.0)


@dataclass(frozen=True)
class Recovery:
    """One fault and its end."""

    fault: str
    victim: str
    after_s: float | None
    """From the fault, or the end of a cut, to the first right answer to a request sent later, if any."""
    warm: bool
    """Whether standby processes had finished their imports when the fault came."""
    server_worker: bool = False
    """Whether the victim was a worker of the server: counted apart too."""
    loses_connections: bool = False
    """Whether it killed the process that clients are connected to."""


@dataclass
class Outcome:
    """What one campaign showed."""

    name: str
    protocol: str
    counts: Counter[str] = field(default_factory=Counter)
    recoveries: list[Recovery] = field(default_factory=list)
    leftovers: Leftovers | None = None
    seconds: float = 0.0

    @property
    def other(self) -> int:
        """Requests that ended in none of the ways that a client is told of."""
        known = ("right", "wrong", "hang", "lost", *CLEAN)
        return sum(count for what, count in self.counts.items() if what not in known)

    def seconds_away(self, *, server_worker: bool | None = None) -> list[float]:
        """Recovery times of faults inside the sessions, of the server's workers, or of both."""
        return [
            recovery.after_s
            for recovery in self.recoveries
            if recovery.after_s is not None and server_worker in (None, recovery.server_worker)
        ]

    @property
    def problems(self) -> list[str]:
        """What must never be."""
        found = []
        for what in ("wrong", "hang"):
            if self.counts[what]:
                found.append(f"{self.name}: {what}: {self.counts[what]}")
        for recovery in self.recoveries:
            if recovery.after_s is None:
                found.append(f"{self.name}: no answer after {recovery.fault} of {recovery.victim}")
        if self.counts["lost"] and not any(recovery.loses_connections for recovery in self.recoveries):
            found.append(
                f"{self.name}: {self.counts['lost']} connections lost, although no server was killed"
            )
        if self.other:
            found.append(f"{self.name}: unforeseen answers: {dict(self.counts)}")
        if not self.counts["right"]:
            found.append(f"{self.name}: no right answer at all")
        if self.leftovers is not None:
            found += [f"{self.name}: orphan {orphan}" for orphan in self.leftovers.orphans]
            found += [f"{self.name}: port {port} still taken" for port in self.leftovers.ports]
        return found


@contextmanager
def load_on(
    url: str, model: NamedMlp, home: Path, *, clients: int, deadline_s: float, prefix: Sequence[str] = ()
) -> Iterator[Load]:
    """Clients' load while the context is open; it opens once the first answer is right.

    Raises:
        RuntimeError: no right answer comes in time.
    """
    np.save(home / "rows.npy", model.rows)
    np.save(home / "expected.npy", model.expected)
    job = Job(url, str(home / "rows.npy"), str(home / "expected.npy"), clients, deadline_s)
    with Load(job, home / "job.json", prefix) as load:
        if load.right_after(0.0, _READY_TIMEOUT_S) is None:
            raise RuntimeError(f"no right answer within {_READY_TIMEOUT_S:.0f} s: {dict(load.counts())}")
        # What came while it was starting is no part of the campaign.
        load.events.clear()
        yield load


def beset(
    target: Target,
    load: Load,
    outcome: Outcome,
    *,
    faults: Sequence[str],
    host: Host,
    chosen: random.Random,
    seconds: float = math.inf,
    at_least: int = 0,
    times: int = sys.maxsize,
    pause_s: tuple[float, float] = _PAUSE_S,
    say: Callable[[str], None],
) -> None:
    """Do faults at random moments, for so long and at least so many; each kind once before any again."""
    began_s = time.monotonic()
    for name in itertools.islice(_in_turn(faults, chosen), times):
        if time.monotonic() - began_s > seconds and len(outcome.recoveries) >= at_least:
            break
        struck = _strike(name, target, host, chosen, pause_s, say)
        if struck is None:
            continue
        blow, warm = struck
        recovery = _recovery(name, blow, warm, load)
        outcome.recoveries.append(recovery)
        say(_line(recovery))
    outcome.seconds += time.monotonic() - began_s


def _strike(
    name: str,
    target: Target,
    host: Host,
    chosen: random.Random,
    pause_s: tuple[float, float],
    say: Callable[[str], None],
) -> tuple[Blow, bool] | None:
    """Do a fault after a pause, once its victim is there: what the one before has ended may still be gone."""
    until = time.monotonic() + _RECOVERY_TIMEOUT_S
    while time.monotonic() < until:
        time.sleep(chosen.uniform(*pause_s))
        target.note_ports()
        warm = target.has_warm_standbys()
        try:
            return FAULTS[name].do(target, host, chosen), warm
        except (psutil.Error, KeyError, IndexError) as error:
            say(f"{name}: its victim was not there ({type(error).__name__})")
    return None


def _in_turn(faults: Sequence[str], chosen: random.Random) -> Iterator[str]:
    while True:
        yield from chosen.sample(list(faults), len(faults))


def _recovery(name: str, blow: Blow, warm: bool, load: Load) -> Recovery:
    event = load.right_after(blow.cleared_s, _RECOVERY_TIMEOUT_S)
    after_s = None if event is None else event.answered_s - blow.cleared_s
    fault = FAULTS[name]
    return Recovery(fault.what, blow.victim, after_s, warm, fault.server_worker, fault.loses_connections)


def _line(recovery: Recovery) -> str:
    took = "no right answer" if recovery.after_s is None else f"right again after {recovery.after_s:.1f} s"
    standby = "" if recovery.warm else ", standby still importing"
    return f"  {recovery.fault} ({recovery.victim}{standby}): {took}"
