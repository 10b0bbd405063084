"""Where a correction's time goes: CPU time of a run at each process, with and without the relay.

``python -m benchmarks.dealer_profile`` runs the first network by turns in three ways: SPU's client asks the
dealer itself (``direct``), through the relay in its process as served (``relayed``), and TrustedFirstParty.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import psutil

from benchmarks.dealer_models import dealt_models
from benchmarks.dealt_parties import SEMI2K, configs, record, register, relayed
from benchmarks.spu_parties import SpuParties, compile_function
from secure_runner.dealer import DealerConfig, DealerLimits, DealerProcess

__all__ = ["profile"]

_ROUNDS = 6
_RUNS_A_ROUND = 20
_TFP: dict[str, Any] = {**SEMI2K, "beaver_type": "TrustedFirstParty"}


def profile() -> list[dict[str, Any]]:
    """For each way: the median of ``Runtime.run`` and the CPU time of a run at each process, in ms."""
    model = dealt_models()[0]
    compiled = compile_function(model.function, *model.inputs)
    transcript = record(compiled, model.inputs, SEMI2K, adjust_rank=0)
    ways = {"direct": SEMI2K, "relayed": SEMI2K, "tfp": _TFP}
    times: dict[str, list[float]] = {way: [] for way in ways}
    spent_ms = {way: [0.0, 0.0, 0.0] for way in ways}
    unwatched = DealerConfig(limits=DealerLimits(lease_s=24 * 3600))
    with SpuParties(2) as parties, DealerProcess(unwatched) as dealer:
        for way in ("direct", "relayed"):
            grants = register(dealer.address, dealer.public_key, way, transcript, adjust_rank=0)
            relays = relayed(dealer.address, dealer.public_key, grants[0], transcript)
            parties.open(way, configs(dealer.address, grants, SEMI2K), relays if way == "relayed" else None)
        parties.open("tfp", [_TFP, _TFP])
        processes = [psutil.Process(party.pid) for party in parties.processes] + [psutil.Process(dealer.pid)]
        for round_index in range(_ROUNDS + 1):
            for way, base in ways.items():
                before_ms = [_cpu_ms(process) for process in processes]
                _, durations = parties.run(way, compiled, model.inputs, base, times=_RUNS_A_ROUND)
                if round_index > 0:
                    times[way] += durations
                    for index, process in enumerate(processes):
                        spent_ms[way][index] += _cpu_ms(process) - before_ms[index]
    return [_row(way, times[way], spent_ms[way], len(transcript.steps)) for way in ways]


def _row(way: str, times: list[float], spent_ms: list[float], requests: int) -> dict[str, Any]:
    names = ("adjusting_party_cpu_ms", "other_party_cpu_ms", "dealer_cpu_ms")
    cpu = {name: round(spent / len(times), 2) for name, spent in zip(names, spent_ms, strict=True)}
    return {"way": way, "run_ms": round(statistics.median(times), 2), "requests": requests, **cpu}


def _cpu_ms(process: psutil.Process) -> float:
    used = process.cpu_times()
    return 1000 * (used.user + used.system)


if __name__ == "__main__":
    for row in profile():
        print(json.dumps(row))
