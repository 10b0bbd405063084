"""Organisations on hosts of their own, 0, 10 and 40 ms apart: latency over HTTP, and what lanes bring.

Hosts are network namespaces with 100 Mbit/s each. A relay in a namespace of its own lies between them:
parties reach each other at its addresses. Needs root.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.load import Load
from benchmarks.records import Record
from benchmarks.relay import Line, Relay
from benchmarks.workbench import Workbench
from secure_runner.config import Cluster
from secure_runner.protocols import ProtocolName

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "e2e"))
from deploy_page import Block, Followed
from organisations import Network, can_make_hosts

__all__ = ["run"]

SUITE = "network"
_WIDTHS = (30, 64, 32, 1)
_ROUND_TRIPS_MS = (0, 10, 40)
_LANES = (1, 2, 4, 8)
_LANES_PROTOCOL: ProtocolName = "semi2k"
"""Many rounds and little computing: what lanes are for."""
_LARGEST_BATCH = 32
"""Of the ladder here; that of docs/deploy.md ends at 8."""
_CLIENTS = 64
_CROWD_MS = 10
"""Round trip at which 64 clients are compared with one: there lines, and not cores, set the pace."""
_CROWD_LANES = 2
"""With which they are compared once more."""
_FIRST_PUBLIC_PORT = 30_000
_QUIET_S = 90.0


def run(bench: Workbench) -> Iterator[Record]:
    """``network_http`` for each protocol and distance; 64 clients, with two lanes too; ``network_lanes``."""
    if not can_make_hosts():
        yield Record.of(
            "network_http",
            suite=SUITE,
            protocol="plain",
            batch=1,
            value=None,
            unit="ms",
            n=0,
            skipped="no root",
        )
        return
    for name in bench.protocols:
        with _organisations(name) as far:
            far.followed.follow()
            with far.clients() as load:
                yield from _latencies(bench, far, load)
                yield from _crowd(bench, far, load)
            far.restart(_CROWD_LANES)
            with far.clients() as load:
                yield from _crowd(bench, far, load, lanes=_CROWD_LANES)
            if name == _LANES_PROTOCOL:
                yield from _lanes(bench, far)


@dataclass
class _Far:
    """Organisations with the relay between them."""

    followed: Followed
    relay: Relay
    directory: Path

    @contextmanager
    def clients(self) -> Iterator[Load]:
        """Bob's application: closed loops of clients on its host."""
        rows = np.random.default_rng(3).normal(size=(256, _WIDTHS[0])).astype(np.float32)
        expected = self.followed.plaintext(rows.tolist())
        network, bob = self.followed.network, self.followed.parties["bob"]
        with Load(
            bob.url,
            rows,
            expected,
            self.directory,
            headers=self.followed.authorization,
            prefix=network.command("application"),
        ) as load:
            yield load

    def round_trip_ms(self) -> float:
        """As ``secure-runner doctor`` finds it at Bob's, from him to Alice."""
        exports = "export SECURE_RUNNER_CLUSTER=~/cluster.yaml SECURE_RUNNER_PARTY=bob " + " ".join(
            f"SECURE_RUNNER_TLS_{what}=~/certs/bob.{end}" for what, end in (("CERT", "pem"), ("KEY", "key"))
        )
        pin = "export SECURE_RUNNER_DEALER_KEY=$(cat dealer.pub 2>/dev/null || true)"
        said = self.followed.parties["bob"].script(f"{exports}\n{pin}\nCOLUMNS=200 secure-runner doctor")
        found = re.search(r"round trip ([\d.]+) ms", said)
        assert found is not None, said
        return float(found[1])

    def restart(self, lanes: int) -> None:
        """Serve with that many lanes, once processes that stand by have done their imports."""
        self.followed.stop()
        for party in self.followed.parties.values():
            file = party.directory / "cluster.yaml"
            file.write_text(
                yaml.safe_dump(yaml.safe_load(file.read_text()) | {"lanes": lanes, "reserve": False})
            )
        for name in self.followed.parties:
            self.followed.serve(name)
        self.followed.parties["bob"].wait_until_ready()
        self.wait_until_quiet()

    def wait_until_quiet(self) -> None:
        """Until the servers' processes take next to no processor time, or patience ends."""
        until = time.monotonic() + _QUIET_S
        before = self._processor_s()
        while time.monotonic() < until:
            time.sleep(2)
            now = self._processor_s()
            if 0 <= now - before < 0.3:
                return
            before = now

    def _processor_s(self) -> float:
        servers = [party.server for party in self.followed.parties.values() if party.server is not None]
        found = [p for server in servers for p in psutil.Process(server.pid).children(recursive=True)]
        used = 0.0
        for process in found:
            try:
                used += sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        return used


@contextmanager
def _organisations(protocol: ProtocolName) -> Iterator[_Far]:
    """Hosts and relay; the servers are stopped at the end."""
    # Not below the bench's own directory: Unix sockets need short paths.
    with tempfile.TemporaryDirectory(prefix="sr-") as home, Network() as network:
        directory = Path(home)
        followed = Followed.make(protocol, network, directory, _WIDTHS)
        public = {name: f"10.77.1.{10 + index}" for index, name in enumerate(followed.parties)}
        network.add_router("router", list(public.values()))
        followed.change = lambda block: _changed(block, public)
        largest = 1 + 4 * max(_LANES)
        lines = [
            Line(public[name], _FIRST_PUBLIC_PORT + offset, network.hosts[name], 9000 + offset)
            for name in followed.parties
            for offset in range(largest)
        ]
        with Relay(lines, network.command("router")) as relay:
            try:
                yield _Far(followed, relay, directory)
            finally:
                followed.stop()


