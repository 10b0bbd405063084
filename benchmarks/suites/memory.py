"""What a large model takes in memory: in the build, and in each party's process.

Twenty-five million float32 weights, 100 MB as a file. Nothing but the weights is large, so what is above the
same process with a small model is what they take.
"""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import NamedMlp, mlp
from benchmarks.records import Record
from benchmarks.workbench import Workbench
from secure_runner.protocols import ProtocolName

__all__ = ["run"]

SUITE = "memory"
_LARGE = (2048, (4096, 4096, 1))
_SMALLER = (512, (1024, 1024, 1))
"""With ``--quick``: 6 MB."""
_SMALL = (30, (64, 32, 1))
_LADDER = (1, 8)


def run(bench: Workbench) -> Iterator[Record]:
    """``memory_build`` and, for each party, ``memory_party`` and its peak, in bytes a byte of weights."""
    large, small = mlp(*(_SMALLER if bench.quick else _LARGE)), mlp(*_SMALL)
    size = sum(weight.nbytes for weight in large.weights)
    yield from _builds(large, small, size)
    for name in bench.protocols:
        before = asyncio.run(_parties(bench, small, name))
        after = asyncio.run(_parties(bench, large, name))
        for party, (resident, peak, ready_s) in after.items():
            for measure, found, base in (("", resident, before[party][0]), ("_peak", peak, before[party][1])):
                yield Record.of(
                    f"memory_party{measure}",
                    suite=SUITE,
                    protocol=name,
                    batch=1,
                    value=(found - base) / size,
                    unit="B/B of weights",
                    n=1,
                    party=party,
                    megabytes=round(found / 1e6),
                    weights_megabytes=round(size / 1e6),
                    small_model_megabytes=round(base / 1e6),
                    ladder=list(_LADDER),
                    ready_s=round(ready_s, 1),
                )


def _builds(large: NamedMlp, small: NamedMlp, size: int) -> Iterator[Record]:
    base, peak = (_in_process(_build, model) for model in (small, large))
    for index, where in enumerate(("the process that builds", "the largest of its child processes")):
        yield Record.of(
            "memory_build_peak",
            suite=SUITE,
            protocol="plain",
            batch=1,
            value=(peak[index] - base[index]) / size,
            unit="B/B of weights",
            n=1,
            where=where,
            megabytes=round(peak[index] / 1e6),
            weights_megabytes=round(size / 1e6),
            small_model_megabytes=round(base[index] / 1e6),
            build_s=round(peak[2], 1),
            small_model_build_s=round(base[2], 1),
        )


def _in_process(function: Any, model: NamedMlp) -> Any:
    """In a process of its own, whose peak is its own."""
    shape = tuple(int(text) for text in model.name.split("-")[1:])
    with mp.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (shape[0], shape[1:]))


def _build(features: int, widths: tuple[int, ...]) -> tuple[int, int, float]:
    """Peak bytes of this process and of its largest child, and seconds, of converting and building."""
    from secure_runner.programs.build import build_program

    model = mlp(features, widths).converted
    started = time.monotonic()
    build_program("memory", model, protocol="semi2k", batch_sizes=_LADDER)
    took_s = time.monotonic() - started
    own, children = (
        resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own, children, took_s


async def _parties(
    bench: Workbench, model: NamedMlp, name: ProtocolName
) -> dict[str, tuple[int, int, float]]:
    """Party → bytes resident after a right answer, their peak, and seconds to ready."""
    from secure_runner import save_model

    tag = save_model(
        f"memory-{model.name}-{name}", model.converted, protocol=name, batch_sizes=_LADDER
    ).program
    started = time.monotonic()
    async with bench.deployment(tag) as deployment:
        ready_s = time.monotonic() - started
        outputs = await deployment.predict(
            {model.converted.inputs[0].name: model.rows[:1]}, client="memory", deadline_s=120
        )
        np.testing.assert_allclose(next(iter(outputs.values())), model.expected[:1], atol=2e-2)
        processes: dict[str, int] = deployment.status()["lanes"][0]["processes"]
        return {party: (*_memory(pid), ready_s) for party, pid in processes.items()}


def _memory(pid: int) -> tuple[int, int]:
    """Bytes resident now, and at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return resident, peak
