"""Organisations on hosts of their own: one's whole server killed and restarted, one's line cut."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from chaos.campaign import Outcome, Recovery
from chaos.clients import Job, Load
from chaos.target import Leftovers, marked_processes, name_of
from deploy_page import Followed
from organisations import Network

__all__ = ["run"]

_CUT_S = 4.0
_PAUSE_S = (3.0, 10.0)
_READY_TIMEOUT_S = 300.0
_RECOVERY_TIMEOUT_S = 150.0
_STOP_TIMEOUT_S = 15.0
"""The page gives requests five seconds; the shell that serves ends at once, what it has started does not."""
_MARK = "HOME"
"""An organisation's processes, whoever their parents are, have its directory as their home."""


def run(
    home: Path, protocol: str, *, seed: int, seconds: float, clients: int, say: Callable[[str], None]
) -> Outcome:
    """Follow docs/deploy.md at all organisations, then trouble them until the time is over."""
    outcome = Outcome(f"organisations {protocol}", protocol)
    chosen = random.Random(f"{seed}-organisations-{protocol}")
    # Not below the run's own directory: BentoML's Unix sockets need short paths.
    with tempfile.TemporaryDirectory(prefix="sr-") as directory, Network() as network:
        followed = Followed.make(protocol, network, Path(directory) / "hosts")
        try:
            followed.follow()
            with Load(
                _job(followed, home, clients), home / "job.json", network.command("application")
            ) as load:
                if load.right_after(0.0, _READY_TIMEOUT_S) is None:
                    log = followed.parties["bob"].log[-2000:]
                    raise RuntimeError(f"no right answer: {dict(load.counts())}\n{log}")
                load.events.clear()
                say(f"{outcome.name}: {clients} clients, {seconds:.0f} s of faults")
                _trouble(followed, load, outcome, chosen, seconds, say)
            outcome.counts = load.counts()
        finally:
            followed.stop()
            outcome.leftovers = _leftovers(followed)
    return outcome


def _job(followed: Followed, home: Path, clients: int) -> Job:
    rows = np.random.default_rng(4).normal(size=(64, 6)).astype(np.float32)
    np.save(home / "rows.npy", rows)
    np.save(home / "expected.npy", followed.plaintext(rows))
    return Job(
        followed.parties["bob"].url,
        str(home / "rows.npy"),
        str(home / "expected.npy"),
        clients,
        headers=followed.authorization,
    )


def _trouble(
    followed: Followed,
    load: Load,
    outcome: Outcome,
    chosen: random.Random,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    faults: dict[str, Callable[[], float]] = {
        f"{name}'s server kill -9, restarted": functools.partial(_restart, followed, name)
        for name in followed.parties
    }
    faults["line down for 4 s"] = lambda: _cut(followed.network, chosen.choice(sorted(followed.parties)))
    began_s = time.monotonic()
    while time.monotonic() - began_s < seconds:
        for name in chosen.sample(sorted(faults), len(faults)):
            if time.monotonic() - began_s > seconds:
                break
            time.sleep(chosen.uniform(*_PAUSE_S))
            cleared_s = faults[name]()
            event = load.right_after(cleared_s, _RECOVERY_TIMEOUT_S)
            after_s = None if event is None else event.answered_s - cleared_s
            outcome.recoveries.append(
                Recovery(
                    name,
                    name,
                    after_s,
                    warm=True,
                    server_worker="restarted" in name,
                    loses_connections=name.startswith("bob"),
                )
            )
            say(
                f"  {name}: "
                + ("no right answer" if after_s is None else f"right again {after_s:.1f} s later")
            )
    outcome.seconds = time.monotonic() - began_s


def _cut(network: Network, host: str) -> float:
    """Take the line of a host down for some seconds; when it was up again."""
    subprocess.run(network.command(host, "ip", "link", "set", "eth0", "down"), check=True)
    time.sleep(_CUT_S)
    subprocess.run(network.command(host, "ip", "link", "set", "eth0", "up"), check=True)
    return time.monotonic()


def _restart(followed: Followed, name: str) -> float:
    """Kill everything of an organisation that serves, and serve again; when that began."""
    server = followed.parties[name].server
    assert server is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    time.sleep(1.0)
    followed.serve(name)
    return time.monotonic()


def _leftovers(followed: Followed) -> Leftovers:
    """What an organisation's processes leave behind, once those that were told to stop have had the time."""
    until = time.monotonic() + _STOP_TIMEOUT_S
    while (orphans := _living(followed)) and time.monotonic() < until:
        time.sleep(0.2)
    ports = []
    for name in followed.everyone:
        command = followed.network.command(name, "ss", "-Htln")
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        ports += [int(line.split()[3].rpartition(":")[2]) for line in lines]
    for process in orphans:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return Leftovers([name_of(process) for process in orphans], ports, graceful=True)


def _living(followed: Followed) -> list[psutil.Process]:
    homes = [str(host.directory) for host in followed.everyone.values()]
    return [process for home in homes for process in marked_processes(_MARK, home)]