def _changed(block: Block, public: dict[str, str]) -> str:
    """The page's blocks for this model, and for parties each behind an address of the relay."""
    if not block.head.endswith("cluster.yaml"):
        body = block.body.replace("--batch-size 8", f"--batch-size 8 --batch-size {_LARGEST_BATCH}")
        return re.sub(r'"inputs": \[\[.*\]\]', f'"inputs": {[[0.0] * _WIDTHS[0]]}', body)
    cluster = yaml.safe_load(block.body)
    for name, party in cluster["parties"].items():
        party |= {"listen_host": party["address"], "listen_port": party["port"]}
        party |= {"address": public[name], "port": _FIRST_PUBLIC_PORT}
    Cluster.model_validate(cluster)
    return yaml.safe_dump(cluster)


def _latencies(bench: Workbench, far: _Far, load: Load) -> Iterator[Record]:
    """p50 of one row at each distance, the program's messages, and how many round trips that is."""
    messages, dealt = _messages(far)
    far.wait_until_quiet()
    nearest = None
    for ms in _ROUND_TRIPS_MS if not bench.quick else _ROUND_TRIPS_MS[1:2]:
        far.relay.set_round_trip(ms / 1000)
        measured_ms = far.round_trip_ms()
        load.run(clients=1, requests=1)
        result = load.run(clients=1, requests=bench.scale(30, 3))
        p50 = statistics.median(result.latencies_ms)
        nearest = p50 if nearest is None else nearest
        # What the distance alone adds, in round trips.
        waited = (p50 - nearest) / ms if ms and p50 > nearest else None
        # Doctor's one look takes longer than the line where cores are busy.
        trip_ms = ms or measured_ms
        yield Record.of(
            "network_http",
            suite=SUITE,
            protocol=far.followed.protocol,
            batch=1,
            value=p50,
            unit="ms",
            baseline=messages * trip_ms,
            n=len(result.latencies_ms),
            against=f"{messages} messages x {trip_ms:g} ms",
            round_trip_ms=trip_ms,
            nominal_ms=ms,
            doctor_ms=measured_ms,
            messages=messages,
            dealer_requests=dealt,
            round_trips_waited=None if waited is None else round(waited, 1),
        )


def _crowd(bench: Workbench, far: _Far, load: Load, **noted: Any) -> Iterator[Record]:
    """Throughput of 64 clients against one, and their p99 against the p50 of one; records hold ``noted``."""
    far.relay.set_round_trip(_CROWD_MS / 1000)
    load.run(clients=_CLIENTS, requests=2)
    one = load.run(clients=1, requests=bench.scale(30, 3))
    many = load.run(clients=_CLIENTS, requests=bench.scale(10, 3))
    common = {"suite": SUITE, "protocol": far.followed.protocol, "batch": 1, "n": len(many.latencies_ms)}
    noted |= {"nominal_ms": _CROWD_MS, "against": f"one client, {_CROWD_MS} ms between the parties"}
    yield Record.of(
        "network_throughput_64_over_1",
        **common,
        value=many.per_second,
        unit="rows/s",
        baseline=one.per_second,
        **noted,
    )
    yield Record.of(
        "network_p99_64_over_p50_1",
        **common,
        value=many.percentile(99),
        unit="ms",
        baseline=one.percentile(50),
        **noted,
    )


def _messages(far: _Far) -> tuple[int, int]:
    """Messages of rank 0 in one run of one row, as estimated, and requests to the dealer, as pinned."""
    from converters import from_onnx
    from secure_runner.programs.estimate import estimate

    alice = far.followed.parties["alice"].directory
    model = from_onnx(str(alice / "credit.onnx"))
    # SPU's own count of a first run has CHEETAH's set-up in it, which a session does once.
    messages = estimate(model, protocol=far.followed.protocol).messages
    transcripts = sorted((alice / "bentoml" / "models" / "credit").glob("*/batch_1.transcript.json"))
    return messages, sum(len(json.loads(file.read_text())["run"]) for file in transcripts)


def _lanes(bench: Workbench, far: _Far) -> Iterator[Record]:
    """Rows a second with full batches at every lane; the ratio is to one lane."""
    alone: dict[int, float] = {}
    for lanes in _LANES if not bench.quick else _LANES[:2]:
        far.restart(lanes)
        with far.clients() as load:
            for ms in _ROUND_TRIPS_MS[1:]:
                far.relay.set_round_trip(ms / 1000)
                rows_per_s, n = _throughput(load, lanes, bench.scale(4, 2))
                alone.setdefault(ms, rows_per_s)
                yield Record.of(
                    "network_lanes",
                    suite=SUITE,
                    protocol=far.followed.protocol,
                    batch=1,
                    value=rows_per_s,
                    unit="rows/s",
                    baseline=alone[ms],
                    n=n,
                    against="one lane",
                    lanes=lanes,
                    nominal_ms=ms,
                )


def _throughput(load: Load, lanes: int, batches: int) -> tuple[float, int]:
    """Two full batches wait for each lane at any time; rows a second, and rows answered."""
    clients = 2 * lanes * _LARGEST_BATCH
    load.run(clients=clients, requests=1)
    result = load.run(clients=clients, requests=batches)
    return result.per_second, len(result.latencies_ms)
