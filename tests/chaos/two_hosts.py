"""Two organisations on hosts of their own: one's whole server killed and restarted, the line cut."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from chaos.campaign import Outcome, Recovery
from chaos.clients import Job, Load
from chaos.target import Leftovers, marked_processes
from organisations import HTTP_PORT, ROOT, Network, Organisation
from test_two_organisations import _ADDRESSES, _BLOCK, follow_page, write_model

__all__ = ["run"]

_CUT_S = 4.0
_PAUSE_S = (3.0, 10.0)
_READY_TIMEOUT_S = 300.0
_RECOVERY_TIMEOUT_S = 150.0
_MARK = "HOME"
"""An organisation's processes, whoever their parents are, have its directory as their home."""


def run(home: Path, *, seed: int, seconds: float, clients: int, say: Callable[[str], None]) -> Outcome:
    """Follow docs/deploy.md at two organisations, then trouble them until the time is over."""
    outcome = Outcome("two organisations", "cheetah")
    chosen = random.Random(f"{seed}-organisations")
    with Network() as network:
        parties = _parties(network, home)
        weights = write_model(parties["alice"].directory / "credit.onnx")
        try:
            follow_page(parties, {name: [] for name in parties})
            with Load(
                _job(parties["bob"], weights, home, clients), home / "job.json", _at_bob(network)
            ) as load:
                if load.right_after(0.0, _READY_TIMEOUT_S) is None:
                    raise RuntimeError(
                        f"no right answer: {dict(load.counts())}\n{parties['bob'].log[-2000:]}"
                    )
                load.events.clear()
                say(f"{outcome.name}: {clients} clients, {seconds:.0f} s of faults")
                _trouble(parties, network, load, outcome, chosen, seconds, say)
            outcome.counts = load.counts()
        finally:
            for party in parties.values():
                party.stop()
            outcome.leftovers = _leftovers(parties, network)
    return outcome


def _parties(network: Network, home: Path) -> dict[str, Organisation]:
    parties = {}
    for name, address in _ADDRESSES.items():
        assert network.add_host(name, mbit_per_s=100) == address
        parties[name] = Organisation(name, network, home / "organisations" / name)
        (parties[name].directory / "secure-runner").symlink_to(ROOT)
    return parties


def _at_bob(network: Network) -> list[str]:
    return network.command("bob")


def _job(bob: Organisation, weights: list[np.ndarray], home: Path, clients: int) -> Job:
    rows = np.random.default_rng(4).normal(size=(64, 6)).astype(np.float32)
    np.save(home / "rows.npy", rows)
    np.save(home / "expected.npy", np.maximum(rows @ weights[0], 0) @ weights[1])
    token = (bob.directory / "token").read_text().strip()
    return Job(
        f"http://{bob.network.hosts['bob']}:{HTTP_PORT}",
        str(home / "rows.npy"),
        str(home / "expected.npy"),
        clients,
        headers={"authorization": f"Bearer {token}"},
    )


def _trouble(
    parties: dict[str, Organisation],
    network: Network,
    load: Load,
    outcome: Outcome,
    chosen: random.Random,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    faults = {
        "line down for 4 s": lambda: _cut(network, chosen.choice(sorted(parties))),
        "alice's server kill -9, restarted": lambda: _restart(parties["alice"]),
        "bob's server kill -9, restarted": lambda: _restart(parties["bob"]),
    }
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


def _restart(organisation: Organisation) -> float:
    """Kill everything of an organisation that serves, and serve again; when that began."""
    assert organisation.server is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(organisation.server.pid, signal.SIGKILL)
    organisation.server.wait()
    time.sleep(1.0)
    organisation.serve_script(_serving_block(organisation.name))
    return time.monotonic()


def _serving_block(name: str) -> str:
    blocks = _BLOCK.finditer((ROOT / "docs/deploy.md").read_text())
    return next(block["body"] for block in blocks if block["head"] == f"# {name}, keeps running")


def _leftovers(parties: dict[str, Organisation], network: Network) -> Leftovers:
    time.sleep(1.0)
    orphans = [p for party in parties.values() for p in marked_processes(_MARK, str(party.directory))]
    ports = []
    for name in parties:
        command = network.command(name, "ss", "-Htln")
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        ports += [int(line.split()[3].rpartition(":")[2]) for line in lines]
    for process in orphans:
        process.kill()
    return Leftovers([str(process) for process in orphans], ports, graceful=True)
