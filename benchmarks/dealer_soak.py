"""A dealer that serves for long: every answer checked, and its memory watched."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import psutil

from benchmarks.adjusting_party import AdjustingParty, check_answer, seal
from benchmarks.dealt_parties import register
from secure_runner.dealer import DealerConfig, DealerLimits, DealerProcess, Transcript
from secure_runner.dealer.steps import Step

__all__ = ["soak"]

# Nobody asks after the job here.
_UNWATCHED = DealerConfig(limits=DealerLimits(lease_s=24 * 3600))
_WARM_UP_REQUESTS = 5_000


def soak(requests: int, *, within_s: float = math.inf) -> dict[str, Any]:
    """Ask for so many corrections of all ten operations, check each, and watch the memory.

    It ends early when the time is over: ``n`` says how many were asked for. ``value`` is the growth of the
    dealer's resident memory in MiB since the first few thousand requests.

    Raises:
        AssertionError: a correction is wrong.
    """
    steps = [
        Step("Mul", 8, (64,)),
        Step("MulPriv", 8, (64,)),
        Step("Square", 8, (64,)),
        Step("Dot", 8, (4, 8, 16)),
        Step("And", 16, (32,)),
        Step("Trunc", 8, (64, 18)),
        Step("TruncPr", 8, (64, 18)),
        Step("RandBit", 8, (64,)),
        Step("Eqz", 8, (64,)),
        Step("Perm", 8, (16, 1)),
    ]
    with DealerProcess(_UNWATCHED) as dealer:
        (grant, _) = register(dealer.address, dealer.public_key, "soak", Transcript.of(steps))
        seeds = [os.urandom(16), os.urandom(16)]
        party = AdjustingParty(dealer.address, [seal(grant.public_key, seed) for seed in seeds])
        memory = psutil.Process(dealer.pid).memory_info
        warm_bytes, start_s = 0, time.perf_counter()
        for index in range(requests):
            if time.perf_counter() - start_s > within_s:
                requests = index
                break
            step, counter = steps[index % len(steps)], party.counter
            check_answer(step, seeds, counter, party.ask(step))
            if index == min(_WARM_UP_REQUESTS, requests // 2):
                warm_bytes = memory().rss
        growth_mib = (memory().rss - warm_bytes) / 2**20
        party.close()
    return {
        "name": "dealer_soak_growth",
        "protocol": "semi2k",
        "batch": 1,
        "value": round(growth_mib, 2),
        "unit": "MiB",
        "baseline": round(warm_bytes / 2**20, 1),
        "ratio": round(1 + growth_mib * 2**20 / warm_bytes, 4),
        "n": requests,
        "requests_per_s": round(requests / (time.perf_counter() - start_s)),
    }
