"""One row over HTTP against bare SPU and against SecretFlow's own path; one client against 64.

Everything is up at the same time and takes turns, so that what the machine does beside hits all alike.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.dealt_parties import SEMI2K, configs, record, register
from benchmarks.load import LoadResult
from benchmarks.models import NamedMlp, mlp, private_function
from benchmarks.records import Record
from benchmarks.secretflow_parties import SecretFlowParties
from benchmarks.spu_parties import SpuParties, compile_function
from benchmarks.workbench import Served, Workbench
from secure_runner.dealer import DealerConfig, DealerLimits, DealerProcess
from secure_runner.programs.estimate import estimate
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import ProtocolName, protocol
from secure_runner.spu_config import runtime_config_dict

__all__ = ["run"]

SUITE = "http"
_CLIENTS = 64
# Nobody watches the jobs here.
_LEASE_S = 3600.0


def run(bench: Workbench) -> Iterator[Record]:
    """All protocols, one after the other."""
    model = mlp()
    for name in bench.protocols:
        yield from _protocol(bench, model, name)


@dataclass
class _Turns:
    """Ways to answer one row, measured in turns."""

    ways: Mapping[str, Callable[[int], list[float]]]
    """Way to a function that answers so often and returns milliseconds."""
    times_ms: dict[str, list[float]] = field(default_factory=dict)

    def take(self, rounds: int, runs: int) -> None:
        """Measure; the first round warms up and does not count."""
        for index in range(rounds + 1):
            for way, answer in self.ways.items():
                times = answer(runs if index else 2)
                if index:
                    self.times_ms.setdefault(way, []).extend(times)

    def median(self, way: str) -> float:
        """Milliseconds."""
        return statistics.median(self.times_ms[way])


def _protocol(bench: Workbench, model: NamedMlp, name: ProtocolName) -> Iterator[Record]:
    rounds, runs = bench.scale(8, 3), bench.scale(8, 4)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(bench.serve(model, name))
        secretflow = stack.enter_context(SecretFlowParties(name, bench.home / f"secretflow-{name}.log"))
        turns = _Turns(
            {
                "unmodified": stack.enter_context(_unmodified(model, name)),
                "rewritten": stack.enter_context(_rewritten(model, name)),
                "http": lambda times: served.load.run(clients=1, requests=times).latencies_ms,
                "secretflow": secretflow.run,
            }
        )
        turns.take(rounds, runs)
        yield from _one_row(turns, name, rounds * runs)
        secretflow.__exit__(None, None, None)
        # With cheetah, a session learns in 1,300 rows how long a stock of oblivious transfers lasts.
        served.load.run(clients=_CLIENTS, requests=bench.scale(25, 2))
        yield from _many_clients(served, name, bench.scale(4, 2), bench.scale(10, 5))


def _one_row(turns: _Turns, name: ProtocolName, n: int) -> Iterator[Record]:
    http, unmodified = turns.median("http"), turns.median("unmodified")
    rewritten, secretflow = turns.median("rewritten"), turns.median("secretflow")
    common: dict[str, Any] = {"suite": SUITE, "protocol": name, "batch": 1, "n": n}
    yield Record.of(
        "http_over_raw",
        **common,
        value=http,
        unit="ms",
        baseline=unmodified,
        against="bare SPU runtime, unmodified network, SPU's default settings"
        + (", randomness from rank 0 (insecure)" if name == "semi2k" else ""),
        p90=float(np.percentile(turns.times_ms["http"], 90)),
    )
    yield Record.of(
        "http_overhead_ms",
        **common,
        value=http - rewritten,
        unit="ms",
        http_ms=round(http, 2),
        runtime_ms=round(rewritten, 2),
        against="bare SPU runtime on the rewritten program, settings and link as served; run alone",
    )
    yield Record.of(
        "sf_spu_over_http",
        **common,
        value=secretflow,
        unit="ms",
        baseline=http,
        against="this project over HTTP; SecretFlow: same rewritten program, its own default settings"
        + (", randomness from rank 0 (insecure)" if name == "semi2k" else ""),
    )


def _many_clients(served: Served, name: ProtocolName, rounds: int, requests: int) -> Iterator[Record]:
    one, many, many_cpu_s = LoadResult(), LoadResult(), 0.0
    for _ in range(rounds):
        for total, clients, each in ((one, 1, 3 * requests), (many, _CLIENTS, requests)):
            before_s = served.cpu_s()
            part = served.load.run(clients=clients, requests=each)
            many_cpu_s += served.cpu_s() - before_s if clients == _CLIENTS else 0.0
            total.latencies_ms += part.latencies_ms
            total.wall_s += part.wall_s
            total.failed += part.failed
    common: dict[str, Any] = {"suite": SUITE, "protocol": name, "batch": 1, "n": len(many.latencies_ms)}
    yield Record.of(
        "throughput_64_over_1",
        **common,
        value=many.per_second,
        unit="rows/s",
        baseline=one.per_second,
        failed=many.failed,
        # Of all processes, clients included: with these cores, no more rows a second than cores / this.
        cpu_ms_a_row=round(1000 * many_cpu_s / len(many.latencies_ms), 3),
        cores_busy=round(many_cpu_s / many.wall_s, 2),
    )
    yield Record.of(
        "p99_64_over_p50_1",
        **common,
        value=many.percentile(99),
        unit="ms",
        baseline=one.percentile(50),
        p50_64=round(many.percentile(50), 2),
    )


@contextlib.contextmanager
def _unmodified(model: NamedMlp, name: ProtocolName) -> Iterator[Callable[[int], list[float]]]:
    """Bare parties with SPU's default settings, sigmoid inside."""
    config = {"protocol": protocol(name).spu_name, "field": "FM64", "fxp_fraction_bits": 18}
    inputs = [model.rows[:1], *model.weights]
    compiled = compile_function(model.unmodified, *inputs)
    with SpuParties(len(protocol(name).roles)) as parties:
        parties.open("unmodified", [config] * len(parties.processes))
        yield lambda times: parties.run("unmodified", compiled, inputs, config, times=times)[1]


@contextlib.contextmanager
def _rewritten(model: NamedMlp, name: ProtocolName) -> Iterator[Callable[[int], list[float]]]:
    """Bare parties with the program, the settings, the link options and the dealer that are served."""
    function, weights = private_function(model.converted)
    inputs = [model.rows[:1], *weights]
    compiled = compile_function(function, *inputs)
    packed = estimate(model.converted, protocol=name).packed_products
    config = runtime_config_dict(name, NumericSpec(), insecure=True, packed_products=packed)
    with contextlib.ExitStack() as stack:
        parties = stack.enter_context(
            SpuParties(
                len(protocol(name).roles), without_sequence_ids=protocol(name).link_without_sequence_ids
            )
        )
        own = [config] * len(parties.processes)
        if name == "semi2k":
            dealer = stack.enter_context(DealerProcess(DealerConfig(limits=DealerLimits(lease_s=_LEASE_S))))
            transcript = record(compiled, inputs, SEMI2K)
            own = configs(
                dealer.address,
                register(dealer.address, dealer.public_key, "rewritten", transcript),
                SEMI2K,
            )
        parties.open("rewritten", own)
        # The data owner's rank is 1, the model owner's 0.
        owners = [1, *[0] * len(weights)] if protocol(name).inputs_stay_with_owner else None
        yield lambda times: parties.run("rewritten", compiled, inputs, config, times=times, owners=owners)[1]
