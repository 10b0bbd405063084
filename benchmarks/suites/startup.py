"""From ``bentoml serve`` to ready, and where the time goes."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator

from benchmarks.models import mlp
from benchmarks.records import Record
from benchmarks.workbench import Workbench

__all__ = ["run"]

SUITE = "startup"


def run(bench: Workbench) -> Iterator[Record]:
    """``startup_ready_s`` for each protocol, the median of three starts.

    The data owner's party, started anew, says where it went.
    """
    model = mlp()
    for name in bench.protocols:
        bench.bento(model, name)
        starts = []
        for _ in range(bench.scale(3, 1)):
            with bench.serve(model, name) as served:
                starts.append(served.ready_s)
        ready_s = statistics.median(starts)
        stages = asyncio.run(_stages(bench, f"{model.name}-{name}:latest"))
        yield Record.of(
            "startup_ready_s",
            suite=SUITE,
            protocol=name,
            batch=0,
            value=ready_s,
            unit="s",
            n=len(starts),
            stages_s=stages | {"bentoml": round(max(0.0, ready_s - sum(stages.values())), 2)},
        )


async def _stages(bench: Workbench, tag: str) -> dict[str, float]:
    async with bench.deployment(tag) as deployment:
        (lane,) = deployment.status()["lanes"]
        stages: dict[str, float] = lane["stages_s"]["data-owner"]
        return stages
