"""``make chaos``: kill, freeze, cut off and restart what serves, under load, and count what clients see.

``CHAOS_ARGS="--protocol semi2k --minutes 3 --seed 7 --fault kill --fault freeze"`` for less.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import psutil
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "e2e")]

from chaos import report  # noqa: E402
from chaos.campaign import Outcome, beset, load_on  # noqa: E402
from chaos.faults import FAULTS, Host, chosen_faults, loopback_of  # noqa: E402
from chaos.soak import Trend, soak  # noqa: E402
from chaos.target import Target  # noqa: E402
from organisations import Network, can_make_hosts  # noqa: E402

from benchmarks.models import NamedMlp, mlp  # noqa: E402
from benchmarks.records import RESULTS, write_records  # noqa: E402
from benchmarks.workbench import PROTOCOL_NAMES, Workbench  # noqa: E402

console = Console(width=170)

_SOAK_REQUESTS = 60_000
_LEAST_FAULTS = 12
"""Of each protocol, embedded, however short the time."""
_SHARES = {"embedded": 0.41, "organisations": 0.18, "soak": 0.41}
"""Of the minutes."""


@dataclass(frozen=True)
class Place:
    """Where servers run, and where their clients do."""

    server: list[str]
    client: list[str]
    address: str
    host: Host


@click.command(help=__doc__)
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(PROTOCOL_NAMES))
@click.option("--minutes", default=11.0, help="For faults and soak; builds and starts come on top.")
@click.option("--seed", default=None, type=int, help="Of moments and victims; new by default.")
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="All by default.")
@click.option("--clients", default=16)
@click.option("--deadline", "deadline_s", default=20.0, help="Of each request, in seconds.")
@click.option("--only", type=click.Choice(list(_SHARES)), default=None, help="This part alone.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "chaos.json")
def main(
    protocols: tuple[str, ...],
    minutes: float,
    seed: int | None,
    faults: tuple[str, ...],
    clients: int,
    deadline_s: float,
    only: str | None,
    results: Path,
) -> None:
    """Run everything, print, write records."""
    # A run that is told to stop leaves no server and no host behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: told to stop"))
    began_s = time.monotonic()
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    load_before = os.getloadavg()[0]
    parts = [only] if only else list(_SHARES)
    seconds = {part: 60 * minutes * (1.0 if only else _SHARES[part]) for part in parts}
    console.print(f"seed {seed}, {minutes:g} minutes, load of this machine before: {load_before:.1f}")
    outcomes: list[Outcome] = []
    trends: list[Trend] = []
    with tempfile.TemporaryDirectory(prefix="secure-runner-chaos-") as directory, place() as where:
        bench, model = Workbench(Path(directory), quick=True), mlp()
        run = Run(bench, model, where, seed, clients, deadline_s)
        chosen = list(protocols) or list(PROTOCOL_NAMES)
        if "embedded" in parts:
            for protocol in chosen:
                left_s = seconds["embedded"] / len(chosen)
                outcomes.append(run.embedded(protocol, list(faults) or list(FAULTS), left_s))
        if "soak" in parts:
            for protocol in chosen:
                outcome, found = run.soak(protocol, seconds["soak"] / len(chosen))
                outcomes.append(outcome)
                trends += found
        if "organisations" in parts:
            outcomes += run.organisations(chosen, seconds["organisations"])
    console.print(report.recoveries_table(outcomes))
    if trends:
        console.print(report.trends_table(trends))
    console.print(report.outcomes_table(outcomes, trends))
    records = report.records(outcomes, trends, seed=seed, load_before=load_before, clients=clients)
    write_records(results, records)
    for record in records:
        if record.name.endswith(("recovery_all_p95_s", "recovery_mix_p95_s")) and record.value is not None:
            console.print(f"{record.name}: {record.value:.1f}, n {record.n}")
    console.print(f"{(time.monotonic() - began_s) / 60:.1f} minutes in all")
    finish(outcomes, trends)


def finish(outcomes: list[Outcome], trends: list[Trend]) -> None:
    """The last line, and the exit status."""
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    problems += [f"soak {trend.protocol}: {trend.role} is not flat" for trend in trends if not trend.flat]
    if problems:
        raise SystemExit("chaos: FAILED\n  " + "\n  ".join(problems))
    right = sum(outcome.counts["right"] for outcome in outcomes)
    faults = sum(len(outcome.recoveries) for outcome in outcomes)
    console.print(f"chaos: OK, {faults} faults, {right} right answers, 0 wrong, 0 hangs, 0 orphans")


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """A host for servers and one for clients, as root; this machine otherwise."""
    if not can_make_hosts():
        yield Place([], [], "127.0.0.1", Host())
        return
    with Network() as network:
        network.add_host("server", "10.77.0.10")
        network.add_host("clients", "10.77.0.11")
        server, client = network.command("server"), network.command("clients")
        yield Place(server, client, network.hosts["server"], Host(loopback_of(server)))


@dataclass(frozen=True)
class Run:
    """What all parts share."""

    bench: Workbench
    model: NamedMlp
    place: Place
    seed: int
    clients: int
    deadline_s: float

    def embedded(self, protocol: str, faults: list[str], seconds: float) -> Outcome:
        """Faults on an embedded Bento of one protocol."""
        outcome = Outcome(f"embedded {protocol}", protocol)
        chosen = random.Random(f"{self.seed}-{protocol}")
        with self._served(protocol, outcome) as (target, load):
            console.print(f"{outcome.name}: {self.clients} clients, {seconds:.0f} s of faults")
            beset(
                target,
                load,
                outcome,
                faults=chosen_faults(faults, protocol, self.place.host),
                host=self.place.host,
                chosen=chosen,
                seconds=seconds,
                at_least=_LEAST_FAULTS,
                say=console.print,
            )
        return outcome

    def soak(self, protocol: str, seconds: float) -> tuple[Outcome, list[Trend]]:
        """No fault; memory and file descriptors."""
        outcome = Outcome(f"soak {protocol}", protocol)
        with self._served(protocol, outcome) as (target, load):
            console.print(f"{outcome.name}: up to {_SOAK_REQUESTS} requests or {seconds:.0f} s")
            trends = soak(target, load, protocol, requests=_SOAK_REQUESTS, seconds=seconds, say=console.print)
        return outcome, trends

    def organisations(self, protocols: list[str], seconds: float) -> list[Outcome]:
        """Organisations on hosts of their own."""
        if not can_make_hosts():
            console.print("organisations: skipped, needs root and iproute2 to make hosts")
            return []
        from chaos.two_hosts import run

        options = {"seed": self.seed, "seconds": seconds / len(protocols), "clients": self.clients}
        return [run(self.bench.home, protocol, **options, say=console.print) for protocol in protocols]

    @contextlib.contextmanager
    def _served(self, protocol: str, outcome: Outcome) -> Iterator[tuple[Target, object]]:
        bento = self.bench.bento(self.model, protocol, (1, 8, 32))
        started_s = time.monotonic()
        target = Target(
            bento,
            os.environ,
            self.bench.home / f"{outcome.name}.log",
            prefix=self.place.server,
            address=self.place.address,
        )
        options = {"clients": self.clients, "deadline_s": self.deadline_s, "prefix": self.place.client}
        try:
            with load_on(target.url, self.model, self.bench.home, **options) as load:
                console.print(f"{outcome.name}: serving after {time.monotonic() - started_s:.0f} s")
                yield target, load
                outcome.counts = load.counts()
            outcome.counts = load.counts()
        finally:
            with contextlib.suppress(psutil.Error):
                outcome.leftovers = target.stop()


if __name__ == "__main__":
    main()
